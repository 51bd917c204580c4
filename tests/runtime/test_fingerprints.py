"""What changes with objects that cannot be restored; clients of experiment trackers, by their package and functions."""

import io
import itertools
import sqlite3
import sys
import threading
import types
from contextlib import closing
from queue import Queue, SimpleQueue

import pytest
import torch
from torch.utils.data import DataLoader

from synbench_lightning.runtime.experiment_trackers import imported_trackers, is_tracker, writing_functions
from synbench_lightning.runtime.fingerprints import fingerprint


def filled(queue):
    queue.put("a"), queue.put("b")
    return queue


class Plain:
    """Without a text of its own."""

    def __init__(self):
        self.count = 1


class Hinting:
    def __length_hint__(self):
        return 7


@pytest.mark.parametrize(
    ("value", "advance", "before", "after"),
    [
        (filled(Queue()), lambda value: value.get(), 2, 1),
        (filled(SimpleQueue()), lambda value: value.get(), 2, 1),
        (io.StringIO("abc"), lambda value: value.read(2), 0, 2),
        (io.BytesIO(b"abc"), lambda value: value.seek(1), 0, 1),
        (iter(DataLoader(range(6), batch_size=2)), next, 0, 1),
        (iter([1, 2, 3]), next, 3, 2),
        (iter(range(5)), next, 5, 4),
        (Hinting(), lambda value: None, 7, 7),
        ([1, 2], lambda value: value.append(3), "[1, 2]", "[1, 2, 3]"),
        (torch.zeros(2), lambda value: value.add_(1), 0, 1),
        (object, lambda value: None, "<class 'object'>", "<class 'object'>"),
    ],
)
def test_a_value_is_where_an_object_stands(value, advance, before, after):
    assert fingerprint(value) == before
    advance(value)
    assert fingerprint(value) == after


def numbers(start):
    total = start
    for number in range(5):
        total += number
        yield total
    yield from (7, 8)


def inner():
    yield from numbers(1)


@pytest.mark.parametrize(
    ("value", "advance"),
    [
        (numbers(1), next), (inner(), lambda value: (next(value), next(value))), (enumerate("abc"), next),
        (zip("abc", itertools.count(), strict=False), next), (map(str, iter([1, 2])), next),
        (Plain(), lambda value: setattr(value, "count", 2)),
    ],
    ids=["generator", "generator within one", "enumerate", "zip", "map", "object"],
)  # fmt: skip
def test_a_value_changes_with_what_is_advanced_and_with_nothing_else(value, advance):
    before = fingerprint(value)
    assert before is not None
    assert fingerprint(value) == before
    advance(value)
    advanced = fingerprint(value)
    assert advanced is not None
    assert advanced != before
    assert fingerprint(value) == advanced


def test_a_generator_that_has_ended_and_what_has_no_value_have_none():
    ended = numbers(1)
    list(ended)
    closed = io.StringIO()
    closed.close()
    for value in (ended, closed, threading.Lock()):
        assert fingerprint(value) is None


def test_a_change_of_a_database_is_seen():
    with closing(sqlite3.connect(":memory:")) as base:
        base.execute("create table t (n)")
        assert fingerprint(base) == 0
        base.execute("insert into t values (1)")
        assert fingerprint(base) == 1


def of_package(name, *functions, **more):
    """An object of a class in a package, with functions."""
    own = type("Run", (), {one: lambda self: None for one in functions} | more)
    own.__module__ = name
    return own()


@pytest.mark.parametrize(
    ("value", "tracker"),
    [
        (of_package("wandb.sdk.run", "log", "finish"), True),
        (of_package("wandb", "log_artifact"), True),
        (of_package("torch.utils.tensorboard.writer", "add_scalar"), True),
        (of_package("clearml", "report_scalar"), True),
        (of_package("aim", "track"), True),
        (of_package("wandb", "finish", "logs", "adds"), False),
        (of_package("wandbox", "log"), False),
        (of_package("wandb", "log", __slots__=()), False),  # it holds nothing that could take the place of a function
        (of_package("torch.utils", "log"), False),
        (type(of_package("wandb", "log")), False),
        (types.FunctionType((lambda: 0).__code__, {}, "log"), False),
        (3, False),
        ("log", False),
    ],
)
def test_a_tracker_is_an_object_of_its_package_that_writes(value, tracker):
    assert is_tracker(value) == tracker


def test_packages_of_trackers_that_were_imported_are_found_with_their_functions(monkeypatch):
    package = types.ModuleType("clearml")
    package.log, package.report_scalar, package.finish = print, print, print
    monkeypatch.setitem(sys.modules, "clearml", package)
    monkeypatch.delitem(sys.modules, "aim", raising=False)
    assert package in imported_trackers()
    assert None not in imported_trackers()
    assert sorted(writing_functions(package)) == ["log", "report_scalar"]
    assert not is_tracker(package)
