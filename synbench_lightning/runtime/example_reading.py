"""Read the same training examples several times in a separate process, through the pipeline of training."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
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
    get_worker_info,
)

from synbench_lightning.runtime.seeded_calls import seeded, seeder
from synbench_lightning.runtime.shared_state import (
    COPY_BYTES,
    bytes_reached,
    file_positions_kept,
    files_are_open,
    make_private,
    trace_of_reading,
)
from synbench_lightning.runtime.structures import tensors_in

PATIENCE_SECONDS = 60.0  # mutants: memory and time alone
"""Timeout per batch: a process may wait for something that only training's processes have."""
MOST_WORKERS = 4  # mutants: memory and time alone
READERS = 2  # mutants: memory and time alone
"""Number of processes if training uses no workers; one if a file is open, since processes share its position."""
FIRST = 4  # mutants: memory and time alone
"""Number of examples of a batch from which its time and size are estimated."""
BATCH_BYTES = 2**29  # mutants: memory and time alone
"""Larger batches are not read."""

MOST_REPEATED = 1000  # mutants: memory and time alone
"""Maximum number of batches taken from a sampler that repeats examples."""

Index = Any
Chunk = list[list[Index]]
"""The indices of one batch for each loader."""


class UnreadableError(Exception):
    """The examples cannot be read again; the message says why."""


class ExpensiveError(UnreadableError):
    """A batch takes too much time or memory; fewer examples may suffice."""


class Read(NamedTuple):
    """A batch that was read: index of the view, index of the chunk, the batch, and the seconds that it took.

    If its first examples indicate that it takes too much time or memory, ``batch`` is ``None`` and ``problem`` says so.
    """

    view: int
    chunk: int
    batch: Any
    seconds: float
    problem: str = ""


class TrainingExamples:
    """The examples of training loaders, which can be read any number of times.

    The loaders are not changed: a separate process reads, or a copy of the dataset if no process can be started.
    Random transforms depend only on the seed, the view and the example.

    Args:
        loaders: a DataLoader, or a list, tuple or mapping of them.
        seed: seed of random transforms.
        batches: batches per epoch of the first loader, if its sampler is sequential.

    Raises:
        UnreadableError: for streams and other kinds of loaders, or if reading might have side effects.
    """

    def __init__(self, loaders: Any, seed: int, batches: float = float("inf")) -> None:
        self.structure, self.seed, self.batches = _shape_of(loaders), seed, batches
        self.loaders = _flat(loaders)
        self.spawned = any(_is_spawned(loader) for loader in self.loaders)
        for loader in self.loaders:
            if reason := _why_not(loader, self.spawned):
                raise UnreadableError(reason)
        workers = max(loader.num_workers for loader in self.loaders)
        self.workers = min(workers, MOST_WORKERS) or (1 if files_are_open() else READERS)
        can_start = sys.platform == "linux" or all(loader.num_workers for loader in self.loaders)
        self.in_processes = can_start and not multiprocessing.current_process().daemon
        if not self.in_processes and bytes_reached(*(loader.dataset for loader in self.loaders)) > COPY_BYTES:
            raise UnreadableError("no process can be started here, and the dataset is too large to copy")

    def chunks(self, examples: int, whole: bool) -> list[Chunk]:
        """Indices of distinct examples of the first loader, in chunks.

        Args:
            examples: maximum number of examples.
            whole: whether all examples form one batch; otherwise batches are at most as large as in training. Batches
                of a custom batch sampler are not changed.
        """
        sizes = [_batch_size(loader) for loader in self.loaders]
        scale = examples / sizes[0] if whole else min(1.0, examples / max(sizes))
        sizes = [
            max(1, round(size * scale)) if loader.batch_sampler is not None else 1  # else an index is a whole batch
            for loader, size in zip(self.loaders, sizes, strict=True)
        ]
        found: list[list[list[Index]]] = []
        for number, (loader, size) in enumerate(zip(self.loaders, sizes, strict=True)):
            wanted = examples if number == 0 else size * len(found[0])
            if loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler:
                batches = _different(self._sampled(loader, wanted), wanted)
            else:
                known = self._known_indices(loader, first=number == 0)
                pool = [one for batch in self._sampled(loader, wanted) for one in batch] if known is None else known
                order = np.random.default_rng([self.seed, number]).permutation(len(pool))
                (indices,) = _different([[pool[int(position)] for position in order[:wanted]]], wanted) or [[]]
                if number and indices:
                    indices = [indices[position % len(indices)] for position in range(wanted)]
                batches = [indices[start : start + size] for start in range(0, len(indices), size)]
            found.append(batches)
        return [[batches[row] for batches in found] for row in range(min(map(len, found)))]

    def read(self, chunks: Sequence[Chunk], order: Iterable[tuple[int, int]], seconds: float) -> Iterator[Read]:
        """Yield batches.

        Args:
            chunks: indices of the batches.
            order: indices of view and chunk of each batch. It may depend on earlier batches, delayed by prefetching.
            seconds: maximum time per batch.

        Raises:
            UnreadableError: if an example cannot be read.
        """
        sources = [_Source.of(loader) for loader in self.loaders]
        readings = _Readings(self.structure, sources, chunks, self.seed, seconds)
        return self._in_processes(readings, order) if self.in_processes else self._in_copies(readings, order)

    def size(self, chunk: Chunk, batch: Any) -> int:
        """Number of examples of the first loader in a batch."""
        if self.loaders[0].batch_sampler is not None:
            return len(chunk[0])
        return next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 1)

    def _known_indices(self, loader: DataLoader[Any], first: bool) -> Sequence[Index] | None:
        """The indices of one of torch's samplers; ``None`` for other samplers."""
        sampler: Any = loader.sampler
        if type(sampler) is SubsetRandomSampler:
            return [index.item() if hasattr(index, "item") else index for index in sampler.indices]
        if type(sampler) is WeightedRandomSampler:
            return torch.as_tensor(sampler.weights).nonzero().flatten().tolist()
        if type(sampler) is SequentialSampler:  # the same ones in each epoch
            number = len(loader.dataset)  # type: ignore[arg-type]
            return range(int(min(number, self.batches * _batch_size(loader))) if first else number)
        if type(sampler) in (RandomSampler, DistributedSampler):
            return range(len(loader.dataset))  # type: ignore[arg-type]
        return None

    def _sampled(self, loader: DataLoader[Any], examples: int) -> list[list[Index]]:
        """The first batches of indices of a custom sampler, iterated in a separate process."""
        if not self.in_processes:
            raise UnreadableError(
                f"the examples that a {type(loader.sampler).__name__} selects cannot be determined here"
            )
        (found,) = self._in_processes(_Indices(_sampler_of(loader), examples, self.seed), [None])
        return found  # type: ignore[no-any-return]

    def _in_processes(self, readings: Dataset[Any], order: Iterable[Any]) -> Iterator[Any]:
        first = next((loader for loader in self.loaders if loader.num_workers), self.loaders[0])
        context = first.multiprocessing_context if first.num_workers else "fork"
        with file_positions_kept():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about forking with threads, as for every loader with workers
                    loader = DataLoader(
                        readings, batch_size=None, sampler=order, num_workers=self.workers, collate_fn=_same,
                        worker_init_fn=_WorkerStart(self.loaders), timeout=PATIENCE_SECONDS,
                        generator=torch.Generator().manual_seed(self.seed), multiprocessing_context=context,
                    )  # fmt: skip
                    batches = iter(loader)
                for packed in batches:
                    read = pickle.loads(packed)
                    del packed
                    yield read
            except GeneratorExit:
                raise
            except Exception as error:
                raise UnreadableError(_last_line(error)) from error

    def _in_copies(self, readings: _Readings, order: Iterable[tuple[int, int]]) -> Iterator[Read]:
        try:
            readings = copy.deepcopy(readings)
        except Exception as error:
            raise UnreadableError(f"the dataset cannot be copied ({_last_line(error)})") from error
        collates = [source.collate for source in readings.sources]  # functions are not copied
        for numbers in order:
            with seeded(self.seed, *collates):
                try:
                    read = readings.read(*numbers)
                except Exception as error:
                    raise UnreadableError(_last_line(error)) from error
            yield read


class _Source(NamedTuple):
    """The dataset and collate function of a loader."""

    dataset: Any
    collate: Callable[[Any], Any]
    by_batch: bool
    """Whether an index stands for a whole batch."""

    @classmethod
    def of(cls, loader: DataLoader[Any]) -> _Source:
        return cls(loader.dataset, loader.collate_fn, loader.batch_sampler is None)


class _Readings(Dataset[Any]):
    """Dataset of batches by indices of view and chunk; batches are pickled, since shared memory may be scarce."""

    def __init__(
        self, structure: Any, sources: list[_Source], chunks: Sequence[Chunk], seed: int, seconds: float
    ) -> None:
        self.structure, self.sources, self.chunks, self.seed = structure, sources, chunks, seed
        self.seconds = seconds
        self.seeders: dict[int, Callable[[int], None]] = {}

    def __getitem__(self, numbers: tuple[int, int]) -> bytes:
        if not self.seeders:
            make_private(*(source.dataset for source in self.sources))
        return pickle.dumps(self.read(*numbers), pickle.HIGHEST_PROTOCOL)

    def read(self, view: int, chunk: int) -> Read:
        start = time.perf_counter()
        try:
            batches = [
                self._batch(number, source, indices, view)
                for number, (source, indices) in enumerate(zip(self.sources, self.chunks[chunk], strict=True))
            ]
        except ExpensiveError as problem:
            return Read(view, chunk, None, time.perf_counter() - start, str(problem))  # mutants: not used
        return Read(view, chunk, _in_structure(self.structure, iter(batches)), time.perf_counter() - start)

    def _batch(self, number: int, source: _Source, indices: list[Index], view: int) -> Any:
        dataset = source.dataset
        if number not in self.seeders:
            self.seeders[number] = seeder(dataset, source.collate)
        seed = self.seeders[number]
        if source.by_batch:
            seed(seed_of(self.seed, view, number, indices[0]))
            return source.collate(dataset[indices[0]])
        if callable(getattr(dataset, "__getitems__", None)):
            seed(seed_of(self.seed, view, number, *indices))
            examples = dataset.__getitems__(indices)
        else:
            examples = []
            start = time.perf_counter()
            for index in indices:
                seed(seed_of(self.seed, view, number, index))
                examples.append(dataset[index])
                if len(examples) == FIRST:
                    self._check(examples, time.perf_counter() - start, len(indices))
        seed(seed_of(self.seed, view, number, *indices, "collate"))
        return source.collate(examples)

    def _check(self, examples: list[Any], seconds: float, number: int) -> None:
        """Raise if a batch would take too much time or memory, estimated from its first examples."""
        seconds *= number / len(examples)
        if seconds > self.seconds:
            raise ExpensiveError(f"a batch of {number} examples takes {seconds:.2g} s to read")
        size = sum(tensor.nbytes for tensor in tensors_in(examples)) * number / len(examples)
        if size > BATCH_BYTES:
            raise ExpensiveError(f"a batch of {number} examples takes {size / 2**30:.2g} GiB of memory")


class _Indices(Dataset[Any]):
    """Dataset whose only item is the first batches of a sampler."""

    def __init__(self, sampler: Any, examples: int, seed: int) -> None:
        self.sampler, self.examples, self.seed = sampler, examples, seed

    def __getitem__(self, _: int) -> bytes:
        seeder(self.sampler)(self.seed)
        found: list[list[Index]] = []
        for batch in self.sampler:
            found.append(list(batch) if isinstance(batch, (list, tuple)) else [batch])
            if sum(map(len, _different(found, self.examples))) >= self.examples or len(found) >= MOST_REPEATED:
                break
        return pickle.dumps(found)


class _WorkerStart:
    """Run the ``worker_init_fn`` of the loaders in each worker."""

    def __init__(self, loaders: list[DataLoader[Any]]) -> None:
        self.starts = [(loader.dataset, loader.worker_init_fn) for loader in loaders if loader.num_workers]

    def __call__(self, worker: int) -> None:
        info = get_worker_info()
        for dataset, start in self.starts:
            if start is not None:
                object.__setattr__(info, "dataset", dataset)  # as in a worker of the loader
                start(worker)


def _is_spawned(loader: DataLoader[Any]) -> bool:
    context: Any = loader.multiprocessing_context or multiprocessing
    return bool(loader.num_workers) and context.get_start_method() != "fork"


def _flat(loaders: Any) -> list[DataLoader[Any]]:
    if isinstance(loaders, DataLoader):
        return [loaders]
    if isinstance(loaders, Mapping):
        return [one for inner in loaders.values() for one in _flat(inner)]
    if isinstance(loaders, (list, tuple)) and loaders:
        return [one for inner in loaders for one in _flat(inner)]
    raise UnreadableError(f"training reads from a {type(loaders).__name__}, not from a DataLoader")


def _shape_of(loaders: Any) -> Any:
    """The structure of loaders, with ``None`` for each loader."""
    if isinstance(loaders, Mapping):
        return {key: _shape_of(inner) for key, inner in loaders.items()}
    return type(loaders)(map(_shape_of, loaders)) if type(loaders) in (list, tuple) else None


def _in_structure(structure: Any, batches: Iterator[Any]) -> Any:
    if structure is None:
        return next(batches)
    if isinstance(structure, Mapping):
        return {key: _in_structure(inner, batches) for key, inner in structure.items()}
    return type(structure)([_in_structure(inner, batches) for inner in structure])


def _batch_size(loader: DataLoader[Any]) -> int:
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)
    return size if isinstance(size, int) and loader.batch_sampler is not None else 1


def _sampler_of(loader: DataLoader[Any]) -> Any:
    return loader.sampler if loader.batch_sampler is None else loader.batch_sampler  # it may have no length


def _different(batches: list[list[Index]], examples: int) -> list[list[Index]]:
    """Drop repeated indices from batches, up to about ``examples`` distinct ones."""
    seen, found = set[Hashable](), list[list[Index]]()
    for batch in batches:
        own = []
        for index in batch:
            key = index if isinstance(index, Hashable) else repr(index)
            if key not in seen:
                seen.add(key)
                own.append(index)
        if own and sum(map(len, found)) < examples:
            found.append(own)
    return found


def _why_not(loader: DataLoader[Any], spawned: bool) -> str | None:
    """Why the examples of a loader cannot be read again without side effects; ``None`` if they can."""
    if isinstance(loader.dataset, IterableDataset):
        return f"{type(loader.dataset).__name__} is a stream"
    if not hasattr(loader.dataset, "__getitem__"):
        return f"{type(loader.dataset).__name__} has no indices"
    values = (loader.dataset, loader.collate_fn, _sampler_of(loader))
    return trace_of_reading(values, bool(loader.num_workers), spawned)


def seed_of(*parts: Any) -> int:
    """A seed derived from the ``repr`` of some values."""
    entropy = [int.from_bytes(repr(part).encode(), "little") for part in parts]
    (state,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return int(state) >> 1


def _same(value: Any) -> Any:
    return value


def _last_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[-1] if str(error).strip() else ''}"
