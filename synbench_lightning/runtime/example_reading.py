"""Read the same training examples several times, in a process of its own, on the way that training reads them."""

from __future__ import annotations

import copy
import io
import multiprocessing
import os
import socket
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.seeded_calls import reached, seeder

PATIENCE_SECONDS = 120.0
"""A batch that takes longer ends the reading: a process may wait for something that only training's has."""
MOST_WORKERS = 4
FIRST = 4
"""Examples of a batch that tell how long it takes."""
COPY_BYTES = 2**28
"""Datasets with more in their tensors and arrays are not copied, where no process can be forked."""

Index = Any
Chunk = list[list[Index]]
"""For each loader the indices of one batch."""


class UnreadableError(Exception):
    """The examples cannot be read again; the message says why."""


class SlowError(UnreadableError):
    """Reading a batch takes too long."""


class Read(NamedTuple):
    """A batch that was read: number of the view, number of the chunk, the batch, and how long it took.

    Where its first examples show that it takes too long, the batch is ``None``, and ``seconds`` what it would take.
    """

    view: int
    chunk: int
    batch: Any
    seconds: float


class TrainingExamples:
    """The examples of training loaders, to be read any number of times.

    Nothing of the loaders changes: a forked process reads, or a copy of the dataset where no process can be forked.
    What is drawn at random depends on the seed, the view and the example alone.

    Args:
        loaders: a DataLoader, or a list, tuple or mapping of them.
        seed: of what is drawn.

    Raises:
        UnreadableError: for streams and other loaders, or where reading might leave a trace.
    """

    def __init__(self, loaders: Any, seed: int) -> None:
        self.structure, self.seed = loaders, seed
        self.loaders = _flat(loaders)
        for loader in self.loaders:
            if reason := _why_not(loader):
                raise UnreadableError(reason)
        workers = max(loader.num_workers for loader in self.loaders)
        self.workers = max(1, min(workers, MOST_WORKERS))
        self.forks = sys.platform == "linux" and not multiprocessing.current_process().daemon
        if not self.forks:
            _refuse_large(self.loaders)

    def chunks(self, examples: int, whole: bool) -> list[Chunk]:
        """Indices of at least so many different examples of the first loader.

        Args:
            examples: their number.
            whole: whether all of them are one batch; else batches are as large as in training, or smaller.
        """
        sizes = [_batch_size(loader) for loader in self.loaders]
        scale = examples / sizes[0] if whole else min(1.0, examples / max(sizes))
        sizes = [max(1, round(size * scale)) for size in sizes]
        number = -(-examples // sizes[0])
        found = []
        for place, (loader, size) in enumerate(zip(self.loaders, sizes, strict=True)):
            pool = _known_indices(loader)
            if pool is None:
                batches = self._sampled(loader, number)
            else:
                order = np.random.default_rng([self.seed, place]).permutation(len(pool))
                order = order[: size * number] if place == 0 else np.resize(order, size * number)
                indices = [pool[int(position)] for position in order]
                batches = [indices[start : start + size] for start in range(0, len(indices), size)]
            found.append(batches)
        return [[batches[row] for batches in found] for row in range(min(map(len, found)))]

    def read(self, chunks: Sequence[Chunk], order: Iterable[tuple[int, int]], seconds: float) -> Iterator[Read]:
        """Batches, one after the other.

        Args:
            chunks: of indices.
            order: number of the view and of the chunk of each batch. What it yields may depend on what was read, with
                the delay of a few batches that are read ahead.
            seconds: that a batch may take.

        Raises:
            UnreadableError: if an example cannot be read.
        """
        readings = _Readings(self.structure, self.loaders, chunks, self.seed, seconds)
        return self._forked(readings, order) if self.forks else self._read_in_copies(readings, order)

    def _sampled(self, loader: DataLoader[Any], batches: int) -> list[list[Index]]:
        """The first batches of indices of a sampler that is not known, iterated in a forked process."""
        if not self.forks:
            raise UnreadableError(f"which examples a {type(loader.sampler).__name__} draws cannot be found out here")
        (found,) = self._forked(_Indices(loader, batches, self.seed), [0])
        return found  # type: ignore[no-any-return]

    def _forked(self, readings: Dataset[Any], order: Iterable[Any]) -> Iterator[Any]:
        first = self.loaders[0]
        context = first.multiprocessing_context if first.num_workers else "fork"
        start = worker_start(first)
        with _file_positions_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forks beside threads, as for every loader with workers
            loader = DataLoader(
                readings, batch_size=None, sampler=order, num_workers=self.workers, worker_init_fn=start,
                generator=torch.Generator().manual_seed(self.seed), timeout=PATIENCE_SECONDS,
                multiprocessing_context=context, collate_fn=_same,
            )  # fmt: skip
            try:
                yield from loader
            except GeneratorExit:
                raise
            except Exception as error:
                raise UnreadableError(_first_line(error)) from error

    def _read_in_copies(self, readings: _Readings, order: Iterable[tuple[int, int]]) -> Iterator[Read]:
        try:
            readings = copy.deepcopy(readings)
        except Exception as error:
            raise UnreadableError(f"the dataset cannot be copied ({_first_line(error)})") from error
        with isolated(None):
            for numbers in order:
                try:
                    yield readings[numbers]
                except Exception as error:
                    raise UnreadableError(_first_line(error)) from error


class _Readings(Dataset[Any]):
    """The batches to be read, by the numbers of view and chunk."""

    def __init__(
        self, structure: Any, loaders: list[DataLoader[Any]], chunks: Sequence[Chunk], seed: int, seconds: float
    ) -> None:
        self.structure, self.loaders, self.chunks, self.seed = structure, loaders, chunks, seed
        self.seconds = seconds
        self.seeders: dict[int, Callable[[int], None]] = {}

    def __getitem__(self, numbers: tuple[int, int]) -> Read:
        view, chunk = numbers
        start = time.perf_counter()
        try:
            batches = [
                self._batch(place, loader, indices, view)
                for place, (loader, indices) in enumerate(zip(self.loaders, self.chunks[chunk], strict=True))
            ]
        except _TooSlow as slow:
            return Read(view, chunk, None, slow.seconds)
        return Read(view, chunk, _in_structure(self.structure, iter(batches)), time.perf_counter() - start)

    def _batch(self, place: int, loader: DataLoader[Any], indices: list[Index], view: int) -> Any:
        dataset: Any = loader.dataset
        if place not in self.seeders:
            self.seeders[place] = seeder(loader.dataset, loader.collate_fn)
        seed = self.seeders[place]
        if loader.batch_sampler is None:  # an index stands for a whole batch
            seed(seed_of(self.seed, view, place, indices[0]))
            return loader.collate_fn(dataset[indices[0]])
        if callable(getattr(dataset, "__getitems__", None)):
            seed(seed_of(self.seed, view, place, *indices))
            examples = dataset.__getitems__(indices)
        else:
            examples = []
            start = time.perf_counter()
            for index in indices:
                seed(seed_of(self.seed, view, place, index))
                examples.append(dataset[index])
                expected = (time.perf_counter() - start) / len(examples) * len(indices)
                if len(examples) >= FIRST and expected > self.seconds:
                    raise _TooSlow(expected)
        seed(seed_of(self.seed, view, place, *indices, "collate"))
        return loader.collate_fn(examples)


class _TooSlow(Exception):  # noqa: N818 (ends a batch)
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class _Indices(Dataset[Any]):
    """The first batches of a sampler, as its one item."""

    def __init__(self, loader: DataLoader[Any], batches: int, seed: int) -> None:
        self.loader, self.batches, self.seed = loader, batches, seed

    def __getitem__(self, _: int) -> list[list[Index]]:
        sampler = self.loader.batch_sampler
        seeder(sampler or self.loader.sampler)(self.seed)
        if sampler is None:
            return [[index] for index, _ in zip(self.loader.sampler, range(self.batches), strict=False)]
        return [list(batch) for batch, _ in zip(sampler, range(self.batches), strict=False)]


def worker_start(loader: DataLoader[Any]) -> Callable[[int], None] | None:
    """What the loader does in each of its processes; nothing, where it has none."""
    return loader.worker_init_fn if loader.num_workers else None


def _flat(loaders: Any) -> list[DataLoader[Any]]:
    if isinstance(loaders, DataLoader):
        return [loaders]
    if isinstance(loaders, Mapping):
        return [one for inner in loaders.values() for one in _flat(inner)]
    if isinstance(loaders, (list, tuple)) and loaders:
        return [one for inner in loaders for one in _flat(inner)]
    raise UnreadableError(f"training reads from a {type(loaders).__name__}, not from a DataLoader")


def _in_structure(structure: Any, batches: Iterator[Any]) -> Any:
    if isinstance(structure, DataLoader):
        return next(batches)
    if isinstance(structure, Mapping):
        return {key: _in_structure(inner, batches) for key, inner in structure.items()}
    return type(structure)([_in_structure(inner, batches) for inner in structure])


def _batch_size(loader: DataLoader[Any]) -> int:
    sampler: Any = loader.batch_sampler
    size = loader.batch_size or getattr(sampler, "batch_size", None)
    return size if isinstance(size, int) and loader.batch_sampler is not None else 1


def _known_indices(loader: DataLoader[Any]) -> Sequence[Index] | None:
    """The indices that a sampler of torch draws from; ``None`` for others."""
    sampler: Any = loader.sampler
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
        return None
    if type(sampler) is SubsetRandomSampler:
        return list(sampler.indices)
    if type(sampler) is WeightedRandomSampler:
        return torch.as_tensor(sampler.weights).nonzero().flatten().tolist()
    if type(sampler) in (RandomSampler, SequentialSampler, DistributedSampler):
        return range(len(loader.dataset))  # type: ignore[arg-type]
    return None


def _why_not(loader: DataLoader[Any]) -> str | None:
    """Why the examples of a loader cannot be read again without a trace; ``None`` if they can."""
    if isinstance(loader.dataset, IterableDataset):
        return f"a {type(loader.dataset).__name__} is a stream"
    if not hasattr(loader.dataset, "__getitem__"):
        return f"a {type(loader.dataset).__name__} has no indices"
    for value in reached(loader.dataset, loader.collate_fn, loader.sampler):
        if isinstance(value, SynchronizedBase):
            return "the dataset shares a counter or an array with other processes"
        if isinstance(value, socket.socket):
            return "the dataset has an open connection"
        if isinstance(value, io.IOBase) and loader.num_workers and _is_open_file(value):
            return "the dataset has an open file that its workers read too"
        if isinstance(value, torch.Tensor) and value.is_shared() and value.device.type == "cpu":
            return "the dataset shares a tensor with other processes"
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return f"the dataset has tensors on {value.device}, which no other process can read"
    return None


def _is_open_file(value: io.IOBase) -> bool:
    with suppress(Exception):
        return not value.closed and value.fileno() >= 0
    return False


def _refuse_large(loaders: Sequence[DataLoader[Any]]) -> None:
    size = 0
    for loader in loaders:
        for value in reached(loader.dataset):
            size += value.nbytes if isinstance(value, (np.ndarray, torch.Tensor)) else 0
    if size > COPY_BYTES:
        raise UnreadableError("no process can be forked here, and the dataset is too large to be copied")


@contextmanager
def _file_positions_kept() -> Iterator[None]:
    """A forked process shares the positions in open files: they are put back."""
    kept: dict[int, int] = {}
    with suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError, ValueError):
                descriptor = int(name)
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    kept[descriptor] = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        yield
    finally:
        for descriptor, position in kept.items():
            with suppress(OSError):
                if os.lseek(descriptor, 0, os.SEEK_CUR) != position:
                    os.lseek(descriptor, position, os.SEEK_SET)


def seed_of(*parts: Any) -> int:
    """A seed that depends on some values, by what they look like."""
    entropy = [int.from_bytes(repr(part).encode()[:64], "little") for part in parts]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1


def _same(value: Any) -> Any:
    return value


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
