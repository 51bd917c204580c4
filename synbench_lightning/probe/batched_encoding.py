"""Encode examples in batches, split over processes and within the available memory."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.checks import is_integer
from synbench_lightning.probe.proxy_samples import Block, Examples, as_it_is
from synbench_lightning.runtime.collectives import Processes, Progress, agreed, gather_rows
from synbench_lightning.runtime.devices import free_memory, is_memory_error, statistics_device
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.placements import Proxy
from synbench_lightning.runtime.process_settings import COMPUTATION, settings_kept
from synbench_lightning.runtime.structures import described, mapped, moved, taken

Reader = Callable[[Any, int | None, Sequence[int]], Tensor]
"""Function of output, number of examples and input shape that returns features ``(N, D)``: :class:`.FeatureReader`."""
LARGEST = 1e15
"""Features larger than this, or smaller than its inverse, are refused: their squares leave the range of float32."""


def partition_blocks(blocks: Sequence[Block], size: int) -> list[list[Block]]:
    """Distribute blocks over ``size`` processes with about equal numbers of examples, largest blocks first.

    Example:
        >>> blocks = [Block(row, 0, 0, 0, vectors) for row, vectors in ((0, 64), (64, 21), (85, 64), (149, 21))]
        >>> [[block.vectors for block in own] for own in partition_blocks(blocks, 2)]
        [[64, 21], [64, 21]]
    """
    if size == 1:
        return [list(blocks)]
    found: list[list[Block]] = [[] for _ in range(size)]
    loads = [0] * size
    for block in sorted(blocks, key=lambda block: -block.vectors):
        least = loads.index(min(loads))
        found[least].append(block)
        loads[least] += block.vectors
    return found


class BatchedEncoding:
    """One pass of an encoder over examples, in batches and split over processes.

    Args:
        encoder: function from a batch ``(N, *input_shape)`` to an output.
        read: extracts features from the output.
        input_shape: shape of one example.
        device: device on which examples are encoded.
        batch_size: examples per forward; halved, for good, when memory runs out.
        total: number of examples in the whole pass, over all processes.
        processes: processes that share the work.
        progress: called with the number of finished examples and their total on this process.
        fixed_size: batch size, if the encoder accepts only one.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Any],
        read: Reader,
        input_shape: tuple[int, ...],
        device: torch.device,
        batch_size: int,
        total: int,
        processes: Processes,
        progress: Progress | None,
        fixed_size: int | None = None,
    ) -> None:
        self.fixed_size = fixed_size
        self.encoder, self.read = encoder, read
        self.input_shape, self.device, self.batch_size = input_shape, device, fixed_size or batch_size
        self.processes, self.progress = processes, progress
        self.done, self.total = 0, total // processes.size

    def features(self, examples: Examples) -> Tensor:
        """Encode examples and gather their features ``(rows, signs, D)`` on every process and the statistics device."""
        rows, signs = examples.rows, examples.signs

        def make() -> list[tuple[slice, Tensor]]:
            of_all = partition_blocks(examples.blocks, self.processes.size)
            own, found = of_all[self.processes.rank], list[Tensor]()
            for batch in self._batches(own, examples):
                found.append(self._encoded(batch, examples.given))
                self._advance(len(batch))
            self._keep_step(
                max(sum(block.vectors for block in each) for each in of_all) * signs, len(found), examples.given
            )
            if not own:
                return []
            parts = torch.cat(found).split([signs * block.vectors for block in own])
            places = [slice(block.row, block.row + block.vectors) for block in own]
            return [
                (at, part.unflatten(0, (signs, -1)).transpose(0, 1)) for at, part in zip(places, parts, strict=True)
            ]

        return self._checked(gather_rows(self.processes, rows, self.device, make))

    def features_of(self, chunks: Sequence[Any]) -> Tensor:
        """Encode chunks of inputs of any kind and gather their features ``(rows, D)`` on every process.

        Chunks with one row per example are encoded in batches, all others chunk by chunk.
        """
        parts = [part for chunk in chunks for part in self._parts(chunk)]
        size, rank = self.processes.size, self.processes.rank
        own = parts[rank::size]

        def make() -> list[Tensor]:
            found = []
            for part in own:
                found.append(self._encoded_part(part))
                self._advance(len(found[-1]))
            if self.processes.lockstep and len(own) < -(-len(parts) // size):
                self._encoded_part(parts[0])  # other processes run one more forward
            return found

        found = agreed(self.processes, make)
        counts = torch.zeros(len(parts), device=self.device)
        counts[rank::size] = torch.tensor([float(len(one)) for one in found], device=self.device)
        sizes = self.processes.sum(counts).round().long().tolist()
        ends = torch.tensor(sizes).cumsum(0).tolist()
        places = [slice(end - length, end) for end, length in zip(ends, sizes, strict=True)][rank::size]
        placed = list(zip(places, found, strict=True))
        return self._checked(gather_rows(self.processes, sum(sizes), self.device, lambda: placed)[:, None])[:, 0]

    def _parts(self, chunk: Any) -> list[Any]:
        """Split a chunk into batches if it has one row per example."""
        rows = num_examples(chunk)
        return [chunk] if rows is None else list(_split(chunk, rows, self.batch_size))

    def _placed(self, part: Any) -> Any:
        """Move a part of a chunk to the device, half precision converted to single."""
        waits = self.device.type == "cpu"
        part = mapped(part, lambda leaf: leaf.to(self.device, non_blocking=not waits))
        return mapped(moved(part, self.device), lambda leaf: leaf.float() if leaf.dtype == torch.float16 else leaf)

    def _encoded_part(self, part: Any) -> Tensor:
        part = self._placed(part)
        return self._forward(part, None) if num_examples(part) is None else self._encoded(part, as_it_is)

    def _checked(self, whole: Tensor) -> Tensor:
        rows, signs = whole.shape[:2]
        bad = int((~torch.isfinite(whole)).any(-1).sum())
        if bad:
            raise ValueError(f"The encoder's features are NaN or infinite for {bad} of {rows * signs} examples.")
        largest = float(whole.abs().amax())
        if largest and not 1 / LARGEST <= largest <= LARGEST:
            raise ValueError(
                f"The encoder's features reach {largest:.0e}, whose square is outside the range of float32: scale them "
                "to about 1 (`lambda ...: features * factor`, or a normalization as the encoder's last layer)."
            )
        return whole.to(statistics_device(whole.device))

    @contextmanager
    def reading(self, read: Reader) -> Iterator[None]:
        """Use another reader inside the context."""
        own, self.read = self.read, read
        try:
            yield
        finally:
            self.read = own

    def few(self, examples: Examples, number: int) -> Any:
        """Return the first examples in the form that the encoder takes, the same on every process."""
        return examples.given(next(self._batches(examples.blocks[:1], examples))[:number])

    def few_of(self, chunk: Any, number: int) -> Any:
        """Return the first inputs of a chunk in the form that the encoder takes; all, without a batch dimension."""
        rows = num_examples(chunk)
        part = chunk if rows is None else taken(chunk, torch.arange(min(number, rows)), rows)
        return self._placed(part)

    def _advance(self, examples: int) -> None:
        self.done += examples
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)

    def _keep_step(self, largest: int, made: int, given: Callable[[Tensor], Any]) -> None:
        """Pad this process to as many forwards as the busiest one if a forward is a collective; outputs are dropped."""
        if self.processes.lockstep:
            for _ in range(math.ceil(largest / self.batch_size) - made):
                self.encoder(given(torch.zeros(self.fixed_size or 1, *self.input_shape, device=self.device)))

    def _batches(self, blocks: Sequence[Block], examples: Examples) -> Iterator[Tensor]:
        """Yield the examples of the blocks in batches; the last one may be smaller."""
        batch, filled = self._empty_batch(), 0
        for block in blocks:
            size = examples.signs * block.vectors
            if filled + size <= len(batch):
                examples.write(block, batch[filled : filled + size])
                filled, rest = filled + size, batch[:0]
            else:
                rest = batch.new_empty(size, *batch.shape[1:])
                examples.write(block, rest)
            while len(rest) or filled == len(batch):
                if filled == len(batch):
                    yield batch
                    batch, filled = self._empty_batch(), 0
                part, rest = rest[: len(batch) - filled], rest[len(batch) - filled :]
                batch[filled : filled + len(part)] = part
                filled += len(part)
        if filled:
            yield batch[:filled]

    def _empty_batch(self) -> Tensor:
        return torch.empty(self.batch_size, *self.input_shape, device=self.device)

    def _encoded(self, x: Any, given: Callable[[Any], Any]) -> Tensor:
        """Encode a batch, in smaller parts if memory runs out."""
        rows = num_examples(x) or 1
        if self.fixed_size is not None:
            return self._padded(x, given)
        while True:
            try:
                parts = _split(x, rows, self.batch_size)
                return torch.cat([self._forward(given(part), num_examples(part)) for part in parts])
            except RuntimeError as error:
                smaller = min(rows, self.batch_size) // 2
                if not is_memory_error(error.__cause__ or error) or smaller == 0 or self.processes.lockstep:
                    raise
            free_memory(self.device)
            self.batch_size = smaller
            words = f"The probe ran out of memory: its batch size is now {smaller}."
            warnings.warn(words, stacklevel=2)  # mutants: which line is named

    def _padded(self, x: Any, given: Callable[[Any], Any]) -> Tensor:
        """Encode a batch padded to the fixed size by repeating examples."""
        assert self.fixed_size is not None
        number = num_examples(x) or 1
        rows = torch.arange(self.fixed_size) % number
        return self._forward(given(taken(x, rows, number)), self.fixed_size)[:number]

    def _forward(self, x: Any, rows: int | None) -> Tensor:
        try:
            with settings_kept(COMPUTATION):  # the probe's own computations are not subject to them
                output = self.encoder(x)
        except Exception as error:
            given = x.values if isinstance(x, Proxy) else x
            what = f"a batch of shape {tuple(given.shape)}" if isinstance(given, Tensor) else described(given)
            convert = (
                f" These inputs are of {given.dtype}: if it takes real numbers, convert them as training does (mostly "
                "`inputs.float() / 255` and a normalization)."
                if isinstance(given, Tensor) and is_integer(given)
                else ""
            )
            raise RuntimeError(
                f"The encoder failed on {what}: {type(error).__name__}: {error}.{convert} If its inputs have another "
                "shape, pass `input_shape=`; if it accepts only one batch size, pass that as `batch_size=`; if it "
                "takes other arguments or is another module, pass a callable: `lambda pl_module, x: ...` in the "
                "callback, `lambda x: ...` in `evaluate`."
            ) from error
        return self.read(output, rows, self.input_shape).detach()  # a forward may have turned gradients on


def _split(x: Any, rows: int, size: int) -> Iterator[Any]:
    """Split a batch into parts of at most ``size`` examples."""
    if rows <= size:
        yield x
    else:
        yield from (taken(x, part, rows) for part in torch.arange(rows).split(size))
