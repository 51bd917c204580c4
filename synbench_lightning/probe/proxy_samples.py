"""Examples of Gaussian and labeled tasks, generated block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synbench_lightning.checks import check_dense, check_integer, shown
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.tasks import NOISE_BLOCK, GaussianTask, LabelledTask, noise_block

NOISE_BUDGET_BYTES = 2**28  # mutants: memory and time alone
"""Noise up to this size is cached on the device between probes; otherwise it is regenerated block by block."""

Normalize = tuple[float | Sequence[float], float | Sequence[float]]


class Block(NamedTuple):
    """Some noise vectors of one task at one scale; ``row`` is the index of the first among all features."""

    row: int
    task: int
    scale: int
    first: int
    vectors: int


def as_it_is(batch: Tensor) -> Tensor:
    """Return the batch unchanged."""
    return batch


class Examples(NamedTuple):
    """Examples to encode in one pass: blocks, each of which is written by ``write(block, out)``.

    ``out`` is ``(signs * block.vectors, *shape)``; all blocks together have ``rows`` vectors. ``given`` converts a
    batch of examples to the argument of the encoder.
    """

    blocks: list[Block]
    rows: int
    signs: int
    write: Callable[[Block, Tensor], None]
    given: Callable[[Tensor], Any] = as_it_is


def in_blocks(vectors: int) -> list[Block]:
    """Split the vectors of one task at one scale into blocks; the last one may be smaller.

    Example:
        >>> [(block.first, block.vectors) for block in in_blocks(150)]
        [(0, 64), (64, 64), (128, 22)]
    """
    starts = range(0, vectors, NOISE_BLOCK)
    return [Block(first, 0, 0, first, min(NOISE_BLOCK, vectors - first)) for first in starts]


def labelled_examples(task: LabelledTask) -> Examples:
    """The examples of a labeled task, in their order."""

    def write(block: Block, out: Tensor) -> None:
        out.copy_(task.examples[block.first : block.first + block.vectors])

    return Examples(in_blocks(task.num_examples), task.num_examples, 1, write)


class ProxySamples:
    """The examples of a family of Gaussian tasks under a plan.

    An example depends only on the seed, the task, the scale and its index, not on the process that samples it or the
    batch in which it is encoded.
    """

    def __init__(
        self,
        tasks: Sequence[GaussianTask],
        plan: ProbePlan,
        *,
        normalize: Normalize | None,
        seed: int,
        device: torch.device,
        given: Callable[[Tensor], Any] = as_it_is,
    ) -> None:
        self.given = given
        self.tasks, self.plan, self.device = tuple(tasks), plan, device
        self.input_shape = tuple(self.tasks[0].direction.shape)
        self.seed = check_integer("seed", seed, 0)
        self.vectors = plan.noise_vectors(len(self.tasks))
        self.cells = [(task, scale) for task in range(len(self.tasks)) for scale in range(len(plan.scales))]
        self._affine = None if normalize is None else _affine(normalize, self.input_shape, device)
        factor = 1.0 if self._affine is None else self._affine[1]
        self._directions = [task.coloured(task.direction[None].to(device))[0] * factor for task in self.tasks]
        size = 4 * self.vectors * len(self.cells) * self.tasks[0].direction.numel()  # mutants: memory and time alone
        fits = size <= NOISE_BUDGET_BYTES  # mutants: memory and time alone
        self._kept: dict[Block, Tensor] | None = {} if fits else None

    @property
    def signs(self) -> Tensor:
        """Classes of the samples in the official protocol, ``(vectors,)``: alternately +1 and -1."""
        return 1.0 - 2.0 * (torch.arange(self.vectors, device=self.device) % 2)

    def examples(self, cells: Sequence[tuple[int, int]]) -> Examples:
        """The examples of some pairs of task and scale."""
        blocks = [
            block._replace(row=row * self.vectors + block.row, task=task, scale=scale)
            for row, (task, scale) in enumerate(cells)
            for block in in_blocks(self.vectors)
        ]
        return Examples(blocks, len(cells) * self.vectors, self.plan.signs, self.write, self.given)

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(signs * vectors, *input_shape)``, positive class first."""
        noise = self._noise(block)
        shift = self._directions[block.task] * self.plan.scales[block.scale]
        if self.plan.signs == 2:
            torch.add(noise, shift, out=out[: block.vectors])
            torch.sub(noise, shift, out=out[block.vectors :])
        else:
            signs = self.signs[block.first : block.first + block.vectors].reshape(-1, *[1] * shift.ndim)
            torch.addcmul(noise, signs, shift.unsqueeze(0), out=out)

    def _noise(self, block: Block) -> Tensor:
        if self._kept is not None and block in self._kept:
            return self._kept[block]
        task, scale = self.tasks[block.task], self.plan.scales[block.scale]
        noise = noise_block(self.seed, task.name, scale, block.first // NOISE_BLOCK, self.input_shape, self.device)
        noise = task.coloured(noise[: block.vectors])
        if task.mean is not None:
            noise = noise + task.mean.to(self.device)
        if self._affine is not None:
            offset, factor = self._affine
            noise = noise * factor + offset
        if self._kept is not None:
            self._kept[block] = noise = noise.clone()  # a slice would keep the whole block alive
        return noise


def _affine(normalize: Normalize, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and factor, broadcastable to an input, of ``(x + 0.5 - mean) / std``."""
    try:
        for given in normalize:
            check_dense("normalize", given)
        mean, std = (torch.as_tensor(values, dtype=torch.float32, device=device) for values in normalize)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`normalize` must be a pair (mean, std), each a number or one number per channel, got {shown(normalize)}."
        ) from error
    for name, values in (("mean", mean), ("std", std)):
        if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, shape[0])):
            raise ValueError(
                f"`normalize`: {name} must be a number or {shape[0]} numbers, one per channel of an input of "
                f"shape {shape}, got {values.tolist()}."
            )
    if not bool((std > 0).all() and torch.isfinite(std).all() and torch.isfinite(mean).all()):
        raise ValueError(f"`normalize`: std must be positive and both finite, got {mean.tolist()} and {std.tolist()}.")
    columns = [1] * (len(shape) - 1)
    return ((0.5 - mean) / std).reshape(-1, *columns), (1 / std).reshape(-1, *columns)
