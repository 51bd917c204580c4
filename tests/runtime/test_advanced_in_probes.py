"""Iterators, queues, files and memory of C that a forward reads from are afterwards where they were."""

import ctypes
import io
import itertools
import multiprocessing
import threading
from collections import OrderedDict
from functools import partial
from queue import LifoQueue, PriorityQueue, Queue

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.iterator_copies import IteratorCopies

LONG = list(range(50))
ITERATORS = {
    "list": lambda: iter(LONG),
    "tuple": lambda: iter(tuple(LONG)),
    "text": lambda: iter("abcdefghij"),
    "range": lambda: iter(range(50)),
    "backwards": lambda: reversed(LONG),
    "keys": lambda: iter(dict.fromkeys(LONG)),
    "enumerate": lambda: enumerate(LONG),
    "zip": lambda: zip(iter(LONG), range(50), strict=True),
    "map": lambda: map(float, iter(LONG)),
    "filter": lambda: filter(None, iter(LONG)),
    "tensor": lambda: iter(torch.arange(50.0)),
}
OF_ITERTOOLS = {
    "count": lambda: itertools.count(3),
    "cycle": lambda: itertools.cycle([1, 2, 3]),
    "cycle of an iterator": lambda: itertools.cycle(iter([1, 2, 3])),
    "islice": lambda: itertools.islice(itertools.count(), 1, 40),
    "chain": lambda: itertools.chain(LONG, LONG),
    "repeat": lambda: itertools.repeat(1, 9),
    "accumulate": lambda: itertools.accumulate(iter(LONG)),
    "product": lambda: itertools.product(LONG, repeat=2),
    "tee": lambda: itertools.tee(iter(LONG))[0],
}
copied = hasattr(itertools.count(), "__reduce__") and "count" in repr(itertools.count().__reduce_ex__(2))
ALL = {**ITERATORS, **(OF_ITERTOOLS if copied else {})}  # Python 3.14 copies none of the latter


def rest(iterator, number=6):
    return list(itertools.islice(iterator, number))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("ahead", [0, 1, 4])
def test_a_copy_of_an_iterator_goes_on_where_it_is_and_leaves_it_there(kind, ahead):
    one, other = ALL[kind](), ALL[kind]()
    assert rest(one, ahead) == rest(other, ahead)
    assert rest(IteratorCopies().of(one)) == rest(IteratorCopies().of(one))
    assert rest(one) == rest(other)


@pytest.mark.parametrize("value", [3, [1], "abc", io.StringIO("a"), nn.Linear(1, 1), (n for n in LONG)])
def test_nothing_else_is_copied_and_nothing_that_rests_on_a_generator(value):
    copies = IteratorCopies()
    assert copies.of(value) is None
    if hasattr(value, "__next__"):
        assert copies.of(enumerate(value)) is None
        assert copies.of(zip(LONG, map(str, value), strict=False)) is None


def test_an_object_is_not_asked_for_its_class():
    class Hidden:
        @property
        def __class__(self):
            raise RuntimeError

    assert IteratorCopies().of(Hidden()) is None


GLOBAL = iter(LONG)


class OfAClass:
    steps = iter(LONG)


def counting():
    steps = iter(LONG)
    return lambda: next(steps)


def of_the_module():
    return next(GLOBAL)


class Encoder(nn.Linear):
    """A layer that advances iterators that are held in every kind of place."""

    def __init__(self):
        super().__init__(2, 2)
        self.one = iter(LONG)
        self.same = [self.one, {"again": self.one}]
        self.listed = [iter(LONG)]
        self.nested = {"a": OrderedDict(b=iter(LONG))}
        self.closure = counting()
        self.fixed = partial(of_the_module)

    def advance(self):
        return [
            next(self.one),
            next(self.same[0]),
            next(self.same[1]["again"]),
            next(self.listed[0]),
            next(self.nested["a"]["b"]),
            self.closure(),
            self.fixed(),
            next(OfAClass.steps),
        ]

    def forward(self, x):
        self.advance()
        return super().forward(x)


@pytest.mark.parametrize("fails", [False, True])
def test_iterators_are_not_advanced_wherever_they_are_held(fails, recwarn):
    module = Encoder()
    first = module.advance()
    assert first[:6] == [0, 1, 2, 0, 0, 0]
    kept = module.one
    for _ in range(2):
        with pytest.raises(ZeroDivisionError) if fails else isolated(None), isolated(module):
            module(torch.ones(1, 2))
            assert module.advance() == [6, 7, 8, 2, 2, 2, first[6] + 2, first[7] + 2]
            with isolated(module):  # a probe in a probe
                assert module.advance() == [9, 10, 11, 3, 3, 3, first[6] + 3, first[7] + 3]
            assert module.advance()[:3] == [9, 10, 11]
            if fails:
                1 / 0  # noqa: B018
    assert module.one is module.same[0] is module.same[1]["again"] is kept
    assert module.advance() == [3, 4, 5, 1, 1, 1, first[6] + 1, first[7] + 1]
    assert not recwarn.list


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_a_queue_holds_what_it_held(kind, recwarn):
    queue, other = kind(maxsize=5), kind(maxsize=5)
    for one in (queue, other):
        for item in (5, 3, 8, 1):
            one.put(item)
    module = nn.Linear(1, 1)
    module.queue = queue
    for _ in range(2):
        with isolated(module):
            queue.get(), queue.get(), queue.put(4), queue.get()
            with isolated(module):
                queue.put(7), queue.get(), queue.get()
            queue.put(9)
            queue.task_done()
    assert queue.qsize() == 4
    assert [queue.get() for _ in range(4)] == [other.get() for _ in range(4)]
    assert not recwarn.list


@pytest.mark.parametrize("kind", [Queue, LifoQueue, PriorityQueue])
def test_a_queue_waits_for_as_many_tasks_as_before(kind):
    module = nn.Linear(1, 1)
    module.queue = kind()
    for item in (5, 3):
        module.queue.put(item)
    with isolated(module):
        module.queue.put(1), module.queue.put(9)
        taken = [module.queue.get() for _ in range(3)]
    assert len(taken) == 3
    assert (module.queue.unfinished_tasks, module.queue.qsize()) == (2, 2)
    for _ in range(2):
        module.queue.get()
        module.queue.task_done()
    module.queue.join()  # does not wait


@pytest.mark.parametrize("kind", [Queue, LifoQueue])
def test_equal_items_of_a_queue_are_those_that_were_there(kind):
    module, items = nn.Linear(1, 1), [[1], [1]]
    module.queue = kind()
    for item in items:
        module.queue.put(item)
    with isolated(module):
        module.queue.put([1])
        for _ in range(3):
            module.queue.get()
        module.queue.put([1])
    found = [module.queue.get() for _ in range(2)]
    assert [id(one) for one in found] == [id(one) for one in (items if kind is Queue else items[::-1])]


def test_what_other_threads_do_to_a_queue_stays():
    queue = Queue()
    queue.put("first"), queue.put("second")
    module = nn.Linear(1, 1)
    module.queue = queue
    with isolated(module):
        thread = threading.Thread(target=lambda: (queue.put("new"), queue.get()))
        queue.put("own")
        thread.start()
        thread.join()  # it has taken the first
        assert queue.get() == "second"
    assert [queue.get() for _ in range(queue.qsize())] == ["second", "new"]
    queue.put("later")
    assert queue.get() == "later"


MEMORY = {
    "text": (lambda: io.StringIO("abcdef"), lambda v: (v.read(2), v.write("xyz")), lambda v: (v.getvalue(), v.tell())),
    "bytes": (lambda: io.BytesIO(b"abc"), lambda v: (v.seek(0, 2), v.write(b"x")), lambda v: (v.getvalue(), v.tell())),
    "shared number": (lambda: multiprocessing.Value("i", 3), lambda v: setattr(v, "value", 4), lambda v: v.value),
    "shared numbers": (lambda: multiprocessing.Array("d", [1, 2]), lambda v: v.__setitem__(0, 9), lambda v: v[:]),
    "number of C": (lambda: ctypes.c_double(2), lambda v: setattr(v, "value", 3), lambda v: v.value),
    "numbers of C": (lambda: (ctypes.c_int * 2)(1, 2), lambda v: v.__setitem__(1, 5), lambda v: v[:]),
}


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_and_files_in_memory_are_as_they_were(kind, recwarn):
    make, change, shown = MEMORY[kind]
    module = nn.Linear(1, 1)
    module.value = make()
    before = shown(module.value)
    with isolated(module):
        change(module.value)
        assert shown(module.value) != before
    assert shown(module.value) == before
    assert not recwarn.list


@pytest.mark.parametrize("mode", ["r", "rb"])
def test_a_file_that_is_read_goes_on_where_it_was(tmp_path, mode, recwarn):
    path = tmp_path / "lines"
    path.write_text("one\ntwo\nthree\n")
    module = nn.Linear(1, 1)
    with path.open(mode) as module.file:
        first = module.file.readline()
        with isolated(module):
            module.file.readline(), module.file.readline()
        assert [first[:3], module.file.readline()[:3]] == (["one", "two"] if mode == "r" else [b"one", b"two"])
    assert not recwarn.list


def test_files_whose_position_is_unknown_or_that_are_closed_are_left_alone(tmp_path):
    path = tmp_path / "lines"
    path.write_text("one\ntwo\nthree\n")
    module = nn.Linear(1, 1)
    with path.open() as module.looped, path.open() as module.closed:
        module.closed.close()
        next(module.looped)
        with isolated(module):
            pass
        assert next(module.looped) == "two\n"
