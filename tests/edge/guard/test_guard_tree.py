"""What /proc says about processes, and what is made of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from orchestrator.edge.guard import tree
from tests.edge.procs import state_of, wait_until


def test_a_name_full_of_traps_does_not_mislead_the_parser(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep is not None
    trap = tmp_path / "a) Z 1 (b c"
    shutil.copy(sleep, trap)
    with subprocess.Popen([str(trap), "1000"], start_new_session=True) as child:
        process = tree.look(child.pid)
        child.kill()
    assert process is not None
    assert (process.parent, process.session, process.alive) == (os.getpid(), child.pid, True)


def test_a_zombie_is_not_alive_but_a_leader_that_left_its_threads_behind_is() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        child.kill()
        wait_until(lambda: state_of(child.pid) == "Z", "the child is a zombie")
        process = tree.look(child.pid)
        assert process is not None
        assert not process.alive
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(1000,)).start()\n"
        "ctypes.CDLL(None).syscall(60 if __import__('os').uname().machine == 'x86_64' else 93, 0)\n"  # exit, one thread
    )
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code]) as headless:
        wait_until(lambda: state_of(headless.pid) == "Z", "the leader has left")
        process = tree.look(headless.pid)
        assert not tree.is_ending(os.getpid())
        assert not tree.is_ending(headless.pid)
        headless.kill()
        wait_until(lambda: tree.is_ending(headless.pid), "all its threads have been told to end")
    assert process is not None
    assert process.alive
    assert tree.is_ending(headless.pid)


def test_children_of_all_threads_are_found_with_and_without_the_kernels_help() -> None:
    started: list[subprocess.Popen[bytes]] = []
    forked, over = threading.Event(), threading.Event()

    def work() -> None:
        started.append(subprocess.Popen(["sleep", "1000"]))
        forked.set()
        over.wait()

    thread = threading.Thread(target=work)
    thread.start()
    forked.wait()
    started.append(subprocess.Popen(["sleep", "1000"]))
    try:
        expected = {child.pid for child in started}
        assert expected <= set(tree.children(os.getpid()))
        assert set(tree.children(os.getpid())) == set(tree._parents()[os.getpid()])
    finally:
        over.set()
        thread.join()
        for child in started:
            child.kill()
            child.wait()


def test_a_process_that_is_not_below_the_parent_it_was_found_with_is_spared() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert tree.bring_down(lambda: [(child.pid, (1, child.pid))]) == set()
        child.stdin.write(b"alive\n")
        assert child.stdout.readline() == b"alive\n"
        assert tree.bring_down(lambda: [(child.pid, (os.getpid(),))]) == {child.pid}
        assert child.wait() == -9
