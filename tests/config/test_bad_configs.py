"""Wrong configurations, and every word that is said about them. Nothing is started, and nothing is made."""

# ruff: noqa: E501 - every message stands whole, as it is said

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from orchestrator.cli.recipes import names
from orchestrator.config.convert import key_names
from orchestrator.config.report import listed
from orchestrator.config.schema import WorkerConfig
from orchestrator.core.affinity import ranges
from tests.cli.invoke import Commands


class Bad(NamedTuple):
    """A command line, the recipe ``r.yaml`` if it has one, and the whole answer. ``{tmp}`` is the directory."""

    name: str
    words: list[str]
    recipe: str | None
    says: list[str]


RUN = ["--", "true"]
KEYS = "health, logs, node, nodes, recipe, rendezvous, restart, role, roles, run_id, stop, success, sweep, watchdog, worker"
BAD = [
    # -- keys
    Bad(
        "a typo in a key of the recipe",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart:\n  budgt: {max: 3}\n",
        [
            "restart.budgt: unknown key; did you mean 'budget'? known: backoff, budget, cascade, free, progress, rules, scope [r.yaml:3]",
        ],
    ),
    Bad(
        "a typo in a key of the command line",
        ["restart.budget.mx=5", *RUN],
        None,
        [
            "restart.budget.mx: unknown key; did you mean 'max'? known: max, per_s [override restart.budget.mx=5]",
        ],
    ),
    Bad(
        "a typo at the top",
        ["worke.nproc=2", *RUN],
        None,
        [
            "worke: unknown key; did you mean 'worker'? known: {keys} [override worke.nproc=2]",
        ],
    ),
    Bad(
        "a section that is no choice",
        ["sweep=parallel", *RUN],
        None,
        [
            "sweep: 'parallel' is not a mapping; known: cpus, direction, gpus, jobs, memory_mb, name, objective, on_failure, params, prune, retries [override sweep=parallel]",
        ],
    ),
    Bad(
        "an unknown field of a rule",
        ["restart.rules=[{foo: 1, action: retry}]", *RUN],
        None,
        [
            "restart.rules[0].foo: unknown key; did you mean 'oom'? known: action, backoff, budget, error_types, exit_codes, kinds, max_age_s, message, min_age_s, oom, phase, scope, signals [override restart.rules=[{foo: 1, action: retry}]]",
        ],
    ),
    Bad(
        "a key of no choice",
        ["restart=never", "restart.bugdet.max=3", *RUN],
        None,
        [
            "restart.bugdet: unknown key; did you mean 'budget'? known: backoff, budget, cascade, free, progress, rules, scope [override restart.bugdet.max=3]",
        ],
    ),
    # -- choices
    Bad(
        "a typo in a choice on the command line",
        ["restart=nevr", *RUN],
        None,
        [
            "restart: 'nevr' is not a choice; did you mean 'never'? allowed: always, never, on_failure [override restart=nevr]",
        ],
    ),
    Bad(
        "a typo in a choice of the recipe",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart: nevr\n",
        [
            "restart: 'nevr' is not a choice; did you mean 'never'? allowed: always, never, on_failure [r.yaml:2]",
        ],
    ),
    Bad(
        "a typo in a kind of the recipe",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nlogs:\n  kind: te\n",
        [
            "logs: 'te' is not a choice; did you mean 'tee'? allowed: files, inherit, tee [r.yaml:2]",
        ],
    ),
    Bad(
        "a choice that is a list",
        ["restart=[never,always]", *RUN],
        None,
        [
            "restart: '[never,always]' is not a choice; did you mean 'always'? allowed: always, never, on_failure [override restart=[never,always]]",
        ],
    ),
    Bad(
        "two choices without -m",
        ["restart=never,always", *RUN],
        None,
        [
            "restart: has several values; add -m to sweep over them, or choose one [override restart=never,always]",
        ],
    ),
    Bad(
        "an unknown recipe",
        ["recipe=helo"],
        None,
        [
            "recipe: 'helo' is not found; did you mean 'hello'? known: {recipes}, or a path such as ./mine.yaml [override recipe=helo]",
        ],
    ),
    Bad(
        "a number as a choice",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart: 5\n",
        [
            "restart: 5 is not a choice; allowed: always, never, on_failure [r.yaml:2]",
        ],
    ),
    # -- values
    Bad(
        "no workers",
        ["worker.nproc=0", *RUN],
        None,
        [
            "worker.nproc: 0 is too small; allowed: a whole number from 1 to 65536, cpu, gpu, auto [override worker.nproc=0]",
        ],
    ),
    Bad(
        "a word that is no number of workers",
        ["worker.nproc=gpus", *RUN],
        None,
        [
            "worker.nproc: 'gpus' is not allowed; did you mean 'gpu'? allowed: a whole number from 1 to 65536, cpu, gpu, auto [override worker.nproc=gpus]",
        ],
    ),
    Bad(
        "a boolean for a number",
        ["worker.nproc=true", *RUN],
        None,
        [
            "worker.nproc: true is not allowed; allowed: a whole number from 1 to 65536, cpu, gpu, auto [override worker.nproc=true]",
        ],
    ),
    Bad(
        "half a worker",
        ["worker.nproc=1.5", *RUN],
        None,
        [
            "worker.nproc: 1.5 is not allowed; allowed: a whole number from 1 to 65536, cpu, gpu, auto [override worker.nproc=1.5]",
        ],
    ),
    Bad(
        "a negative duration",
        ["stop.grace_s=-1", *RUN],
        None,
        [
            "stop.grace_s: -1 is negative; allowed: seconds from 0 [override stop.grace_s=-1]",
        ],
    ),
    Bad(
        "a word for a duration",
        ["stop.grace_s=30s", *RUN],
        None,
        [
            "stop.grace_s: '30s' is not a number; allowed: seconds from 0 [override stop.grace_s=30s]",
        ],
    ),
    Bad(
        "an endless duration",
        ["rendezvous.join_timeout_s=inf", *RUN],
        None,
        [
            "rendezvous.join_timeout_s: inf is not a number; allowed: seconds from 0 [override rendezvous.join_timeout_s=inf]",
        ],
    ),
    Bad(
        "a boolean for a duration",
        ["rendezvous.last_call_s=true", *RUN],
        None,
        [
            "rendezvous.last_call_s: true is not a number; allowed: seconds from 0 [override rendezvous.last_call_s=true]",
        ],
    ),
    Bad(
        "no number for a duration",
        ["rendezvous.scale_up_s=nan", *RUN],
        None,
        [
            "rendezvous.scale_up_s: nan is not a number; allowed: seconds from 0 [override rendezvous.scale_up_s=nan]",
        ],
    ),
    Bad(
        "a lease below its least",
        ["rendezvous.lease_s=0.5", *RUN],
        None,
        [
            "rendezvous.lease_s: 0.5 is too small; allowed: seconds from 1 [override rendezvous.lease_s=0.5]",
        ],
    ),
    Bad(
        "a budget below zero",
        ["restart.budget.max=-1", *RUN],
        None,
        [
            "restart.budget.max: -1 is too small; allowed: a whole number from 0 [override restart.budget.max=-1]",
        ],
    ),
    Bad(
        "more nodes at least than at most",
        ["nodes=4:2", "run_id=x", *RUN],
        None,
        [
            "nodes: '4:2' has its minimum above its maximum; allowed: N or MIN:MAX, from 1, as in 2:4 [override nodes=4:2]",
        ],
    ),
    Bad(
        "no nodes",
        ["nodes=0", *RUN],
        None,
        [
            "nodes: 0 is too small; allowed: N or MIN:MAX, from 1, as in 2:4 [override nodes=0]",
        ],
    ),
    Bad(
        "three numbers of nodes",
        ["nodes=1:2:3", *RUN],
        None,
        [
            "nodes: '1:2:3' is not a number of nodes; allowed: N or MIN:MAX, from 1, as in 2:4 [override nodes=1:2:3]",
        ],
    ),
    Bad(
        "a word for nodes",
        ["nodes=many", *RUN],
        None,
        [
            "nodes: 'many' is not a number of nodes; allowed: N or MIN:MAX, from 1, as in 2:4 [override nodes=many]",
        ],
    ),
    Bad(
        "a slash in the run's id",
        ["run_id=../x", *RUN],
        None,
        [
            "run_id: '../x' is not a name; allowed: 1 to 64 of A-Z a-z 0-9 . _ - [override run_id=../x]",
        ],
    ),
    Bad(
        "a directory as the run's id",
        ["run_id=..", *RUN],
        None,
        [
            "run_id: '..' is a directory's name; allowed: a word that is not only dots [override run_id=..]",
        ],
    ),
    Bad(
        "a node's name that is too long",
        [f"node.name={'n' * 65}", *RUN],
        None,
        [
            "node.name: 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn' is not a name; allowed: 1 to 64 of A-Z a-z 0-9 . _ - [override node.name=nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn]",
        ],
    ),
    Bad(
        "a shrinking delay",
        ["restart.backoff.factor=0.5", *RUN],
        None,
        [
            "restart.backoff.factor: 0.5 is too small; allowed: a number from 1 [override restart.backoff.factor=0.5]",
        ],
    ),
    Bad(
        "a jitter of the whole delay",
        ["restart.backoff.jitter=1", *RUN],
        None,
        [
            "restart.backoff.jitter: 1 is too large; allowed: a number from 0 to below 1 [override restart.backoff.jitter=1]",
        ],
    ),
    Bad(
        "an unknown signal",
        ["stop.signal=SIGTREM", *RUN],
        None,
        [
            "stop.signal: 'SIGTREM' is not a signal; did you mean 'TERM'? allowed: a name such as TERM, INT or USR1 [override stop.signal=SIGTREM]",
        ],
    ),
    Bad(
        "a signal by number",
        ["stop.signal=9", *RUN],
        None,
        [
            "stop.signal: 9 is not a signal; did you mean 'KILL'? allowed: a name such as TERM, INT or USR1 [override stop.signal=9]",
        ],
    ),
    Bad(
        "a signal that nobody can catch",
        ["stop.preempt_signals=[USR1,KILL]", *RUN],
        None,
        [
            "stop.preempt_signals[1]: 'KILL' cannot be caught; allowed: any signal but KILL and STOP [override stop.preempt_signals=[USR1,KILL]]",
        ],
    ),
    Bad(
        "an umask that has lost its base",
        ["r.yaml"],
        "worker:\n  cmd: 'true'\n  umask: 022\n",
        [
            "worker.umask: 22 is not octal digits in quotes; allowed: '000' to '777', as in '022' [r.yaml:3]",
        ],
    ),
    Bad(
        "modules that are none, and a way to start that is none",
        ["worker.start=zygot", "worker.preload=[torch, 3, a-b, x.]", *RUN],
        None,
        [
            "worker.start: 'zygot' is not allowed; did you mean 'zygote'? allowed: exec, zygote [override worker.start=zygot]",
            "worker.preload[1]: 3 is not a module's name; allowed: a dotted name, as in torch.nn [override worker.preload=[torch, 3, a-b, x.]]",
            "worker.preload[2]: 'a-b' is not a module's name; allowed: a dotted name, as in torch.nn [override worker.preload=[torch, 3, a-b, x.]]",
            "worker.preload[3]: 'x.' is not a module's name; allowed: a dotted name, as in torch.nn [override worker.preload=[torch, 3, a-b, x.]]",
        ],
    ),
    Bad(
        "limits of all wrong kinds",
        ["r.yaml"],
        "worker:\n  cmd: 'true'\n  limits:\n    nofil: 3\n    core: '8:2'\n    stack: unlimted\n    nproc: 1.5\n    cpu: '1:2:3'\n",
        [
            "worker.limits.nofil: unknown limit; did you mean 'nofile'? known: as, core, cpu, data, fsize, memlock, msgqueue, nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack [r.yaml:4]",
            "worker.limits.core: '8:2' has its soft limit above its hard one; allowed: SOFT up to HARD [r.yaml:5]",
            "worker.limits.stack: 'unlimted' is not a limit; did you mean 'unlimited'? allowed: a number, unlimited, or SOFT:HARD [r.yaml:6]",
            "worker.limits.nproc: 1.5 is not a limit; allowed: a number, unlimited, or SOFT:HARD [r.yaml:7]",
            "worker.limits.cpu: '1:2:3' is not a limit; allowed: a number, unlimited, or SOFT:HARD [r.yaml:8]",
        ],
    ),
    Bad(
        "limits that are none",
        ["worker.limits=65536", *RUN],
        None,
        [
            "worker.limits: 65536 is not a mapping; write name: value, or {} for none [override worker.limits=65536]",
        ],
    ),
    Bad(
        "processors that are not here",
        ["worker.affinity=[0,60000-60003]", *RUN],
        None,
        [
            "worker.affinity: 60000-60003 are not among the processors that this process may use; allowed: {cpus}, numa, spread [override worker.affinity=[0,60000-60003]]",
        ],
    ),
    Bad(
        "a word that is no choice of processors",
        ["worker.affinity=spreed", *RUN],
        None,
        [
            "worker.affinity: 'spreed' is not a choice of processors; did you mean 'spread'? allowed: numa, spread, or processors such as '0-3,8' or [0, 1] [override worker.affinity=spreed]",
        ],
    ),
    Bad(
        "no processors",
        ["worker.affinity=[]", *RUN],
        None,
        [
            "worker.affinity: [] names no processor; allowed: at least one, or null for those that you may use [override worker.affinity=[]]",
        ],
    ),
    Bad(
        "an unknown style of flags",
        ["worker.flags_style=posix", *RUN],
        None,
        [
            "worker.flags_style: 'posix' is not allowed; allowed: gnu, spaced, hydra [override worker.flags_style=posix]",
        ],
    ),
    Bad(
        "a mapping as a flag",
        ["worker.flags.x={a: 1}", *RUN],
        None,
        [
            "worker.flags.x: a mapping is not a single value; allowed: text, a number, true or false; remove it, or write '' for empty [override worker.flags.x={a: 1}]",
        ],
    ),
    Bad(
        "ranks that are none",
        ["logs.console=[0,-1]", *RUN],
        None,
        [
            "logs.console: a list is not a choice of ranks; allowed: all, or a list such as [0, 3] [override logs.console=[0,-1]]",
        ],
    ),
    Bad(
        "stop's newer keys",
        ["stop.dump=maybe", "stop.platform_grace_s=-1", *RUN],
        None,
        [
            "stop.dump: 'maybe' is not allowed; allowed: true, false [override stop.dump=maybe]",
            "stop.platform_grace_s: -1 is negative; allowed: seconds from 0 [override stop.platform_grace_s=-1]",
        ],
    ),
    Bad(
        "what is shown of which stream",
        ["logs.streams={all: nowhere, -1: tee, 0: {stdin: tee}}", "logs.filters={stdout: [3], x: y}", *RUN],
        None,
        [
            "logs.streams.all: 'nowhere' is not allowed; allowed: bare, file, tee [override logs.streams={all: nowhere, -1: tee, 0: {stdin: tee}}]",
            "logs.streams.-1: '-1' is no local rank; allowed: all, or a number from 0 [override logs.streams={all: nowhere, -1: tee, 0: {stdin: tee}}]",
            "logs.streams.0.stdin: unknown key; known: stderr, stdout [override logs.streams={all: nowhere, -1: tee, 0: {stdin: tee}}]",
            "logs.filters.x: unknown key; known: stderr, stdout [override logs.filters={stdout: [3], x: y}]",
            "logs.filters.stdout: a list is not a list of words; write [word, word] [override logs.filters={stdout: [3], x: y}]",
        ],
    ),
    Bad(
        "functions that are none",
        ["r.yaml", "worker.entrypoint=train.py"],
        "worker: {args: 3, kwargs: 4}\n",
        [
            "worker.entrypoint: 'train.py' is not a function's name; allowed: package.module:function [override worker.entrypoint=train.py]",
            "worker.args: 3 is not a list; write [a, b], or [] for none [r.yaml:1]",
            "worker.kwargs: 4 is not a mapping; write name: value, or {} for none [r.yaml:1]",
        ],
    ),
    Bad(
        "a function and a command",
        ["worker.entrypoint=a.b:c", "worker.args=[1]", *RUN],
        None,
        ["worker.entrypoint: is given, and worker.cmd too; set one of them to null [override worker.entrypoint=a.b:c]"],
    ),
    Bad(
        "arguments without a function",
        ["worker.args=[1]", *RUN],
        None,
        [
            "worker.args: is for a function; give worker.entrypoint=package.module:function [override worker.args=[1]]",
        ],
    ),
    Bad(
        "keys that torchrun's flags mean",
        ["worker.macros=all", "worker.virtual_local_rank=0", "stop.relay=1", "rendezvous.password=a b", *RUN],
        None,
        [
            "worker.macros: 'all' is not allowed; allowed: own, torchrun, none [override worker.macros=all]",
            "worker.virtual_local_rank: 0 is not allowed; allowed: true, false [override worker.virtual_local_rank=0]",
            "rendezvous.password: is no password; allowed: 8 to 128 of A-Z a-z 0-9 . _ ~ -, in quotes if all digits [override rendezvous.password=***]",
            "stop.relay: 1 is not allowed; allowed: true, false [override stop.relay=1]",
        ],
    ),
    Bad(
        "limits of logs that are none",
        ["logs.max_bytes=1000", "logs.console_bytes_per_s=1M", *RUN],
        None,
        [
            "logs.max_bytes: 1000 is too small; allowed: a whole number from 65536 [override logs.max_bytes=1000]",
            "logs.console_bytes_per_s: '1M' is not a whole number; allowed: a whole number from 1 [override logs.console_bytes_per_s=1M]",
        ],
    ),
    Bad(
        "no section",
        ["restart.budget=null", *RUN],
        None,
        [
            "restart.budget: null is not a mapping; leave it out, or write {} to change nothing [override restart.budget=null]",
        ],
    ),
    Bad(
        "a number for a section",
        ["worker=3"],
        None,
        [
            "worker: 3 is not a mapping; known: {worker} [override worker=3]",
        ],
    ),
    Bad(
        "a directory that is none",
        ["worker.cwd=nowhere", *RUN],
        None,
        [
            "worker.cwd: '{tmp}/nowhere' is not a directory; make it, or give another [override worker.cwd=nowhere]",
        ],
    ),
    Bad(
        "an unknown level of the log",
        ["LOGLEVEL"],
        None,
        [
            "LOGLEVEL: 'LOUD' is not a level; allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL",
        ],
    ),
    # -- the command
    Bad(
        "no command",
        [],
        None,
        [
            "worker.cmd: is missing; say what to run: orchestrate -- python train.py",
        ],
    ),
    Bad(
        "a command that is not found",
        ["--", "nosuch-program", "x"],
        None,
        [
            "worker.cmd: 'nosuch-program' is not found on the PATH of the workers; install it, give its path, or set worker.env.PATH [the command line after --]",
        ],
    ),
    Bad(
        "a path that is not found",
        ["--", "./nosuch", "x"],
        None,
        [
            "worker.cmd: './nosuch' is not found; a relative path is looked up from worker.cwd [the command line after --]",
        ],
    ),
    Bad(
        "a file that is not executable",
        ["--", "./r.yaml"],
        "{}",
        [
            "worker.cmd: './r.yaml' is not executable; chmod +x it, or name its interpreter first [the command line after --]",
        ],
    ),
    Bad(
        "a file of here that is not on the PATH",
        ["--", "r.yaml"],
        "{}",
        [
            "worker.cmd: 'r.yaml' is not found on the PATH of the workers; write ./r.yaml, or python r.yaml [the command line after --]",
        ],
    ),
    Bad(
        "null in the command",
        ["r.yaml"],
        "worker:\n  cmd:\n  - echo\n  - null\n",
        [
            "worker.cmd[1]: null is no argument; allowed: text, a number, true or false; remove it, or write '' for empty [r.yaml:4]",
        ],
    ),
    Bad(
        "a list in the command",
        ["r.yaml"],
        "worker:\n  cmd: [echo, [a]]\n",
        [
            "worker.cmd[1]: a list is not a single value; allowed: text, a number, true or false; remove it, or write '' for empty [r.yaml:2]",
        ],
    ),
    Bad(
        "open quotes in the command",
        ["r.yaml"],
        "worker:\n  cmd: echo 'a\n",
        [
            'worker.cmd: "echo \'a" cannot be split: no closing quotation; close the quotes [r.yaml:2]',
        ],
    ),
    Bad(
        "nothing behind --",
        ["--"],
        None,
        [
            "worker.cmd: is empty; write the command to run behind -- [the command line after --]",
        ],
    ),
    Bad(
        "a command given twice",
        ["worker.cmd=[ls]", "--", "true"],
        None,
        [
            "worker.cmd: is given twice, as an override and after --; remove one of them [override worker.cmd=[ls]]",
        ],
    ),
    Bad(
        "a value left to the command line",
        ["r.yaml"],
        "worker: {cmd: 'true', env: {LR: '???'}, nproc: '???'}\n",
        [
            "worker.nproc: is left to you; give worker.nproc=VALUE on the command line [r.yaml:1]",
            "worker.env.LR: is left to you; give worker.env.LR=VALUE on the command line [r.yaml:1]",
        ],
    ),
    # -- relations
    Bad(
        "a reset before the longest delay",
        ["restart.backoff.reset_after_s=10", *RUN],
        None,
        [
            "restart.backoff.reset_after_s: 10 is less than restart.backoff.max_s 60; allowed: from 60, or a smaller max_s [override restart.backoff.reset_after_s=10]",
        ],
    ),
    Bad(
        "a budget that never trips",
        ["restart.budget.per_s=5", *RUN],
        None,
        [
            "restart.budget.per_s: 5 can never trip: the delays of 3 restarts take 6.3 s or more; allowed: above 6.3, or null for the whole run, or shorter delays in restart.backoff [override restart.budget.per_s=5]",
        ],
    ),
    Bad(
        "two nodes without a run's id",
        ["nodes=2", "rendezvous.url=redis://h", *RUN],
        None,
        [
            "run_id: is made up on each node, and nodes=2 need one in common; give the same run_id=NAME to every agent of the job",
        ],
    ),
    Bad(
        "two nodes with a server that only this one reaches",
        ["nodes=1:2", "run_id=x", *RUN],
        None,
        [
            "rendezvous: embedded has no address for other nodes, and nodes=1:2 need one; give rendezvous.listen=HOST:PORT, or rendezvous=redis rendezvous.url=redis://HOST:PORT",
        ],
    ),
    Bad(
        "redis without a url",
        ["rendezvous=redis", *RUN],
        None,
        [
            "rendezvous.url: is missing with rendezvous=redis; give rendezvous.url=redis://HOST:PORT",
        ],
    ),
    Bad(
        "a url that is none",
        ["rendezvous.url=localhost:6379", *RUN],
        None,
        [
            "rendezvous.url: 'localhost:6379' is not a Redis URL: it has no ://; allowed: redis://HOST:PORT/DB, rediss://…, unix:///PATH, redis+sentinel://HOST:PORT,…/SERVICE/DB or redis+cluster://HOST:PORT,… [override rendezvous.url=localhost:6379]",
        ],
    ),
    Bad(
        "a port out of range",
        ["rendezvous.url=redis://h:70000", *RUN],
        None,
        [
            "rendezvous.url: 'redis://h:70000' is not a Redis URL: it has no HOST:PORT where one should be (reserved characters in passwords are %XX); allowed: redis://HOST:PORT/DB, rediss://…, unix:///PATH, redis+sentinel://HOST:PORT,…/SERVICE/DB or redis+cluster://HOST:PORT,… [override rendezvous.url=redis://h:70000]",
        ],
    ),
    Bad(
        "an address without a port",
        ["rendezvous.listen=0.0.0.0", *RUN],
        None,
        [
            "rendezvous.listen: '0.0.0.0' is not HOST:PORT; allowed: such as 10.0.0.1:6379 or [::1]:6379 [override rendezvous.listen=0.0.0.0]",
        ],
    ),
    # -- rules
    Bad(
        "a range of codes upside down",
        ["restart.rules=[{exit_codes: ['78-64'], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[0].exit_codes[0]: '78-64' is not an exit code; allowed: 1 to 255, or a range as in '64-78' [override restart.rules=[{exit_codes: ['78-64'], action: fatal}]]",
        ],
    ),
    Bad(
        "a code out of range",
        ["restart.rules=[{exit_codes: [0, 256], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[0].exit_codes[0]: 0 is success, which no rule is asked about; allowed: 1 to 255, or a range as in '64-78' [override restart.rules=[{exit_codes: [0, 256], action: fatal}]]",
            "restart.rules[0].exit_codes[1]: 256 is not an exit code; allowed: 1 to 255, or a range as in '64-78' [override restart.rules=[{exit_codes: [0, 256], action: fatal}]]",
        ],
    ),
    Bad(
        "an unknown kind",
        ["restart.rules=[{kinds: [oops], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[0].kinds[0]: 'oops' is not allowed; allowed: hang, probe, spawn, start_timeout [override restart.rules=[{kinds: [oops], action: fatal}]]",
        ],
    ),
    Bad(
        "a rule for a hang that would be no failure",
        ["restart.rules=[{kinds: [hang], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[0]: can never match: with watchdog=observe a hang is no failure; choose watchdog=heartbeat, sections or timer, or remove it [override restart.rules=[{kinds: [hang], action: fatal}]]",
        ],
    ),
    # -- watchdog
    Bad(
        "an unknown watchdog",
        ["watchdog=heartbeet", *RUN],
        None,
        [
            "watchdog: 'heartbeet' is not a choice; did you mean 'heartbeat'? allowed: disabled, heartbeat, observe, sections, timer [override watchdog=heartbeet]",
        ],
    ),
    Bad(
        "a limit that no worker can hold",
        ["watchdog=heartbeat", "watchdog.timeout_s=0.1", *RUN],
        None,
        [
            "watchdog.timeout_s: 0.1 is too small; allowed: seconds from 0.5 [override watchdog.timeout_s=0.1]",
        ],
    ),
    Bad(
        "a warm-up that is shorter than what it is for",
        ["watchdog=heartbeat", "watchdog.warmup_s=3", *RUN],
        None,
        [
            "watchdog.warmup_s: 3 is less than watchdog.timeout_s 30; allowed: from 30, or a smaller timeout_s [override watchdog.warmup_s=3]",
        ],
    ),
    Bad(
        "sections that are none",
        ["watchdog=sections", *RUN],
        None,
        [
            "watchdog.sections: names no section with watchdog=sections; give {NAME: {timeout_s: SECONDS}}, or choose watchdog=heartbeat",
        ],
    ),
    Bad(
        "sections that cannot be said, have no limit, or are no mapping",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nwatchdog:\n  kind: sections\n  sections:\n    a b: {timeout_s: 3}\n    c: {}\n    d: 3\n    e: {after_s: 3}\n",
        [
            "watchdog.sections.a b: 'a b' is not a name; allowed: 1 to 64 of A-Z a-z 0-9 . _ - [r.yaml:5]",
            "watchdog.sections.c: has no timeout_s; give the seconds that a worker may stay in it [r.yaml:6]",
            "watchdog.sections.d: 3 is not a mapping; known: timeout_s [r.yaml:7]",
            "watchdog.sections.e.after_s: unknown key; known: timeout_s [r.yaml:8]",
        ],
    ),
    Bad(
        "a pipe in a directory that is not there",
        ["watchdog=timer", "watchdog.path=/no/such/pipe", *RUN],
        None,
        [
            "watchdog.path: '/no/such' is not a directory; make it, or leave the path out [override watchdog.path=/no/such/pipe]",
        ],
    ),
    Bad(
        "a rule without an action",
        ["restart.rules=[{exit_codes: [3]}]", *RUN],
        None,
        [
            "restart.rules[0]: has no action; allowed: action: fatal, exclude_node, retry, retry_free, ignore, success [override restart.rules=[{exit_codes: [3]}]]",
        ],
    ),
    Bad(
        "a broken expression",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart:\n  rules:\n  - {message: '(', action: retry}\n",
        [
            "restart.rules[0].message: '(' is not a regular expression: missing ), unterminated subpattern at position 0; see Python's re [r.yaml:4]",
        ],
    ),
    Bad(
        "a rule that never comes to its turn",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart:\n  rules:\n"
        "  - {exit_codes: [60-70], action: fatal}\n  - {exit_codes: [71], action: retry}\n"
        "  - {exit_codes: [65, 71], action: retry_free}\n",
        [
            "restart.rules[2]: can never match: earlier rules take all of its exit_codes; remove it, or move it up [r.yaml:6]",
        ],
    ),
    Bad(
        "a rule behind one for everything",
        ["restart.rules=[{action: retry},{signals: [SEGV], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[1]: can never match: an earlier rule has no condition; move that rule to the end [override restart.rules=[{action: retry},{signals: [SEGV], action: fatal}]]",
        ],
    ),
    Bad(
        "a rule that asks for too much",
        ["restart.rules=[{exit_codes: [3], signals: [SEGV], action: fatal}]", *RUN],
        None,
        [
            "restart.rules[0]: can never match: exit_codes and signals exclude each other; make a rule of each [override restart.rules=[{exit_codes: [3], signals: [SEGV], action: fatal}]]",
        ],
    ),
    Bad(
        "a rule that is none",
        ["restart.rules=[3]", *RUN],
        None,
        [
            "restart.rules[0]: 3 is not a mapping; known: action, backoff, budget, error_types, exit_codes, kinds, max_age_s, message, min_age_s, oom, phase, scope, signals [override restart.rules=[3]]",
        ],
    ),
    # -- interpolation
    Bad(
        "an interpolation loop",
        ["worker.env.A=${worker.env.B}", "worker.env.B=${worker.env.A}", *RUN],
        None,
        [
            "worker.env.A: '${worker.env.B}' leads back to itself; break the circle [override worker.env.A=${worker.env.B}]",
            "worker.env.B: '${worker.env.A}' leads back to itself; break the circle [override worker.env.B=${worker.env.A}]",
        ],
    ),
    Bad(
        "a loop through the run's id",
        ["run_id=${role}", "role=${run_id}", *RUN],
        None,
        [
            "run_id: '${role}' leads back to itself; break the circle [override run_id=${role}]",
            "role: '${run_id}' leads back to itself; break the circle [override role=${run_id}]",
        ],
    ),
    Bad(
        "a missing environment variable",
        ["worker.env.A=${oc.env:NO_SUCH_VARIABLE}", *RUN],
        None,
        [
            "worker.env.A: environment variable 'NO_SUCH_VARIABLE' is not set; set it, or give a default: ${oc.env:NO_SUCH_VARIABLE,DEFAULT} [override worker.env.A=${oc.env:NO_SUCH_VARIABLE}]",
        ],
    ),
    Bad(
        "an interpolation of nothing",
        ["r.yaml"],
        "worker:\n  cmd: 'true'\n  env: {A: '${worker.nprc}'}\n",
        [
            "worker.env.A: '${worker.nprc}' leads to no key; correct the key, or write \\${ for the characters themselves [r.yaml:3]",
        ],
    ),
    Bad(
        "an unknown resolver",
        ["worker.env.A=${what:1}", *RUN],
        None,
        [
            "worker.env.A: '${what:1}' asks for a resolver that does not exist; see OmegaConf's resolvers, such as oc.env [override worker.env.A=${what:1}]",
        ],
    ),
    Bad(
        "an interpolation that is not closed",
        ["r.yaml"],
        "worker:\n  cmd: 'true'\n  env: {A: '${worker'}\n",
        [
            "worker.env.A: has a broken interpolation: no viable alternative at input '${worker'; write ${key}, or \\${ for the characters themselves [r.yaml:3]",
        ],
    ),
    # -- the file
    Bad(
        "a YAML syntax error",
        ["r.yaml"],
        "worker:\n  cmd: a: b\n",
        [
            "recipe: is not YAML: mapping values are not allowed in this context; correct the line [r.yaml:2:9]",
        ],
    ),
    Bad(
        "a key that is given twice",
        ["r.yaml"],
        "worker:\n  nproc: 1\n  cmd: 'true'\n  nproc: 2\n",
        [
            "worker.nproc: is given twice, first in line 2; remove one of them [r.yaml:4]",
        ],
    ),
    Bad(
        "a recipe that is a list",
        ["r.yaml"],
        "- worker\n",
        [
            "recipe: is a list, and not a mapping; begin with a key such as worker: [r.yaml:1]",
        ],
    ),
    Bad(
        "a recipe that is a word",
        ["r.yaml"],
        "hello\n",
        [
            "recipe: is 'hello', and not a mapping; begin with a key such as worker: [r.yaml:1]",
        ],
    ),
    Bad(
        "a recipe of two documents",
        ["r.yaml"],
        "a: 1\n---\nb: 2\n",
        [
            "recipe: is not YAML: expected a single document in the stream, but found another document; correct the line [r.yaml:2:1]",
        ],
    ),
    Bad(
        "a tag in the recipe",
        ["r.yaml"],
        "worker: {cmd: !!python/name:os.system x}\n",
        [
            "worker.cmd: cannot be read as tag:yaml.org,2002:python/name:os.system; allowed: plain values [r.yaml:1]",
        ],
    ),
    Bad(
        "hydra in the recipe",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nhydra: {run: {dir: /}}\n",
        [
            "hydra: is not for recipes; give it on the command line, as in hydra.run.dir=… [r.yaml:2]",
        ],
    ),
    Bad(
        "Hydra's logging from the recipe",
        ["r.yaml"],
        "defaults:\n- override /hydra/job_logging: none\nworker: {cmd: 'true'}\n",
        [
            "defaults[0]: 'hydra/job_logging' is not a recipe's to choose; allowed: health, hydra/launcher, hydra/sweeper, logs, rendezvous, restart, stop, watchdog [r.yaml:2]",
        ],
    ),
    Bad(
        "a default placed in hydra",
        ["r.yaml"],
        "defaults:\n- /recipe@hydra: hello\nworker: {cmd: 'true'}\n",
        [
            "defaults[0]: 'recipe@hydra' is not a recipe's to choose; allowed: health, hydra/launcher, hydra/sweeper, logs, rendezvous, restart, stop, watchdog [r.yaml:2]",
        ],
    ),
    Bad(
        "a default that is not there",
        ["r.yaml"],
        "defaults: [helo]\nworker: {cmd: 'true'}\n",
        [
            "defaults[0]: 'helo' is neither beside this recipe nor a known one; did you mean 'hello'? write its name or path [r.yaml:1]",
        ],
    ),
    Bad(
        "a recipe that builds on itself",
        ["r.yaml"],
        "defaults: [r]\nworker: {cmd: 'true'}\n",
        [
            "recipe: its defaults lead back to itself; break the circle",
        ],
    ),
    Bad(
        "an alias that explodes",
        ["r.yaml"],
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcde", "bcdef", strict=True)),
        [
            "recipe: has more than 100000 nodes after aliases; write it plainly [r.yaml:1]",
        ],
    ),
    Bad(
        "a recipe that is too deep",
        ["r.yaml"],
        "a: " + "[" * 60 + "]" * 60,
        [
            "recipe: is nested deeper than 50 levels, or has too many nodes; write it plainly [r.yaml:1]",
        ],
    ),
    Bad(
        "a recipe that is too large",
        ["r.yaml"],
        "# " + "x" * (1 << 20) + "\n",
        [
            "recipe: is larger than 1 MiB; a recipe is a page of text [r.yaml]",
        ],
    ),
    # -- the command line
    Bad(
        "a script instead of a recipe",
        ["worker.nproc=2", "train.py", "--lr", "0.1", "a b"],
        None,
        [
            "train.py: is a script, not a recipe; write: orchestrate worker.nproc=2 -- python train.py --lr 0.1 'a b'",
        ],
    ),
    Bad(
        "a word that is nothing",
        ["hello"],
        None,
        [
            "hello: is neither key=value, a flag nor a recipe's file; did you mean recipe=hello? a command to run stands behind --",
        ],
    ),
    Bad(
        "a file that is not there",
        ["mine.yaml"],
        None,
        [
            "mine.yaml: there is no such file; give the path of a recipe, or recipe=NAME",
        ],
    ),
    Bad(
        "an unknown flag",
        ["--frobnicate", *RUN],
        None,
        [
            "--frobnicate: is no flag; flags of the command to run stand behind --",
        ],
    ),
    Bad(
        "a flag of torchrun's",
        ["--nproc-per-node=4", *RUN],
        None,
        [
            "--nproc-per-node: is torchrun's; write worker.nproc=4",
        ],
    ),
    Bad(
        "a flag without its value",
        ["--cfg"],
        None,
        [
            "--cfg: needs a value; write --cfg VALUE",
        ],
    ),
    Bad(
        "a flag with a wrong value",
        ["--cfg", "jobs"],
        None,
        [
            "--cfg: 'jobs' is not allowed; allowed: job, hydra, all",
        ],
    ),
    Bad(
        "a recipe given twice",
        ["recipe=hello", "r.yaml"],
        "{}",
        [
            "recipe: is given twice, as recipe=hello and as r.yaml; combine them: recipe=[first,second] [override recipe=hello]",
        ],
    ),
    Bad(
        "a value that Hydra cannot parse",
        ["role=a (b", *RUN],
        None,
        [
            "role: cannot be parsed: no viable alternative at input 'a (b'; quote it as text: \"role='a (b'\" [override role=a (b]",
        ],
    ),
    Bad(
        "several values without -m",
        ["worker.nproc=1,2", *RUN],
        None,
        [
            "worker.nproc: has several values; add -m to sweep over them, or quote it as text: \"worker.nproc='1,2'\" [override worker.nproc=1,2]",
        ],
    ),
    Bad(
        "Hydra's own keys mistyped",
        ["hydra.run.dri=x", *RUN],
        None,
        [
            "hydra.run.dri: Could not override 'hydra.run.dri': Key 'dri' not in 'RunDir' [override hydra.run.dri=x]",
        ],
    ),
    Bad(
        "a plus where a key exists",
        ["+worker.nproc=3", *RUN],
        None,
        [
            "worker.nproc: Could not append to config. An item is already at 'worker.nproc'; write it without + [override +worker.nproc=3]",
        ],
    ),
    # -- roles
    Bad(
        "a wrong value of a role",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  data:\n    worker: {nproc: 0}\n",
        [
            "roles.data.worker.nproc: 0 is too small; allowed: a whole number from 1 to 65536, cpu, gpu, auto [r.yaml:4]",
        ],
    ),
    Bad(
        "a wrong value of a role on the command line",
        ["r.yaml", "roles.data.worker.nproc=0"],
        "worker: {cmd: 'true'}\nroles: {data: {}}\n",
        [
            "roles.data.worker.nproc: 0 is too small; allowed: a whole number from 1 to 65536, cpu, gpu, auto [override roles.data.worker.nproc=0]",
        ],
    ),
    Bad(
        "a wrong value that every role takes over",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nstop: {grace_s: -1}\nrestart: {budget: {max: x}}\nroles: {a: {}, b: {}}\n",
        [
            "restart.budget.max: 'x' is not a whole number; allowed: a whole number from 0 [r.yaml:3]",
            "stop.grace_s: -1 is negative; allowed: seconds from 0 [r.yaml:2]",
        ],
    ),
    Bad(
        "a wrong value that no role takes over",
        ["r.yaml"],
        "worker: {nproc: 0, cmd: 'true'}\nroles: {a: {worker: {nproc: 1}}}\n",
        [
            "worker.nproc: 0 is too small; allowed: a whole number from 1 to 65536, cpu, gpu, auto [r.yaml:1]",
        ],
    ),
    Bad(
        "a role that makes the job's values wrong together",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nrestart: {backoff: {reset_after_s: 100}}\nroles:\n  a:\n    restart: {backoff: {max_s: 200}}\n  b: {}\n",
        [
            "roles.a.restart.backoff.reset_after_s: 100 is less than restart.backoff.max_s 200; allowed: from 200, or a smaller max_s [r.yaml:2]",
        ],
    ),
    Bad(
        "interpolations of a role and of the job that lead nowhere",
        ["r.yaml"],
        "worker: {cmd: 'true', env: {A: '${oc.env:NO_SUCH_A}'}}\nroles:\n  a: {worker: {env: {B: '${nowhere}'}}}\n  b: {}\n",
        [
            "worker.env.A: environment variable 'NO_SUCH_A' is not set; set it, or give a default: ${oc.env:NO_SUCH_A,DEFAULT} [r.yaml:1]",
            "roles.a.worker.env.B: '${nowhere}' leads to no key; correct the key, or write \\${ for the characters themselves [r.yaml:3]",
        ],
    ),
    Bad(
        "what a role leaves to you",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {worker: {nproc: '???'}}\n",
        [
            "roles.a.worker.nproc: is left to you; give roles.a.worker.nproc=VALUE on the command line [r.yaml:3]",
        ],
    ),
    Bad(
        "a key that no role has",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {stop: {grace_s: 1}, wroker: {}}\n",
        [
            "roles.a.stop: is not a role's to say; a role may have depends_on, health, nodes, on, rendezvous, restart, watchdog, worker [r.yaml:3]",
            "roles.a.wroker: is not a role's to say; did you mean 'worker'? a role may have depends_on, health, nodes, on, rendezvous, restart, watchdog, worker [r.yaml:3]",
        ],
    ),
    Bad(
        "what is the agent's in a role",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {health: {port: 1}, rendezvous: {url: 'redis://h'}}\n  b: {health: http}\n",
        [
            "roles.a.health.port: is not a role's to say; a role may have liveness, preflight, preflight_attempts, preflight_cooldown_s, readiness, startup [r.yaml:3]",
            "roles.a.rendezvous.url: is not a role's to say; a role may have spares [r.yaml:3]",
            "roles.b.health: 'http' is not a mapping; a role may have liveness, preflight, preflight_attempts, preflight_cooldown_s, readiness, startup [r.yaml:4]",
        ],
    ),
    Bad(
        "roles that are no mapping",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles: [a, b]\n",
        [
            "roles: a list is not a mapping; write NAME: {…} for each, or {} for none [r.yaml:2]",
        ],
    ),
    Bad(
        "roles that are nothing",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n",
        [
            "roles: null is not a mapping; leave it out, or write {} to change nothing [r.yaml:2]",
        ],
    ),
    Bad(
        "roles without content and with odd names",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a:\n  b/c: {}\n",
        [
            "roles.a: null is not a mapping; write {} to change nothing [r.yaml:3]",
            "roles.b/c: 'b/c' is not a role's name; allowed: 1 to 64 of A-Z a-z 0-9 _ - [r.yaml:4]",
        ],
    ),
    Bad(
        "a role without a command",
        ["r.yaml", "roles.tariner.nodes=2"],
        "roles:\n  trainer: {worker: {cmd: 'true'}}\n  data: {}\nrun_id: r\nrendezvous: {url: 'redis://h'}\n",
        [
            "roles.data.worker.cmd: is missing; give roles.data.worker.cmd, or worker.cmd for all roles",
            "roles.tariner.worker.cmd: is missing; did you mean 'trainer'? give roles.tariner.worker.cmd, or worker.cmd for all roles",
        ],
    ),
    Bad(
        "a role with a program that is not there",
        ["r.yaml"],
        "worker: {cmd: no-such-one}\nroles:\n  a: {worker: {nproc: 2}}\n  b: {worker: {cmd: no-such-two}}\n",
        [
            "worker.cmd: 'no-such-one' is not found on the PATH of the workers; install it, give its path, or set worker.env.PATH [r.yaml:1]",
            "roles.b.worker.cmd: 'no-such-two' is not found on the PATH of the workers; install it, give its path, or set worker.env.PATH [r.yaml:4]",
        ],
    ),
    Bad(
        "choices of a role that are none",
        ["r.yaml", "roles.b.watchdog=timr"],
        "worker: {cmd: 'true'}\nroles:\n  a: {restart: nevr}\n  b: {}\n",
        [
            "roles.a.restart: 'nevr' is not a choice; did you mean 'never'? allowed: always, never, on_failure [r.yaml:3]",
            "roles.b.watchdog: 'timr' is not a choice; did you mean 'timer'? allowed: disabled, heartbeat, observe, sections, timer [override roles.b.watchdog=timr]",
        ],
    ),
    Bad(
        "roles that wait for each other",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {depends_on: [c]}\n  b: {depends_on: {a: healthy}}\n  c: {depends_on: [b]}\n  d: {depends_on: {d: succeeded}}\n",
        [
            "roles.a.depends_on: waits for itself: a -> c -> b -> a; take one of them out of the circle [r.yaml:3]",
            "roles.d.depends_on: waits for itself: d -> d; take one of them out of the circle [r.yaml:6]",
        ],
    ),
    Bad(
        "roles that wait for none, or in no way",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  trainer: {depends_on: [dat]}\n  data: {depends_on: {trainer: helthy}}\n  c: {depends_on: 3}\n",
        [
            "roles.data.depends_on.trainer: 'helthy' is not allowed; did you mean 'healthy'? allowed: started, healthy, succeeded [r.yaml:4]",
            "roles.c.depends_on: 3 is not a mapping; write {ROLE: healthy}, or {} for none [r.yaml:5]",
            "roles.trainer.depends_on: 'dat' is no role; did you mean 'data'? known: c, data, trainer [r.yaml:3]",
        ],
    ),
    Bad(
        "a role that waits for the success of one that is always restarted",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {depends_on: {b: succeeded}}\n  b: {restart: always}\n",
        [
            "roles.a.depends_on.b: 'b' never succeeds: it has restart=always; give roles.b.restart=on_failure, or need healthy [r.yaml:3]",
        ],
    ),
    Bad(
        "an on that is no list of texts",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {on: [{x: 1}]}\n  b: {on: {x: 1}}\n",
        [
            "roles.a.on[0]: a mapping is not text; allowed: text [r.yaml:3]",
            "roles.b.on: a mapping is not a list; write [a, b], or [] for none [r.yaml:4]",
        ],
    ),
    Bad(
        "a node without a role",
        ["r.yaml", "node.name=c1"],
        "worker: {cmd: 'true'}\nroles: {a: {on: 'a*'}, b: {on: ['b*', d]}}\n",
        [
            "node.name: 'c1' takes part in no role: roles.a.on is a*, roles.b.on is b* d; give the name of one, or widen an on [override node.name=c1]",
        ],
    ),
    Bad(
        "a role on several nodes without a meeting place",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles:\n  a: {nodes: 2}\n  b: {nodes: 3}\n",
        [
            "run_id: is made up on each node, and nodes=2 need one in common; give the same run_id=NAME to every agent of the job",
            "rendezvous: embedded has no address for other nodes, and nodes=2 need one; give rendezvous.listen=HOST:PORT, or rendezvous=redis rendezvous.url=redis://HOST:PORT",
        ],
    ),
    Bad(
        "overrides that every role shadows",
        ["r.yaml", "worker.nproc=4", "restart=never", "worker.env={A: 1}", "role=x", "--", "true"],
        "roles:\n  a: {worker: {cmd: 'true', nproc: 1, env: {A: 2}}, restart: always}\n  b: {worker: {cmd: 'true', nproc: 1, env: {A: 2}}, restart: {kind: on_failure}}\n",
        [
            "worker.nproc: reaches no role: a and b have their own; write roles.a.worker.nproc= or roles.b.worker.nproc= [override worker.nproc=4]",
            "restart: reaches no role: a and b have their own; write roles.a.restart= or roles.b.restart= [override restart=never]",
            "worker.env: reaches no role: a and b have their own; write roles.a.worker.env= or roles.b.worker.env= [override worker.env={A: 1}]",
            "role: names the only group, and there are roles; leave it out [override role=x]",
            "worker.cmd: reaches no role: a and b have their own; write roles.a.worker.cmd= or roles.b.worker.cmd= [the command line after --]",
        ],
    ),
    Bad(
        "an override below a choice that every role has made otherwise",
        ["r.yaml", "restart.budget.max=9"],
        "worker: {cmd: 'true'}\nroles: {a: {restart: always}, b: {restart: never}}\n",
        [
            "restart.budget.max: reaches no role: a and b have their own; write roles.a.restart.budget.max= or roles.b.restart.budget.max= [override restart.budget.max=9]",
        ],
    ),
    Bad(
        "a success of roles that are none",
        ["r.yaml"],
        "worker: {cmd: 'true'}\nroles: {trainer: {}}\nsuccess: [trianer]\n",
        [
            "success[0]: 'trianer' is no role; did you mean 'trainer'? known: trainer [r.yaml:3]",
        ],
    ),
    Bad(
        "a success without roles",
        ["success=[a]", "--", "true"],
        None,
        [
            "success: lists roles, and there are none; allowed: all, any; or give roles [override success=[a]]",
        ],
    ),
    Bad(
        "a success that is neither",
        ["success=al", "--", "true"],
        None,
        [
            "success: 'al' is not allowed; did you mean 'all'? allowed: all, any, or a list of roles [override success=al]",
        ],
    ),
    Bad(
        "a success that names nobody",
        ["success=[]", "--", "true"],
        None,
        [
            "success: names no role; allowed: all, any, or a list of roles [override success=[]]",
        ],
    ),
    Bad(
        "a cascade that is neither true nor false",
        ["restart.cascade=2", "--", "true"],
        None,
        [
            "restart.cascade: 2 is not allowed; allowed: true, false [override restart.cascade=2]",
        ],
    ),
    # -- all at once
    Bad(
        "many at once, from everywhere",
        ["r.yaml", "restart=alway", "worker.nproc=0", "role=a (b", "stop.signal=TREM", "nodes=2:1"],
        "worker: {cmd: [nosuch-program], env: {A: '${oc.env:NO_SUCH_VARIABLE}'}}\nfoo: 1\nstop:\n  grace: 3\n"
        "restart:\n  backoff: {jitter: 2}\n  rules: [{exit_codes: [3]}]\n",
        [
            "restart: 'alway' is not a choice; did you mean 'always'? allowed: always, never, on_failure [override restart=alway]",
            "role: cannot be parsed: no viable alternative at input 'a (b'; quote it as text: \"role='a (b'\" [override role=a (b]",
            "worker.env.A: environment variable 'NO_SUCH_VARIABLE' is not set; set it, or give a default: ${oc.env:NO_SUCH_VARIABLE,DEFAULT} [r.yaml:1]",
            "foo: unknown key; known: {keys} [r.yaml:2]",
            "nodes: '2:1' has its minimum above its maximum; allowed: N or MIN:MAX, from 1, as in 2:4 [override nodes=2:1]",
            "worker.nproc: 0 is too small; allowed: a whole number from 1 to 65536, cpu, gpu, auto [override worker.nproc=0]",
            "restart.backoff.jitter: 2 is too large; allowed: a number from 0 to below 1 [r.yaml:6]",
            "restart.rules[0]: has no action; allowed: action: fatal, exclude_node, retry, retry_free, ignore, success [r.yaml:7]",
            "stop.grace: unknown key; did you mean 'grace_s'? known: dump, forward, grace_s, kill_wait_s, platform_grace_s, preempt_signals, relay, signal [r.yaml:4]",
            "stop.signal: 'TREM' is not a signal; did you mean 'TERM'? allowed: a name such as TERM, INT or USR1 [override stop.signal=TREM]",
            "worker.cmd: 'nosuch-program' is not found on the PATH of the workers; install it, give its path, or set worker.env.PATH [r.yaml:1]",
        ],
    ),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name.replace(" ", "_"))
def test_is_told_in_full_and_nothing_is_made(
    bad: Bad, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if bad.recipe is not None:
        (tmp_path / "r.yaml").write_text(bad.recipe)
    words = bad.words
    if words == ["LOGLEVEL"]:
        monkeypatch.setenv("LOGLEVEL", "LOUD")
        words = RUN
    said = commands.orchestrate(*words)
    assert said.errors == [_filled(line, tmp_path) for line in bad.says]
    assert said.code == 2
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == (["r.yaml"] if bad.recipe is not None else [])


def _filled(line: str, tmp_path: Path) -> str:
    line = line.replace("{tmp}", str(tmp_path)).replace("{keys}", KEYS).replace("{recipes}", ", ".join(names()))
    line = line.replace("{worker}", listed(sorted(key_names(WorkerConfig))))
    return line.replace("{cpus}", ranges(os.sched_getaffinity(0)))
