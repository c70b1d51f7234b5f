"""How long a stop may take: the ladder of ``stop``, cut to the time that the platform leaves.

Slurm and Kubernetes announce the end by a signal, and some seconds later SIGKILL everything, agents first of all. So a
stop that they ask for has to be over before. Invariant: the ladder that is returned ends within the platform's time.
"""

from __future__ import annotations

from dataclasses import replace
from signal import SIGTERM

from orchestrator.core.policies import StopPolicy

RESERVE_S = 2.0  # of the platform's time: half of it for the kernel to end processes, half for the agent to end itself
DUMP_AT = 0.8  # of the grace: whoever still runs then is asked where


def comes_from_outside(policy: StopPolicy, signum: int) -> bool:
    """Whether a platform's SIGKILL may follow this signal. Nobody's follows a Ctrl-C."""
    return signum == SIGTERM or signum in policy.preempt


def in_time(policy: StopPolicy, signum: int) -> StopPolicy:
    """The ladder for a stop that ``signum`` asks for."""
    if policy.relay and signum != policy.signal:
        policy = replace(policy, signal=signum)
    if policy.platform_grace_s is None or not comes_from_outside(policy, signum):
        return policy
    grace_s = min(policy.grace_s, max(0.0, policy.platform_grace_s - RESERVE_S))
    kill_wait_s = min(policy.kill_wait_s, (policy.platform_grace_s - grace_s) / 2)
    return replace(policy, grace_s=grace_s, kill_wait_s=kill_wait_s)
