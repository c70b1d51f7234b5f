"""What torch's elastic agents tell each other in a round (their roles, their exit barrier), kept where they met.

A `torch.distributed.Store` on top of what the members of a round share. So an agent opens no connection to the store
that rank 0 hosts for the workers, and an exit barrier that waits for a dead peer ends with the round, not after 300 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from torch.distributed import DistStoreError
from torch.distributed import Store as TorchStore

from orchestrator.edge.redis.worker_store import Store
from orchestrator.errors import RendezvousError


@contextmanager
def _as_torch_says() -> Iterator[None]:
    """torch's agents expect torch's exception, whatever went wrong."""
    try:
        yield
    except (TimeoutError, RendezvousError) as error:
        raise DistStoreError(str(error)) from error


class AgentStore(TorchStore):  # type: ignore[misc]  # torch is not type-checked with us
    """The operations that torch's agents use; no others."""

    def __init__(self, shared: Store, timeout_s: float) -> None:
        super().__init__()
        self._shared = shared
        self._timeout_s = timeout_s

    @property
    def timeout(self) -> timedelta:
        """How long reads wait."""
        return timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: timedelta) -> None:
        """Let reads wait so long from now on."""
        self._timeout_s = timeout.total_seconds()

    def set(self, key: str, value: str | bytes) -> None:
        """Give ``key`` a value."""
        with _as_torch_says():
            self._shared.set(key, value)

    def get(self, key: str) -> bytes:
        """The value of ``key``; waits for it."""
        with _as_torch_says():
            return self._shared.get(key, self._timeout_s)

    def add(self, key: str, amount: int) -> int:
        """Add to the number that ``key`` holds."""
        with _as_torch_says():
            return self._shared.add(key, amount)

    def wait(self, keys: Sequence[str], timeout: timedelta | None = None) -> None:
        """Wait until all of these keys have values."""
        with _as_torch_says():
            self._shared.wait(keys, self._timeout_s if timeout is None else timeout.total_seconds())

    def check(self, keys: Sequence[str]) -> bool:
        """Whether all of these keys have values now."""
        try:
            self._shared.wait(keys, 0)
        except TimeoutError:
            return False
        return True

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """The values of these keys; waits for them."""
        self.wait(keys)
        return [self.get(key) for key in keys]

    def multi_set(self, keys: Sequence[str], values: Sequence[str | bytes]) -> None:
        """Give each key its value."""
        for key, value in zip(keys, values, strict=True):
            self.set(key, value)
