"""What processes that a trainer has started leave for the process that started them (``ddp_spawn``, ``ddp_fork``)."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4


class ProcessHandover:
    """A file of results, from the processes that a trainer has started to the one that has made this object.

    Lightning brings weights and ``trainer.callback_metrics`` back from such processes, and of callbacks nothing.
    """

    def __init__(self) -> None:
        self._home = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"synbench-{uuid4().hex}.jsonl"
        self._left = 0  # results in the file, in the process that writes it
        weakref.finalize(self, _remove, self._path, self._home)

    def __deepcopy__(self, memo: Any) -> ProcessHandover:
        return ProcessHandover()

    @property
    def is_started(self) -> bool:
        """Whether this process was started by the one that has made this object."""
        parent = multiprocessing.parent_process()
        return parent is not None and parent.pid == self._home

    def leave(self, results: Sequence[Mapping[str, Any]]) -> None:
        """In a process that was started: add those of the results, as plain values, that are not there yet."""
        with self._path.open("a") as file:
            file.write("".join(f"{json.dumps(result)}\n" for result in results[self._left :]))
        self._left = len(results)

    def take(self) -> list[Any] | None:
        """In the process that has started others: the results that were left there; ``None`` if none were."""
        if os.getpid() != self._home or not self._path.exists():
            return None
        lines = self._path.read_text().splitlines(keepends=True)
        self.discard()
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last one may have been cut short

    def discard(self) -> None:
        """Forget what was left and not taken."""
        self._path.unlink(missing_ok=True)
        self._left = 0


def _remove(path: Path, home: int) -> None:
    if os.getpid() == home:  # a copy of this object in a forked process goes earlier
        path.unlink(missing_ok=True)
