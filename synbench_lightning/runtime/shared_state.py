"""Detect state that a dataset shares with other processes or files, which reading it again could change."""

from __future__ import annotations

import ctypes
import io
import mmap
import multiprocessing.connection
import multiprocessing.managers
import multiprocessing.queues
import os
import socket
import sqlite3
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
from torch import Tensor

from synbench_lightning.runtime.seeded_calls import reached

COPY_BYTES = 2**28  # mutants: memory and time alone
"""Shared tensors, and datasets where no process can be started, are copied up to this size."""

REFUSED: tuple[tuple[tuple[type, ...], str], ...] = (
    ((SynchronizedBase,), "shares a counter or an array with other processes"),
    ((multiprocessing.queues.Queue, multiprocessing.queues.SimpleQueue), "has a queue to other processes"),
    ((multiprocessing.managers.BaseProxy, multiprocessing.managers.BaseManager), "uses an object of another process"),
    ((SharedMemory,), "uses shared memory"),
    ((socket.socket, multiprocessing.connection.Connection), "has an open connection"),
    ((sqlite3.Connection,), "has an open database"),
    ((subprocess.Popen,), "has a subprocess"),
)


def trace_of_reading(values: tuple[Any, ...], workers: bool, spawned: bool = False) -> str | None:
    """Why reading with these objects in another process might have side effects; ``None`` if it has none.

    Args:
        values: a dataset, its collate function and sampler.
        workers: whether training reads in worker processes, with which files would be shared.
        spawned: whether the workers are spawned: then their tensors are in shared memory.
    """
    shared = 0
    for value in reached(*values):
        for kinds, reason in REFUSED:
            if isinstance(value, kinds):
                return f"the dataset {reason}"
        if isinstance(value, io.IOBase) and _is_open_file(value):
            if value.writable():
                return "the dataset has a file that is open for writing"
            if workers:
                return "the dataset has an open file that its workers also read"
        if isinstance(value, (np.ndarray, mmap.mmap)) and _writes_through(value):
            return "the dataset has a writable array that is shared or memory-mapped"
        if isinstance(value, Tensor) and value.device.type != "cpu":
            return f"the dataset has tensors on {value.device}, which no other process can read"
        if isinstance(value, Tensor) and value.is_shared():
            shared += value.nbytes
    if shared > COPY_BYTES and not spawned:
        return "the dataset shares tensors with other processes that are too large to copy"
    return None


def bytes_reached(*values: Any) -> int:
    """Total size in bytes of the tensors and arrays reachable from objects."""
    return sum(value.nbytes for value in reached(*values) if isinstance(value, (np.ndarray, Tensor)))


def make_private(*values: Any) -> None:
    """Copy tensors in shared memory to private memory of this process."""
    shared = [value for value in reached(*values) if isinstance(value, Tensor) and value.is_shared()]
    if sum(value.nbytes for value in shared) <= COPY_BYTES:
        for value in shared:
            value.data = value.data.clone()


@contextmanager
def file_positions_kept() -> Iterator[None]:
    """Restore the positions of files that are open for reading, which forked processes share.

    Positions of other files may move by what this process itself writes, for example to a log.
    """
    kept: dict[int, int] = {}
    with suppress(OSError, ImportError):
        for descriptor, mode in _open_files():
            if mode == os.O_RDONLY:
                with suppress(OSError):
                    kept[descriptor] = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        yield
    finally:
        for descriptor, position in kept.items():
            with suppress(OSError):
                os.lseek(descriptor, position, os.SEEK_SET)


def files_are_open() -> bool:
    """Whether this process has a file open for reading, in Python or in a library; true if unknown."""
    try:
        return any(mode != os.O_WRONLY for _, mode in _open_files())
    except (OSError, ImportError):
        return True


def _open_files() -> Iterator[tuple[int, int]]:
    """Descriptor and access mode of each regular file that is open.

    Raises:
        OSError: where they are not listed.
        ImportError: on Windows.
    """
    import fcntl

    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError, ValueError):
            descriptor = int(name)
            mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                yield descriptor, mode


def _is_open_file(value: io.IOBase) -> bool:
    try:
        value.fileno()
    except Exception:  # closed, or in memory
        return False
    return True


def _writes_through(value: Any) -> bool:
    """Whether what is written to an array is seen by other processes, or is written to a file."""
    if isinstance(value, np.ndarray):
        if not value.flags.writeable:
            return False
        while isinstance(value, np.ndarray):
            if isinstance(value, np.memmap) and value.mode == "c":  # written to memory alone
                return False
            value = value.base
    value = value.obj if isinstance(value, memoryview) else value
    if isinstance(value, mmap.mmap):
        with memoryview(value) as view:
            return not view.readonly
    return isinstance(value, (ctypes.Array, ctypes.Structure)) and hasattr(value, "_wrapper")  # of multiprocessing
