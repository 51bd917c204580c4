"""What a dataset shares with others is named, so that reading it again changes nothing for them."""

import ctypes
import mmap
import multiprocessing
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import torch

from synbench_lightning.runtime import shared_state
from synbench_lightning.runtime.shared_state import (
    bytes_reached,
    file_positions_kept,
    files_are_open,
    make_private,
    trace_of_reading,
)


class Holder:
    def __init__(self, value):
        self.value = [value]


def reason(value, workers=False, **arguments):
    return trace_of_reading((Holder(value),), workers, **arguments)


def test_plain_values_leave_no_trace():
    held = [torch.rand(3), np.zeros(3), "text", {"a": 1}, np.zeros(8)[::2], np.zeros((2, 3)).T]
    for workers in (False, True):
        assert reason(held, workers) is None


def test_what_belongs_to_other_processes_is_named(tmp_path):
    context = multiprocessing.get_context("fork")
    assert reason(context.Value("i", 0)) == "the dataset shares a counter or an array with other processes"
    assert reason(context.SimpleQueue()) == "the dataset has a queue to other processes"
    one, other = context.Pipe()
    with closing(one), closing(other):
        assert reason(one) == "the dataset has an open connection"
    with closing(socket.socket()) as found:
        assert reason(found) == "the dataset has an open connection"
    with closing(sqlite3.connect(tmp_path / "base")) as found:
        assert reason(found) == "the dataset has an open database"
    memory = SharedMemory(create=True, size=8)
    try:
        assert reason(memory) == "the dataset uses shared memory"
    finally:
        memory.close()
        memory.unlink()
    with subprocess.Popen([sys.executable, "-c", ""]) as found:
        assert reason(found) == "the dataset has a subprocess"


def test_files_are_a_matter_of_who_reads_them(tmp_path):
    (tmp_path / "file").write_text("text")
    with open(tmp_path / "file") as file:
        assert reason(file) is None
        assert reason(file, workers=True) == "the dataset has an open file that its workers also read"
    assert reason(file, workers=True) is None  # closed
    with open(tmp_path / "file", "a") as file:
        for workers in (False, True):
            assert reason(file, workers) == "the dataset has a file that is open for writing"


def test_arrays_that_are_written_through_are_named(tmp_path):
    path, words = tmp_path / "array", "the dataset has a writable array that is shared or memory-mapped"
    np.zeros(8).tofile(path)
    for mode, expected in (("r+", words), ("r", None), ("c", None)):
        mapped = np.memmap(path, dtype=np.float64, mode=mode)
        assert reason(mapped) == expected
        assert reason(mapped[2:4]) == expected
    with open(path, "r+b") as file:
        for access, expected in ((mmap.ACCESS_WRITE, words), (mmap.ACCESS_READ, None)):
            with closing(mmap.mmap(file.fileno(), 0, access=access)) as found:
                assert reason(found) == expected
                view = np.frombuffer(found, dtype=np.float64)
                assert reason(view) == expected
                del view
    shared = multiprocessing.get_context("fork").RawArray("d", 4)
    assert reason(np.frombuffer(shared)) == words
    assert reason(np.frombuffer(bytearray(32))) is None
    assert reason(np.frombuffer((ctypes.c_double * 4)())) is None  # of this process alone


def test_tensors_are_shared_up_to_a_size_unless_workers_are_spawned(monkeypatch):
    words = "the dataset shares tensors with other processes that are too large to copy"
    shared = [torch.zeros(10).share_memory_(), torch.zeros(10).share_memory_()]
    monkeypatch.setattr(shared_state, "COPY_BYTES", 80)
    assert reason(shared) is None
    monkeypatch.setattr(shared_state, "COPY_BYTES", 79)
    assert reason(shared) == words
    assert reason(shared, spawned=True) is None
    assert reason([torch.zeros(10), torch.zeros(11)]) is None
    assert reason(torch.zeros(2, device="meta")) == (
        "the dataset has tensors on meta, which no other process can read"
    )  # fmt: skip


def test_shared_tensors_become_private_up_to_a_size(monkeypatch):
    shared, own = torch.ones(10).share_memory_(), torch.ones(10)
    monkeypatch.setattr(shared_state, "COPY_BYTES", 39)
    make_private([shared, own])
    assert shared.is_shared()
    monkeypatch.setattr(shared_state, "COPY_BYTES", 40)
    pointer = own.data_ptr()
    make_private([shared, own])
    assert not shared.is_shared()
    assert shared.tolist() == [1.0] * 10
    assert own.data_ptr() == pointer


def test_bytes_are_those_of_tensors_and_arrays():
    assert bytes_reached({"a": torch.zeros(3), "b": [np.zeros(5)]}, torch.zeros(2, dtype=torch.uint8)) == 12 + 40 + 2
    assert bytes_reached("text", [1, 2]) == 0


def test_positions_of_files_that_are_read_are_kept_and_of_others_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    read, written = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    try:
        os.lseek(read, 10, os.SEEK_SET)
        with file_positions_kept():
            os.read(read, 30)
            os.lseek(written, 20, os.SEEK_SET)
        assert os.lseek(read, 0, os.SEEK_CUR) == 10
        assert os.lseek(written, 0, os.SEEK_CUR) == 20
    finally:
        os.close(read)
        os.close(written)


def test_a_file_that_can_be_read_is_open_and_one_that_is_written_is_not(monkeypatch):
    with tempfile.TemporaryFile() as file:
        own = file.fileno()
        open_files = shared_state._open_files
        monkeypatch.setattr(shared_state, "_open_files", lambda: (one for one in open_files() if one[0] == own))
        assert files_are_open()  # for reading and writing
    assert not files_are_open()
    with open("log", "w") as file:
        own = file.fileno()
        assert not files_are_open()
    with open("log") as file:
        own = file.fileno()
        assert files_are_open()


def test_files_may_be_open_where_they_are_not_listed(monkeypatch):
    def refuse():
        raise OSError("no such folder")

    monkeypatch.setattr(shared_state, "_open_files", refuse)
    assert files_are_open()
    with file_positions_kept():
        pass
