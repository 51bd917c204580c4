"""Views of training examples that are read several times, on the way that training reads them."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synbench_lightning.callbacks.progress import probe_progress
from synbench_lightning.functional.representation.view_matching import belong_together, mean_partner_rank
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS, INPUT_FORWARDS, MOST_INPUTS
from synbench_lightning.runtime.collectives import Progress
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import Chunk, SlowError, TrainingExamples, UnreadableError, seed_of
from synbench_lightning.runtime.input_leaf import input_leaf, num_examples
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.step_replay import NotReachedError, StepReplay
from synbench_lightning.runtime.structures import at, checksum, joined, mapped, replaced, taken, tensors_in

READ_SECONDS = 30.0
"""Reading takes no longer, as far as the first batches tell: then fewer views are read, of fewer examples."""
VIEW_BYTES = 2**30
"""What is kept takes no more memory of the host."""
FEWEST_VIEWS = 4
HALF_LIMIT = 6e4
"""Larger values are not kept in half precision."""


class ReadViews(NamedTuple):
    """What was read: for each view the same examples in the same order, in chunks; one view where nothing is random.

    ``random_in`` says where views differ.
    """

    views: list[list[Any]]
    examples: int
    random_in: str


def read_views(
    trainer: Trainer,
    pl_module: LightningModule,
    call: EncoderCall | None,
    shape: tuple[int, ...] | None,
    seed: int,
    seconds: float = READ_SECONDS,
) -> ReadViews:
    """Read training examples several times, and take what the encoder would be given for them.

    The first process reads; all of them run the step up to the encoder, and have the same views.

    Args:
        trainer: in a fit.
        pl_module: that it trains.
        call: the encoder's; ``None`` where it was not observed.
        shape: of the input, where it was not.
        seed: of the examples and of all that is random.
        seconds: that it may take.

    Raises:
        UnreadableError: if examples cannot be read again without a trace.
        NotReachedError: if the step cannot be run up to the encoder.
    """
    reader = _Reader(trainer, pl_module, call, shape, seed)
    with reader.replay.ready(), probe_progress(trainer, "SynBench views") as progress:
        examples = MOST_INPUTS
        while True:
            try:
                return reader.read(examples, seconds, progress, whole=True)
            except NotReachedError:  # of a step that takes batches of one size only, perhaps
                return reader.read(examples, seconds, progress, whole=False)
            except SlowError:
                examples //= 2
                if examples < FEWEST_INPUTS:
                    raise


class _Found(NamedTuple):
    view: int
    chunk: int
    raw: str
    inputs: Any
    seconds: float


class _Reader:
    """Reads on the first process and runs the step on all of them."""

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        call: EncoderCall | None,
        shape: tuple[int, ...] | None,
        seed: int,
    ) -> None:
        self.trainer, self.seed = trainer, seed
        self.replay = StepReplay(trainer, pl_module, call, shape)
        self.examples: TrainingExamples | None = None
        self._on_first(self._open)

    def read(self, examples: int, seconds: float, progress: Progress | None, whole: bool) -> ReadViews:
        """All views: as many as the first of them show to be within the limits."""
        chunks = self._on_first(lambda: self._opened.chunks(examples, whole))
        self.chunks, self.views, self.random_in = len(chunks), INPUT_FORWARDS // MOST_INPUTS, ""
        read: list[list[Any]] = [[] for _ in range(self.views)]
        first: _Found | None = None
        planned = False
        for found in self._read_each(chunks, seconds):
            if found.view >= self.views or found.chunk >= self.chunks:  # read ahead, before the limits were known
                continue
            read[found.view].append(found.inputs)
            if first is None:
                first = found
            elif not planned:
                planned = True
                self.random_in = self._where_random(first, found)
                self._limit(first, seconds, rows=len(chunks[0][0]))
            if progress is not None:
                progress(sum(map(len, read)), self.views * self.chunks)
        return kept_views([view[: self.chunks] for view in read[: self.views]], self.random_in)

    @property
    def _opened(self) -> TrainingExamples:
        assert self.examples is not None
        return self.examples

    def _open(self) -> None:
        self.examples = TrainingExamples(self.trainer.train_dataloader, self.seed)

    def _on_first(self, function: Callable[[], Any]) -> Any:
        """What a function returns on the first process, on all of them.

        Raises:
            UnreadableError: if it fails there.
        """
        found, reason = None, ""
        if self.trainer.is_global_zero:
            try:
                found = function()
            except UnreadableError as error:
                reason = str(error)
            except Exception as error:  # of a loader of the user's own kind
                reason = f"{type(error).__name__}: {error}"
        found, reason = self.trainer.strategy.broadcast((found, reason))
        if reason:
            raise UnreadableError(reason)
        return found

    def _read_each(self, chunks: Sequence[Chunk], seconds: float) -> Iterator[_Found]:
        """What the encoder is given for the first chunk in two views, and then for all chunks in all views."""
        strategy = self.trainer.strategy
        with closing(self._batches(chunks, seconds)) as batches:
            while True:
                own: Any = next(batches) if self.trainer.is_global_zero else None
                kind, read = strategy.broadcast(own)
                if kind == "end":
                    return
                if kind == "error":
                    raise UnreadableError(read)
                if read.batch is None:
                    raise SlowError(
                        f"a batch of {len(chunks[read.chunk][0])} examples takes {read.seconds:.0f} s to read"
                    )
                start, failure, inputs = time.perf_counter(), None, None
                try:
                    (inputs,) = self.replay.inputs(read.batch, seed_of(self.seed, read.view, read.chunk))
                except NotReachedError as error:
                    failure = error
                if strategy.reduce_boolean_decision(failure is not None, all=False):
                    raise failure or NotReachedError("another process failed; its log has the reason")
                raw = checksum(read.batch)
                inputs = mapped(self._first_views(inputs, len(chunks[read.chunk][0])), kept)
                yield _Found(read.view, read.chunk, raw, inputs, read.seconds + time.perf_counter() - start)

    def _order(self) -> Iterator[tuple[int, int]]:
        """Views of the first chunk before those of others; it ends where the limits are found to."""
        chunk = 0
        while chunk < self.chunks:
            view = 0
            while view < self.views:
                yield view, chunk
                view += 1
            chunk += 1

    def _where_random(self, first: _Found, second: _Found) -> str:
        """Where two views of the same examples become different; empty where they are the same.

        Raises:
            NotReachedError: if their rows do not belong together.
        """
        alike = all(_same(one, other) for one, other in zip(*map(_tensors, (first.inputs, second.inputs)), strict=True))
        if alike:
            return ""
        leaf, again = (input_leaf(found.inputs) for found in (first, second))
        if leaf is not None and again is not None and leaf.rows >= FEWEST_INPUTS // 2:
            one, other = at(first.inputs, leaf.path), at(second.inputs, again.path)
            if isinstance(one, Tensor) and one.shape == other.shape and not belong_together((one, other)):
                raise NotReachedError("the rows that it gives the encoder are not those of the batch, in their order")
        read = first.raw != second.raw
        return "the dataset or the collate function" if read else "the transfer hooks or the training step"

    def _limit(self, first: _Found, seconds: float, rows: int) -> None:
        """Read fewer views, and of fewer examples, where time or memory is short; one view where nothing is random."""
        if not self.random_in:
            self.views = 1
        workers = self.examples.workers if self.examples is not None else 1
        size = sum(tensor.nbytes for tensor in tensors_in(first.inputs))

        def expected() -> float:
            return first.seconds / workers * self.views * self.chunks

        while expected() > seconds or size * self.views * self.chunks > VIEW_BYTES:
            if self.views > FEWEST_VIEWS:
                self.views //= 2
            elif (self.chunks // 2) * rows >= FEWEST_INPUTS:
                self.chunks //= 2
            else:
                break
        limits = (self.views, self.chunks)
        self.views, self.chunks = self.trainer.strategy.broadcast(limits)

    def _first_views(self, inputs: Any, examples: int) -> Any:
        """One view of each example: where a call is given several, the first; of crops, the largest."""
        leaf = input_leaf(inputs)
        if leaf is None:
            return inputs
        value = at(inputs, leaf.path)
        if leaf.listed:
            return replaced(inputs, leaf.path, [max(value, key=lambda crop: crop[0].numel())])
        several = leaf.rows // examples if leaf.rows % examples == 0 else 1
        if several < 2:
            return inputs
        blocks, turns = torch.arange(examples), torch.arange(0, leaf.rows, several)
        layouts = [
            (mean_partner_rank(value[r], value[r + step]), r, step) for r, step in ((blocks, examples), (turns, 1))
        ]
        _, rows, step = min(layouts, key=lambda layout: layout[0])
        return taken(inputs, rows, leaf.rows) if belong_together((value[rows], value[rows + step])) else inputs

    def _batches(self, chunks: Sequence[Chunk], seconds: float) -> Generator[tuple[str, Any], None, None]:
        """What the first process reads, and how it ends."""
        try:
            for read in self._opened.read(chunks, self._order(), seconds * self._opened.workers / FEWEST_VIEWS):
                yield "read", read
        except UnreadableError as error:
            yield "error", str(error)
            return
        yield "end", None


def kept_views(views: list[list[Any]], random_in: str) -> ReadViews:
    """Chunks in one where they fit together, of at most 128 examples."""
    rows = sum(num_examples(chunk) or 0 for chunk in views[0])
    whole = [joined(view) for view in views]
    if rows and all(one is not None for one in whole):
        number = min(rows, MOST_INPUTS)
        return ReadViews([[taken(one, torch.arange(number), rows)] for one in whole], number, random_in)
    return ReadViews(views, rows, random_in)


def kept(leaf: Tensor) -> Tensor:
    """A tensor on the CPU, in half precision where that holds its values."""
    leaf = leaf.detach().cpu()
    if leaf.dtype in (torch.float32, torch.float64) and leaf.numel() and float(leaf.abs().max()) < HALF_LIMIT:
        return leaf.half()
    return leaf


def _tensors(inputs: Any) -> list[Tensor]:
    return list(tensors_in(inputs))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    one, other = one.double(), other.double()
    return bool((one - other).square().mean() <= 1e-6 * other.var() if other.numel() > 1 else (one == other).all())
