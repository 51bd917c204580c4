"""The fraction of the training time that probes take, and may take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class TimeBudget:
    """Counts the time of probes since training started.

    Args:
        limit: the fraction of the time since training started that probes may take; ``None`` for no limit.
    """

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.begin()

    def begin(self) -> None:
        """Start training."""
        self._start, self._spent = time.perf_counter(), 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._spent += time.perf_counter() - start

    def fraction(self, more: float = 0.0) -> float:
        """The fraction of the time so far that was counted, with ``more`` seconds of both."""
        return (self._spent + more) / (time.perf_counter() - self._start + more)

    @property
    def left(self) -> float | None:
        """Seconds that may be counted by now; ``None`` for no limit."""
        if self.limit is None:
            return None
        return self.limit * (time.perf_counter() - self._start) - self._spent
