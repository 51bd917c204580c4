"""Several processes of a probe as threads of one, so that what they share can be compared with one alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class ThreadedProcesses:
    """One of several threads that exchange values as processes do; see :class:`.Processes`."""

    def __init__(self, rank: int, size: int, lockstep: bool, barrier: threading.Barrier, shared: list[Any]) -> None:
        self.rank, self.size, self.lockstep = rank, size, lockstep
        self._barrier, self._shared = barrier, shared

    def _exchanged(self, value: Any) -> list[Any]:
        self._shared[self.rank] = value
        self._barrier.wait()
        found = list(self._shared)
        self._barrier.wait()
        return found

    def sum(self, tensor: Any) -> Any:
        return sum(self._exchanged(tensor))

    def any(self, flag: bool) -> bool:
        return any(self._exchanged(flag))

    def broadcast(self, value: Any) -> Any:
        return self._exchanged(value)[0]


def on_processes(size: int, work: Callable[[ThreadedProcesses], Any], lockstep: bool = False) -> list[Any]:
    """What ``work`` returns on each of several processes."""
    barrier, shared = threading.Barrier(size, timeout=30), [None] * size

    def one(rank: int) -> Any:
        try:
            return work(ThreadedProcesses(rank, size, lockstep, barrier, shared))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as threads:
        return list(threads.map(one, range(size)))
