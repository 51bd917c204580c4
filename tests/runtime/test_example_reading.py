"""Training examples are read again, from their seed alone, and whatever they are read from stays as it was."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import time
from contextlib import closing

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from synbench_lightning.runtime import example_reading, shared_state
from synbench_lightning.runtime.example_reading import ExpensiveError, TrainingExamples, UnreadableError
from synbench_lightning.runtime.shared_state import files_are_open

X = torch.arange(160.0)[:, None].expand(160, 3)


class Drawing(Dataset):
    """The number of an example, and what is random about it."""

    def __init__(self, length=160):
        self.length, self.count = length, 0
        self.generator, self.rng = torch.Generator().manual_seed(1), np.random.default_rng(1)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.count += 1
        own = torch.rand(1, generator=self.generator) + self.rng.random()
        return torch.cat([X[index], torch.rand(1), own])


def read(loader, views=2, examples=128, whole=True, seconds=60.0, seed=0, **arguments):
    """Batches by view, over all chunks."""
    source = TrainingExamples(loader, seed, **arguments)
    chunks = source.chunks(examples, whole)
    order = [(view, chunk) for chunk in range(len(chunks)) for view in range(views)]
    found = list(source.read(chunks, iter(order), seconds))
    assert [(one.view, one.chunk) for one in found] == order
    return [[one.batch for one in found if one.view == view] for view in range(views)]


def numbers(batches):
    return [int(row[0]) for batch in batches for row in batch]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("whole", [True, False])
def test_the_same_examples_come_back_in_other_views_and_the_dataset_stays_as_it_was(workers, whole):
    dataset = Drawing()
    loader = DataLoader(dataset, batch_size=16, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    state, before = dataset.generator.get_state(), torch.get_rng_state()
    one, other = read(loader, whole=whole)
    assert numbers(one) == numbers(other)
    assert len(set(numbers(one))) == 128
    assert [len(batch) for batch in one] == ([128] if whole else [16] * 8)
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert dataset.count == 0
    assert torch.equal(dataset.generator.get_state(), state)
    assert torch.equal(torch.get_rng_state(), before)
    assert loader._iterator is None


@pytest.mark.parametrize("arguments", [{"batch_size": 16}, {"batch_size": 5, "num_workers": 2}])
def test_what_is_random_depends_on_seed_view_and_example_alone(arguments):
    torch.manual_seed(3)
    own, again, other = (read(DataLoader(Drawing(), **arguments), seed=seed) for seed in (0, 0, 1))
    plain = read(DataLoader(Drawing(), shuffle=True, batch_size=2))
    assert torch.equal(own[0][0], again[0][0])
    assert not torch.equal(own[0][0], other[0][0])
    assert torch.equal(own[1][0], plain[1][0])


def test_a_subset_is_read_and_nothing_else():
    indices = [3, 5, 8, *range(50, 90)]
    for sampler in (SubsetRandomSampler(indices), SubsetRandomSampler(np.array(indices))):
        found, _ = read(DataLoader(Drawing(), batch_size=8, sampler=sampler))
        assert set(numbers(found)) == set(indices)
    weights = torch.zeros(160)
    weights[indices] = 1
    found, _ = read(DataLoader(Drawing(), batch_size=8, sampler=WeightedRandomSampler(weights, 1000)))
    assert set(numbers(found)) == set(indices)


def test_every_process_and_one_process_choose_the_same_examples():
    dataset = Drawing()
    found = [
        numbers(read(DataLoader(dataset, batch_size=8, sampler=sampler))[0])
        for sampler in (DistributedSampler(dataset, 2, 0), DistributedSampler(dataset, 2, 1), None)
    ]
    assert found[0] == found[1] == found[2]


def test_batches_of_an_epoch_that_is_cut_short_are_those_that_are_trained_on():
    found, _ = read(DataLoader(Drawing(), batch_size=8), batches=5)
    assert set(numbers(found)) == set(range(40))
    shuffled, _ = read(DataLoader(Drawing(), batch_size=8, shuffle=True), batches=5)
    assert len(set(numbers(shuffled))) == 128


class Odd(Sampler):
    """Odd numbers, in an order that its epoch decides; with replacement."""

    def __init__(self):
        self.epoch, self.iterations = 3, 0

    def __iter__(self):
        self.iterations += 1
        yield from (2 * np.random.default_rng(self.epoch).integers(80, size=400) + 1).tolist()


def test_a_sampler_of_another_kind_is_asked_in_another_process():
    sampler = Odd()
    found, _ = read(DataLoader(Drawing(), batch_size=8, sampler=sampler))
    assert sampler.iterations == 0
    assert set(numbers(found)) <= set(range(1, 160, 2))
    assert len(set(numbers(found))) == len(numbers(found))


def test_batches_of_a_batch_sampler_of_another_kind_stay_together():
    class Buckets(BatchSampler):
        def __iter__(self):
            yield from ([*range(start, start + 10), start] for start in range(0, 160, 10))

    found, _ = read(DataLoader(Drawing(), batch_sampler=Buckets(Odd(), 10, False)))
    assert [len(batch) for batch in found] == [10] * 13
    assert all(len({number // 10 for number in numbers([batch])}) == 1 for batch in found)


def test_loaders_without_batches_give_whole_ones():
    class OfBatches(Drawing):
        def __getitem__(self, index):
            return super().__getitem__([4 * index, 4 * index + 1, 4 * index + 2, 4 * index + 3][0]).expand(4, -1)

    source = TrainingExamples(DataLoader(OfBatches(40), batch_size=None), 0)
    chunks = source.chunks(128, whole=True)
    assert {len(chunk[0]) for chunk in chunks} == {1}
    (first,) = source.read(chunks[:1], iter([(0, 0)]), 60)
    assert source.size(chunks[0], first.batch) == 4


def test_several_examples_are_fetched_at_once_where_the_dataset_can():
    class Together(Drawing):
        def __getitems__(self, indices):
            return [self[index] + 0.5 * (len(indices) == 128) for index in indices]

    found, _ = read(DataLoader(Together(), batch_size=16))
    assert all(number % 1 == 0.5 for number in found[0][:, 0].tolist())


def test_several_loaders_are_read_in_their_structure_with_their_sizes():
    loaders = {"a": DataLoader(Drawing(), batch_size=8), "b": [DataLoader(Drawing(40), batch_size=16, shuffle=True)]}
    (batch,), _ = read(loaders, whole=True)
    assert [len(batch["a"]), len(batch["b"][0])] == [128, 256]
    batches, _ = read(loaders, whole=False)
    assert {(len(batch["a"]), len(batch["b"][0])) for batch in batches} == {(8, 16)}


def test_what_a_worker_is_started_with_is_done_here_too():
    class Opened(Drawing):
        handle = None

        def __getitem__(self, index):
            return super().__getitem__(index) + self.handle

    def start(worker):
        get_worker_info().dataset.handle = 1000.0

    found, _ = read(DataLoader(Opened(), batch_size=16, num_workers=1, worker_init_fn=start))
    assert min(numbers(found)) >= 1000


class Holding(Drawing):
    def __init__(self, held):
        super().__init__()
        self.held = held


class Stream(IterableDataset):
    def __iter__(self):
        yield from X


def test_what_other_processes_would_notice_is_not_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(64))
    context = multiprocessing.get_context("fork")
    written = np.memmap(path, mode="r+", dtype=np.uint8)
    with path.open("rb") as file, path.open("r+b") as writable, closing(sqlite3.connect(":memory:")) as database:
        for dataset, reason, workers in (
            (Holding(context.Value("i")), "shares a counter", 0),
            (Holding([context.Array("i", 4)]), "shares a counter or an array", 0),
            (Holding({"queue": context.Queue()}), "has a queue", 0),
            (Holding(np.frombuffer(context.RawArray("d", 4))), "a writable array that is shared", 0),
            (Holding(written), "or memory-mapped", 0),
            (Holding(written[3:]), "or memory-mapped", 0),
            (Holding(file), "has an open file that its workers also read", 1),
            (Holding(writable), "has a file that is open for writing", 0),
            (Holding(database), "has an open database", 0),
            (Stream(), "Stream is a stream", 0),
        ):
            with pytest.raises(UnreadableError, match=reason):
                TrainingExamples(DataLoader(dataset, num_workers=workers), 0)
        with pytest.raises(UnreadableError, match="training reads from a int, not from a DataLoader"):
            TrainingExamples([3], 0)


def test_arrays_that_only_this_process_writes_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(160)))
    for held in (np.memmap(path, mode="r", dtype=np.uint8), np.memmap(path, mode="c", dtype=np.uint8), np.zeros(3)):
        read(DataLoader(Holding(held), batch_size=16))


def test_a_shared_tensor_is_read_and_not_written_to():
    class Caching(Holding):
        def __getitem__(self, index):
            self.held[index] += 1
            return super().__getitem__(index)

    dataset = Caching(torch.zeros(160).share_memory_())
    read(DataLoader(dataset, batch_size=16))
    assert not dataset.held.any()


def test_the_position_in_an_open_file_stays_and_what_is_written_to_another_meanwhile_too(tmp_path):
    class Lines(Holding):
        def __getitem__(self, index):
            self.held.seek(index)
            return super().__getitem__(index) + 0 * len(os.read(self.held.fileno(), 1))

    (tmp_path / "data").write_bytes(bytes(200))
    with (tmp_path / "data").open("rb", buffering=0) as file, (tmp_path / "log").open("w") as log:
        file.seek(7)
        source = TrainingExamples(DataLoader(Lines(file), batch_size=16), 0)
        for _ in source.read(source.chunks(128, True), iter([(0, 0), (1, 0)]), 60):
            log.write("read\n")
            log.flush()
        log.write("done\n")
        assert file.tell() == 7
    assert (tmp_path / "log").read_text() == "read\nread\ndone\n"


def test_two_processes_read_and_one_where_a_file_is_open(tmp_path, monkeypatch):
    class Where(Drawing):
        def __getitem__(self, index):
            return torch.tensor([index, os.getpid()])

    monkeypatch.setattr(example_reading, "files_are_open", lambda: False)  # the test runner has files open
    views = read(DataLoader(Where(), batch_size=16))
    assert numbers(views[0]) == numbers(views[1])
    assert len({int(batch[0, 1]) for (batch,) in views} - {os.getpid()}) == 2
    monkeypatch.undo()
    (tmp_path / "data").write_bytes(bytes(200))
    for mode in ("rb", "r+b"):
        with (tmp_path / "data").open(mode):
            assert files_are_open()
            assert len({int(batch[0, 1]) for (batch,) in read(DataLoader(Where(), batch_size=16))}) == 1


@pytest.mark.parametrize("how", ["raises", "dies", "hangs"])
def test_examples_that_cannot_be_read_are_reported(how, monkeypatch):
    class Faulty(Drawing):
        def __getitem__(self, index):
            if how == "raises":
                raise KeyError(f"no example {index}")
            if how == "dies":
                os._exit(3)
            time.sleep(20)

    monkeypatch.setattr(example_reading, "PATIENCE_SECONDS", 2.0)
    reason = {"raises": "KeyError: .*no example", "dies": "exited unexpectedly", "hangs": "timed out"}[how]
    with pytest.raises(UnreadableError, match=reason):
        read(DataLoader(Faulty(), batch_size=16))


def test_batches_that_take_too_much_time_or_memory_are_not_read(monkeypatch):
    class Slow(Drawing):
        def __getitem__(self, index):
            time.sleep(0.02)
            return super().__getitem__(index)

    def first(dataset, seconds):
        source = TrainingExamples(DataLoader(dataset, batch_size=16), 0)
        (found,) = source.read(source.chunks(128, True), iter([(0, 0)]), seconds)
        return found

    slow = first(Slow(), 0.5)
    assert slow.batch is None
    assert "a batch of 128 examples takes" in slow.problem
    monkeypatch.setattr(example_reading, "BATCH_BYTES", 1000)
    assert "GiB of memory" in first(Drawing(), 60).problem
    assert issubclass(ExpensiveError, UnreadableError)


@pytest.mark.parametrize("collate", [None, "closure"])
def test_where_no_process_can_be_started_copies_are_read(monkeypatch, collate):
    monkeypatch.setattr(example_reading.sys, "platform", "elsewhere")
    rng = np.random.default_rng(3)

    def noisy(examples):
        return torch.stack(examples) + rng.random()

    dataset, before = Drawing(), rng.bit_generator.state
    loader = DataLoader(dataset, batch_size=16, collate_fn=noisy if collate else None)
    one, other = read(loader)
    assert numbers(one) == numbers(other) != []
    assert not torch.equal(one[0], other[0])
    assert (dataset.count, rng.bit_generator.state) == (0, before)
    monkeypatch.setattr(example_reading, "COPY_BYTES", 10)
    with pytest.raises(UnreadableError, match="too large to copy"):
        TrainingExamples(DataLoader(Holding(torch.zeros(100))), 0)


def test_shared_tensors_that_are_too_large_for_a_copy_are_refused_unless_training_made_them_so(monkeypatch):
    monkeypatch.setattr(shared_state, "COPY_BYTES", 10)
    shared = Holding(torch.zeros(100).share_memory_())
    with pytest.raises(UnreadableError, match="too large to copy"):
        TrainingExamples(DataLoader(shared, batch_size=16), 0)
    TrainingExamples(DataLoader(shared, batch_size=16, num_workers=1, multiprocessing_context="spawn"), 0)
