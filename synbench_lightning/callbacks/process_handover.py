"""Transfer results from processes started by a trainer to the parent process (``ddp_spawn``, ``ddp_fork``)."""

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
    """A file that transfers results from processes started by a trainer to the process that created this object.

    Lightning returns weights and ``trainer.callback_metrics`` from such processes, but no state of callbacks.
    """

    def __init__(self) -> None:
        self._home = os.getpid()
        self._path = Path(tempfile.gettempdir()) / f"synbench-{uuid4().hex}.jsonl"
        self._left = 0  # number of results in the file, in the process that writes it
        weakref.finalize(self, _remove, self._path, self._home)

    def __deepcopy__(self, memo: Any) -> ProcessHandover:
        return ProcessHandover()

    @property
    def is_started(self) -> bool:
        """Whether this process was started by the one that created this object."""
        parent = multiprocessing.parent_process()
        return parent is not None and parent.pid == self._home

    def leave(self, results: Sequence[Mapping[str, Any]]) -> None:
        """In a started process: append the results, as plain values, that are not in the file yet."""
        with self._path.open("a") as file:
            file.write("".join(f"{json.dumps(result)}\n" for result in results[self._left :]))
        self._left = len(results)

    def take(self) -> list[Any] | None:
        """In the parent process: the transferred results; ``None`` if there are none."""
        if os.getpid() != self._home or not self._path.exists():
            return None
        lines = self._path.read_text().splitlines(keepends=True)
        self.discard()
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be incomplete

    def discard(self) -> None:
        """Delete results that were not taken."""
        self._path.unlink(missing_ok=True)
        self._left = 0


def _remove(path: Path, home: int) -> None:
    if os.getpid() == home:  # a copy of this object in a forked process is finalized earlier
        path.unlink(missing_ok=True)
