"""Read training examples several times, through the training pipeline, to get views of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synbench_lightning.callbacks.progress import probe_progress
from synbench_lightning.functional.representation.view_matching import belong_together
from synbench_lightning.probe.text_views import MOST_TEXTS, is_text_leaf
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS, INPUT_FORWARDS, MOST_INPUTS
from synbench_lightning.runtime.collectives import Progress
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import (
    Chunk,
    ExpensiveError,
    Read,
    TrainingExamples,
    UnreadableError,
    seed_of,
)
from synbench_lightning.runtime.example_rows import ExampleRows, exchanged
from synbench_lightning.runtime.input_leaf import input_leaf, num_examples
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.step_replay import NotReachedError, StepReplay
from synbench_lightning.runtime.structures import at, checksum, joined, mapped, replaced, taken, tensors_in

READ_SECONDS = 30.0  # mutants: memory and time alone
"""Time limit for reading. If the first batches suggest more, fewer views of fewer examples are read."""
LATE = 2.0  # mutants: memory and time alone
"""Reading stops at this multiple of the time limit."""
VIEW_BYTES = 2**30  # mutants: memory and time alone
"""Host memory for the views."""
FEWEST_VIEWS = 4
IN_DATA, IN_STEP = "the dataset or the collate function", "the transfer hooks or the training step"
HALF_LIMIT = 6e4
"""Tensors with larger values are not stored in half precision."""


class Wanted(NamedTuple):
    """How many examples to read and how often, if time and memory allow it."""

    examples: int
    views: int


def wanted(call: EncoderCall | None) -> Wanted:
    """Examples and views to read. Parts of a text are its views: it is read twice only to detect randomness."""
    if call is not None and is_text_leaf(call.input):
        return Wanted(MOST_TEXTS, 2)
    return Wanted(MOST_INPUTS, INPUT_FORWARDS // MOST_INPUTS)


class ReadingPlan(NamedTuple):
    """The indices of the batches to read, and how often to read them."""

    chunks: list[Chunk]
    views: int


class ReadViews(NamedTuple):
    """The views that were read: each has the same examples in the same order, in chunks; one view if nothing is random.

    ``random_in`` is the source of the randomness; ``plan`` reads the same views again, if they came from reading.
    """

    views: list[list[Any]]
    examples: int
    random_in: str
    plan: ReadingPlan | None = None


def read_views(
    trainer: Trainer,
    pl_module: LightningModule,
    call: EncoderCall | None,
    shape: tuple[int, ...] | None,
    seed: int,
    seconds: float = READ_SECONDS,
    plan: ReadingPlan | None = None,
) -> ReadViews:
    """Read training examples several times, and record the encoder inputs that training would make of them.

    The first process reads; all processes run the step up to the encoder and return the same views.

    Args:
        trainer: in a fit.
        pl_module: that it trains.
        call: the encoder's; ``None`` where it was not observed.
        shape: of the input, where it was not.
        seed: of the examples and all randomness.
        seconds: time limit.
        plan: of an earlier run, to read the same views again.

    Raises:
        UnreadableError: if examples cannot be read again without side effects.
        NotReachedError: if the step cannot be run up to the encoder.
    """
    reader = _Reader(trainer, pl_module, call, shape, seed)
    with reader.replay.ready(), probe_progress(trainer, "SynBench views") as progress:
        if plan is not None:
            return reader.read(plan.chunks, plan.views, math.inf, progress)
        examples = reader.wanted.examples
        whole = call is None or _fits(call, examples)
        while True:
            try:
                return reader.read(reader.chunks(examples, whole), None, seconds, progress)
            except NotReachedError:  # of a step that takes batches of one size only, perhaps
                if not whole:
                    raise
                whole = False
            except ExpensiveError:
                examples //= 2
                if examples < FEWEST_INPUTS:
                    raise


class _Found(NamedTuple):
    view: int
    chunk: int
    examples: int
    batch: Any
    inputs: Any
    read_seconds: float
    step_seconds: float


def _seconds(found: _Found) -> float:
    return found.read_seconds + found.step_seconds


class _Reader:
    """Reads on the first process and runs the step on all processes."""

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        call: EncoderCall | None,
        shape: tuple[int, ...] | None,
        seed: int,
    ) -> None:
        self.trainer, self.seed, self.wanted = trainer, seed, wanted(call)
        self.replay = StepReplay(trainer, pl_module, call, shape)
        self.opened: TrainingExamples | None = None
        self.read_once = False
        """Whether reading is deterministic: then a batch is read once, and the step is run several times."""
        self._on_first(self._open)

    def _open(self) -> None:
        # A sampler with fixed batches determines the examples; otherwise any example may be read.
        self.opened = TrainingExamples(self.trainer.train_dataloader, self.seed, self.trainer.num_training_batches)

    def chunks(self, examples: int, whole: bool) -> list[Chunk]:
        """Indices of the batches to read."""

        def find() -> list[Chunk]:
            assert self.opened is not None
            return self.opened.chunks(examples, whole)

        found: list[Chunk] = self._on_first(find)
        return found

    def read(self, chunks: list[Chunk], views: int | None, seconds: float, progress: Progress | None) -> ReadViews:
        """All views, as many as fit the limits judging by the first ones, unless their number is given."""
        self.read_once = False
        self.chunk_count, self.views = len(chunks), max(2, views or self.wanted.views)
        rows, random_in = ExampleRows(), ""
        read: list[list[Any]] = [[] for _ in range(self.views)]
        first: _Found | None = None
        planned = False
        for found in self._read_each(chunks, seconds):
            if found.view >= self.views or found.chunk >= self.chunk_count:  # read before the limits were known
                continue
            if first is None:
                first = found
                swapped = exchanged(found.batch, found.examples)
                if swapped is not None:
                    rows.trace(
                        found.inputs,
                        self.replay.everywhere(swapped.batch, seed_of(self.seed, found.view, found.chunk)),
                        swapped.examples,
                    )
                continue
            if not planned:
                planned = True
                if len(chunks[0]) == 1 and rows.unknown(first.inputs, first.examples):
                    raise NotReachedError("it does not show which rows of the encoder's input belong to an example")
                different = rows.choose(first.inputs, found.inputs, found.examples)
                if different:
                    read_alike = checksum(first.batch) == checksum(found.batch)
                    random_in = IN_STEP if read_alike else IN_DATA
                read[first.view].append(_kept(rows.of(first.inputs, first.examples)))
                second = _kept(rows.of(found.inputs, found.examples))
                self.views = views or self.views
                self.read_once = self.trainer.strategy.broadcast(random_in == IN_STEP)
                if views is None:
                    self._limit(second, min(first, found, key=_seconds), seconds, len(chunks), different)
                first = first._replace(batch=None, inputs=None)
                if found.view < self.views and found.chunk < self.chunk_count:
                    read[found.view].append(second)
            else:
                read[found.view].append(_kept(rows.of(found.inputs, found.examples)))
            if progress is not None:
                progress(sum(map(len, read)), self.views * self.chunk_count)
        return self._complete(read, chunks, random_in)

    def _complete(self, read: list[list[Any]], chunks: list[Chunk], random_in: str) -> ReadViews:
        """Views of the examples that were read in all of them."""
        views = [view for view in read[: self.views] if view]
        number = len(views[0]) if views else 0
        if random_in and number > 1:  # chunk after chunk is read: the last one may not be complete
            number = min(map(len, views))
        elif random_in:
            number = min(number, 1)
        views = [view[:number] for view in views if len(view) >= number]
        counts = [[num_examples(chunk) for chunk in view] for view in views]
        if not number or (random_in and len(views) < 2):
            raise ExpensiveError("reading takes too long")
        if any(own != counts[0] for own in counts):
            raise NotReachedError("it gives the encoder another number of examples each time")
        halves = views[::2], views[1::2]
        if random_in and not (_belong(views[0], views[1]) or _belong(*map(_averaged, halves))):
            raise NotReachedError("an example that is read again is no nearer to itself than to others")
        found = kept_views(views, random_in, self.wanted.examples)._replace(
            plan=ReadingPlan(chunks[:number], len(views))
        )
        result: ReadViews = self.trainer.strategy.broadcast(found)  # a process may have its own random states
        return result

    def _limit(self, inputs: Any, batch: _Found, seconds: float, chunks: int, several: bool) -> None:
        """Read fewer views, and of fewer examples, where time or memory is short; one view where nothing is random."""
        views, rows = self.views if several else 1, num_examples(inputs) or batch.examples
        chunks = min(chunks, math.ceil(self.wanted.examples / rows))
        workers = 1 if self.opened is None else self.opened.workers
        size = sum(tensor.nbytes for tensor in tensors_in(inputs))

        def problem() -> str:
            reading = batch.read_seconds / workers * (1 if self.read_once else views)
            expected = (reading + batch.step_seconds * views) * chunks
            if expected > seconds:
                return f"reading {chunks * rows} examples {views} times takes {expected:.2g} s"
            if size * views * chunks > VIEW_BYTES:
                return f"{chunks * rows} examples in {views} views take {size * views * chunks / 2**30:.2g} GiB"
            return ""

        while problem():
            if views > FEWEST_VIEWS:
                views //= 2
            elif chunks // 2 * rows >= FEWEST_INPUTS:
                chunks //= 2
            else:
                break
        self.views, self.chunk_count, reason = self.trainer.strategy.broadcast((views, chunks, problem()))
        if reason:
            raise ExpensiveError(reason)

    def _on_first(self, function: Callable[[], Any]) -> Any:
        """Run a function on the first process and broadcast its result.

        Raises:
            UnreadableError: if it fails there.
        """
        found, reason = None, ""
        if self.trainer.is_global_zero:
            try:
                found = function()
            except UnreadableError as error:
                reason = str(error)
            except Exception as error:  # from a custom loader
                reason = f"{type(error).__name__}: {error}"
        found, reason = self.trainer.strategy.broadcast((found, reason))
        if reason:
            raise UnreadableError(reason)
        return found

    def _read_each(self, chunks: Sequence[Chunk], seconds: float) -> Iterator[_Found]:
        """Yield the encoder inputs for two views of the first chunk, and then for all chunks and views."""
        with closing(self._batches(chunks, seconds)) as batches:
            while True:
                own: Any = next(batches) if self.trainer.is_global_zero else None
                kind, read, examples = self.trainer.strategy.broadcast(own)
                if kind == "end":
                    return
                if kind == "error":
                    raise UnreadableError(read)
                if read.problem:
                    raise ExpensiveError(read.problem)
                if self.read_once and read.view:  # read ahead
                    continue
                yield self._given(read, examples)
                while self.read_once and read.view + 1 < self.views:
                    read = read._replace(view=read.view + 1)
                    yield self._given(read, examples)

    def _given(self, read: Read, examples: int) -> _Found:
        """The encoder inputs for a view of a batch. Every process makes this call."""
        start = time.perf_counter()
        inputs = self.replay.everywhere(read.batch, seed_of(self.seed, read.view, read.chunk))
        return _Found(read.view, read.chunk, examples, read.batch, inputs, read.seconds, time.perf_counter() - start)

    def _order(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of view and chunk, all views of the first chunk first, up to the limits known by then."""
        chunk = 0
        while chunk < self.chunk_count:
            view = 0
            while view < (1 if self.read_once else self.views):
                yield view, chunk
                view += 1
            chunk += 1

    def _batches(self, chunks: Sequence[Chunk], seconds: float) -> Generator[tuple[str, Any, int], None, None]:
        """Yield what the first process reads with its number of examples, and then the outcome."""
        assert self.opened is not None
        start = time.perf_counter()
        try:
            for read in self.opened.read(chunks, self._order(), seconds * self.opened.workers / FEWEST_VIEWS):
                yield "read", read, 0 if read.problem else self.opened.size(chunks[read.chunk], read.batch)
                if time.perf_counter() - start > LATE * seconds:
                    break
        except UnreadableError as error:
            yield "error", str(error), 0
            return
        yield "end", None, 0


def kept_views(views: list[list[Any]], random_in: str, most: int) -> ReadViews:
    """Join chunks if possible and keep at most ``most`` examples, preferring those that differ between views."""
    rows = sum(num_examples(chunk) or 0 for chunk in views[0])
    whole = [joined(view) for view in views] if rows else [None]
    if any(one is None for one in whole):
        return ReadViews(views, rows, random_in)
    chosen = torch.arange(rows)
    if rows > most and len(views) > 1:  # rows of another loader may be the same in all views
        alike = ~torch.stack([_changed(whole[0], one, rows) for one in whole[1:]]).any(0)
        chosen = alike.int().argsort(stable=True)
    chosen = chosen[:most].sort().values
    return ReadViews([[taken(one, chosen, rows)] for one in whole], len(chosen), random_in)


def _changed(one: Any, other: Any, rows: int) -> Tensor:
    """``(rows,)`` booleans: whether any value of a row differs."""
    found = torch.zeros(rows, dtype=torch.bool)
    for first, second in zip(tensors_in(one), tensors_in(other), strict=True):
        if first.shape == second.shape and first.ndim and len(first) == rows:
            found |= (first != second).flatten(1).any(1) if first.ndim > 1 else first != second
    return found


def kept(leaf: Tensor) -> Tensor:
    """Move a tensor to the CPU, in half precision if its values are within range."""
    leaf = leaf.detach().cpu()
    if leaf.dtype in (torch.float32, torch.float64) and leaf.numel() and float(leaf.abs().max()) < HALF_LIMIT:
        return leaf.half()
    return leaf


def _kept(inputs: Any) -> Any:
    return mapped(inputs, kept)


def _fits(call: EncoderCall, examples: int) -> bool:
    """Whether this many examples fit into one batch of moderate size."""
    return call.input is None or 4 * call.input.numel * examples < 2**28


def _averaged(views: list[list[Any]]) -> list[Any]:
    """The mean of the views of each chunk, which is closer to its example than any single view; for texts the first."""
    found = []
    for chunks in zip(*views, strict=True):
        leaf = input_leaf(chunks[0])
        values = [] if leaf is None or leaf.listed or is_text_leaf(leaf) else [at(chunk, leaf.path) for chunk in chunks]
        if leaf is None or not values or values[0].is_complex() or len({value.shape for value in values}) > 1:
            found.append(chunks[0])
        else:
            found.append(replaced(chunks[0], leaf.path, torch.stack(values).float().mean(0)))
    return found


def _belong(ones: list[Any], others: list[Any]) -> bool:
    """Whether two views show the same examples, as far as can be detected."""
    pairs = []
    for one, other in zip(ones, others, strict=True):
        leaf, again = input_leaf(one), input_leaf(other)
        if leaf is None or again is None or leaf.rows < 2:
            return True
        sides = [at(side, own.path) for side, own in ((one, leaf), (other, again))]
        first, second = (side[0] if own.listed else side for side, own in zip(sides, (leaf, again), strict=True))
        if first.shape != second.shape:
            return True
        pairs.append((first, second))
    return sum(len(one) for one, _ in pairs) < FEWEST_INPUTS // 2 or belong_together(*pairs)
