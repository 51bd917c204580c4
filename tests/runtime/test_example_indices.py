"""Which examples are read again, in which batches, with which seeds, and what is too expensive; without processes."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, SubsetRandomSampler

from synbench_lightning.runtime import example_reading
from synbench_lightning.runtime.example_reading import (
    FIRST,
    MOST_WORKERS,
    READERS,
    ExpensiveError,
    TrainingExamples,
    UnreadableError,
    _batch_size,
    _different,
    _flat,
    _in_structure,
    _Indices,
    _Readings,
    _sampler_of,
    _shape_of,
    _Source,
    _WorkerStart,
    seed_of,
)
from synbench_lightning.runtime.isolation import isolated


class Numbers(Dataset):
    def __init__(self, length=160):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.tensor(index)


def chunks(loaders, examples=128, whole=False, **arguments):
    return TrainingExamples(loaders, 0, **arguments).chunks(examples, whole)


def sizes(found):
    return [tuple(len(indices) for indices in chunk) for chunk in found]


@pytest.mark.parametrize(
    ("batch_sizes", "examples", "whole", "expected"),
    [
        ([16], 128, False, [(16,)] * 8), ([16], 8, False, [(8,)]), ([1], 3, False, [(1,)] * 3),
        ([16], 40, True, [(40,)]), ([16], 40, False, [(16,), (16,), (8,)]),
        ([8, 16], 8, False, [(4, 8)] * 2), ([16, 8], 8, False, [(8, 4)]),
        ([8, 16], 32, True, [(32, 64)]), ([100, 1], 10, False, [(10, 1)]),
    ],
)  # fmt: skip
def test_batches_are_those_of_training_or_smaller_unless_all_examples_are_one(batch_sizes, examples, whole, expected):
    loaders = [DataLoader(Numbers(), size, shuffle=True) for size in batch_sizes]
    found = chunks(loaders, examples, whole)
    assert sizes(found) == expected
    first = [index for chunk in found for index in chunk[0]]
    assert len(set(first)) == len(first)


def test_no_example_comes_twice_but_those_of_a_smaller_second_dataset_do():
    (only,) = chunks([DataLoader(Numbers(40), 8), DataLoader(Numbers(10), 8)], whole=True)
    assert sorted(only[0]) == list(range(40))
    assert only[1][:10] == only[1][10:20]
    assert sorted(only[1][:10]) == list(range(10))
    assert len(only[1]) == 128
    assert chunks(DataLoader(Numbers(), 8, sampler=SubsetRandomSampler([]))) == []
    assert chunks([DataLoader(Numbers(), 8), DataLoader(Numbers(), 8, sampler=SubsetRandomSampler([]))]) == []


@pytest.mark.parametrize("indices", [[3, 5], np.array([3, 5]), torch.tensor([3, 5]), ["a", "b"]])
def test_a_subset_has_indices_of_python_or_names(indices):
    found = chunks(DataLoader(Numbers(), 8, sampler=SubsetRandomSampler(indices)))
    expected = indices if isinstance(indices, list) else indices.tolist()
    assert sorted(found[0][0]) == expected
    assert {type(index) for index in found[0][0]} == {type(expected[0])}


class Batches:
    """A batch sampler of another kind."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __iter__(self):
        yield [0, 1]


def test_the_size_of_batches_is_that_of_the_loader_or_of_its_batch_sampler_if_it_has_one():
    loaders = [
        DataLoader(Numbers(), 8), DataLoader(Numbers(), batch_sampler=Batches(batch_size=5)),
        DataLoader(Numbers(), None), DataLoader(Numbers(), batch_sampler=Batches()),
        DataLoader(Numbers(), batch_sampler=Batches(batch_size="many")),
    ]  # fmt: skip
    assert [_batch_size(loader) for loader in loaders] == [8, 5, 1, 1, 1]
    assert _sampler_of(loaders[1]) is loaders[1].batch_sampler
    assert _sampler_of(loaders[2]) is loaders[2].sampler


@pytest.mark.parametrize(("batches", "number"), [(float("inf"), 40), (3, 24), (9, 40)])
def test_of_an_epoch_in_order_only_the_batches_that_are_trained_on_are_read(batches, number):
    loaders = [DataLoader(Numbers(40), 8), DataLoader(Numbers(40), 4)]
    (first, second), *_ = chunks(loaders, whole=True, batches=batches)
    assert set(first) == set(range(number))
    assert set(second) == set(range(40))


def test_an_index_may_be_a_whole_batch():
    source = TrainingExamples(DataLoader(Numbers(), batch_size=None), 0)
    found = source.chunks(5, whole=False)
    assert sizes(found) == [(1,)] * 5
    assert source.size(found[0], torch.zeros(7, 2)) == 7
    assert source.size(found[0], [torch.tensor(3.0), torch.zeros(6, 2)]) == 6
    assert source.size(found[0], "text") == 1
    source = TrainingExamples([DataLoader(Numbers(), 3), DataLoader(Numbers(), None)], 0)
    assert source.size([[1, 2], [3]], None) == 2


@pytest.mark.parametrize(
    ("workers", "files", "expected"), [(0, False, READERS), (0, True, 1), (1, True, 1), (3, False, 3), (9, True, 4)]
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_as_many_processes_read_as_in_training_up_to_four(workers, files, expected, monkeypatch):
    assert MOST_WORKERS == 4
    monkeypatch.setattr(example_reading, "files_are_open", lambda: files)
    assert TrainingExamples(DataLoader(Numbers(), num_workers=workers), 0).workers == expected
    both = [DataLoader(Numbers()), DataLoader(Numbers(), num_workers=workers)]
    assert TrainingExamples(both, 0).workers == expected


@pytest.mark.parametrize(
    ("platform", "workers", "daemon", "expected"),
    [
        ("linux", [0, 0], False, True), ("linux", [1, 1], True, False), ("elsewhere", [1, 1], False, True),
        ("elsewhere", [1, 0], False, False), ("elsewhere", [0, 0], False, False), ("elsewhere", [0, 0], True, False),
    ],
)  # fmt: skip
def test_other_processes_read_where_they_can_be_started(platform, workers, daemon, expected, monkeypatch):
    monkeypatch.setattr(example_reading.sys, "platform", platform)
    monkeypatch.setattr(example_reading.multiprocessing, "current_process", lambda: SimpleNamespace(daemon=daemon))
    loaders = [DataLoader(Numbers(), num_workers=number) for number in workers]
    assert TrainingExamples(loaders, 0).in_processes == expected


def test_a_dataset_is_copied_up_to_a_size(monkeypatch):
    monkeypatch.setattr(example_reading.sys, "platform", "elsewhere")
    dataset = Numbers()
    dataset.values = torch.zeros(100)
    monkeypatch.setattr(example_reading, "COPY_BYTES", 400)
    assert not TrainingExamples(DataLoader(dataset), 0).in_processes
    monkeypatch.setattr(example_reading, "COPY_BYTES", 399)
    with pytest.raises(UnreadableError, match="too large to copy"):
        TrainingExamples(DataLoader(dataset), 0)


@pytest.mark.parametrize(
    ("workers", "method", "spawned"), [(0, None, False), (1, "fork", False), (1, "spawn", True), (1, None, None)]
)
def test_workers_may_be_spawned(workers, method, spawned):
    loader = DataLoader(Numbers(), num_workers=workers, multiprocessing_context=method)
    by_default = example_reading.multiprocessing.get_start_method() != "fork"
    assert TrainingExamples(loader, 0).spawned == (by_default if spawned is None else spawned)


def test_only_what_loaders_start_workers_with_is_run(monkeypatch):
    info, started = SimpleNamespace(dataset=None), []
    monkeypatch.setattr(example_reading, "get_worker_info", lambda: info)

    def start(worker):
        started.append((worker, info.dataset))

    one, other, third = Numbers(), Numbers(), Numbers()
    _WorkerStart(
        [DataLoader(one, num_workers=1, worker_init_fn=start), DataLoader(other, worker_init_fn=start),
         DataLoader(third, num_workers=1)]
    )(2)  # fmt: skip
    assert started == [(2, one)]
    assert info.dataset is one


def test_loaders_and_batches_have_one_structure():
    one, two, three = (DataLoader(Numbers()) for _ in range(3))
    loaders = {"a": one, "b": [two, (three,)]}
    assert _flat(loaders) == [one, two, three]
    structure = _shape_of(loaders)
    assert structure == {"a": None, "b": [None, (None,)]}
    assert _in_structure(structure, iter("xyz")) == {"a": "x", "b": ["y", ("z",)]}
    for nothing in ([], (), [3], None, [[]]):
        with pytest.raises(UnreadableError, match="not from a DataLoader"):
            _flat(nothing)


def test_what_has_no_indices_is_not_read():
    with pytest.raises(UnreadableError, match="SimpleNamespace has no indices"):
        TrainingExamples(DataLoader(SimpleNamespace(__len__=lambda: 3), batch_size=None), 0)


@pytest.mark.parametrize(
    ("batches", "examples", "expected"),
    [
        ([[1, 1, 2], [2, 3]], 9, [[1, 2], [3]]), ([[1, 2], [2, 1], [3]], 3, [[1, 2], [3]]),
        ([[1, 2], [3]], 2, [[1, 2]]),
        ([[1, 2], [3, 4], [5]], 3, [[1, 2], [3, 4]]), ([[[1], [1], [2]]], 9, [[[1], [2]]]), ([], 9, []), ([[]], 9, []),
    ],
)  # fmt: skip
def test_repeated_examples_are_dropped_and_batches_taken_until_there_are_enough(batches, examples, expected):
    assert _different(batches, examples) == expected


def first_batches(sampler, examples):
    with isolated(None):
        return pickle.loads(_Indices(sampler, examples, 0)[None])


def test_a_sampler_is_asked_until_there_are_enough_examples_or_only_the_same_ones(monkeypatch):
    assert first_batches(SequentialSampler(range(9)), 4) == [[0], [1], [2], [3]]
    assert first_batches(BatchSampler(SequentialSampler(range(9)), 2, False), 4) == [[0, 1], [2, 3]]
    assert first_batches(iter([(0, 1), (1, 0), (2, 3)]), 4) == [[0, 1], [1, 0], [2, 3]]
    monkeypatch.setattr(example_reading, "MOST_REPEATED", 5)
    assert first_batches([7] * 9, 4) == [[7]] * 5


def reading(dataset, indices, seconds=100.0, collate=list, by_batch=False):
    return _Readings(None, [_Source(dataset, collate, by_batch)], [[indices]], 0, seconds).read(0, 0)


class Timed(Dataset):
    """On a clock that only it moves."""

    def __init__(self, *seconds):
        self.now, self.seconds = 1000.0, list(seconds)

    def __getitem__(self, index):
        self.now += self.seconds[index]
        return torch.zeros(4)


@pytest.mark.parametrize(
    ("seconds", "limit", "problem"),
    [
        ([2] * 8, 15.9, "a batch of 8 examples takes 16 s to read"), ([2] * 8, 16.0, ""), ([8, 0, 0, 0] * 2, 16.0, ""),
        ([0, 0, 0, 0, 9, 9, 9, 9], 16.0, ""), ([9, 9, 9], 16.0, ""),
    ],
)  # fmt: skip
def test_the_time_of_a_batch_is_estimated_from_its_first_examples(seconds, limit, problem, monkeypatch):
    assert FIRST == 4
    dataset = Timed(*seconds)
    monkeypatch.setattr(example_reading, "time", SimpleNamespace(perf_counter=lambda: dataset.now))
    with isolated(None):
        found = reading(dataset, list(range(len(seconds))), limit)
    assert found.problem == problem
    assert (found.batch is None) == bool(problem)
    assert found.seconds == (8 if problem else sum(seconds))


@pytest.mark.parametrize(("size", "problem"), [(128, ""), (127, "a batch of 8 examples takes 1.2e-07 GiB of memory")])
def test_the_size_of_a_batch_is_estimated_too(size, problem, monkeypatch):
    monkeypatch.setattr(example_reading, "BATCH_BYTES", size)
    with isolated(None):
        assert reading(Timed(*[0] * 8), list(range(8))).problem == problem
    assert issubclass(ExpensiveError, UnreadableError)


class Drawing(Dataset):
    def __getitem__(self, index):
        return torch.rand(())


def test_what_is_random_depends_on_the_example_the_view_and_the_seed():
    def draw(indices, view=0, seed=0, **arguments):
        source = _Source(Drawing(), arguments.pop("collate", list), arguments.pop("by_batch", False))
        with isolated(None):
            return _Readings(None, [source], [[indices]], seed, 9.0).read(view, 0).batch

    one, two, three = draw([3, 4, 5])
    assert len({one.item(), two.item(), three.item()}) == 3
    assert draw([5]) == [three]
    assert draw([5], view=1) != [three]
    assert draw([5], seed=1) != [three]
    assert draw(["long" * 20 + "a"]) != draw(["long" * 20 + "b"])
    collates = [draw([3, 4], collate=lambda examples: torch.rand(())) for _ in range(2)]
    assert collates[0] == collates[1]
    wholes = [draw([3], by_batch=True, collate=lambda batch: batch) for _ in range(2)]
    assert wholes[0] == wholes[1]


def test_seeds_are_the_same_in_every_version():
    assert seed_of(0, 1, "a") == 1207952543457639433
    assert seed_of(3) == 2379971800787122697
