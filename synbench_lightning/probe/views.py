"""Unlabeled inputs that a probe encodes several times each: with noise, or in sampled or given views."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from synbench_lightning.checks import shown
from synbench_lightning.probe.batched_encoding import BatchedEncoding
from synbench_lightning.probe.chunked_views import ChunkedViews, drawn_chunks, given_chunks
from synbench_lightning.probe.proxy_samples import Block, Examples, in_blocks
from synbench_lightning.probe.tasks import NOISE_BLOCK, noise_block
from synbench_lightning.probe.text_views import is_text, viewed_texts
from synbench_lightning.probe.view_sampling import (
    FEWEST_INPUTS,
    INPUT_FORWARDS,
    INPUT_NOISE,
    MOST_INPUTS,
    ONE_BY_ONE,
    Kind,
    Views,
    check_enough,
    num_draws,
    random_view,
    view_warnings,
)
from synbench_lightning.runtime.structures import checksum

VIEWS_BUDGET_BYTES = 2**31  # mutants: memory and time alone
"""Views up to this size are cached in host memory between probes, in each process; otherwise they are resampled."""


class ViewedInputs(Protocol):
    """Inputs that are encoded several times each: with noise, or in views.

    ``kind`` is the kind of views. ``identity`` identifies inputs and views: values with different identities are not
    comparable. ``warnings`` are about views that may not be as intended.
    """

    kind: Kind
    identity: str
    warnings: tuple[str, ...]
    num_inputs: int
    draws: int

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Encode all views; returns features ``(inputs, draws, D)``."""
        ...

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Return some inputs in the form that the encoder takes."""
        ...


def viewed_inputs(
    inputs: Any, views: Views | None, input_shape: Sequence[int] | None, seed: int, device: torch.device
) -> ViewedInputs | None:
    """Prepare inputs to be encoded in views; ``None`` without inputs.

    Args:
        inputs: ``(N, *input_shape)``, at least 32, of which the first 128 are encoded in ``views``, or else with noise;
            or ``(N, V, *input_shape)``, V views of each, of as many as 2,048 forwards allow. Or integers of these
            shapes, a structure of tensors with N rows each, or a list of batches of another kind; token ids without
            ``views`` are split into parts, see :func:`.text_parts`. Return values of this function are passed through.
        views: see :data:`Views`.
        input_shape: shape of one input of the encoder; ``None`` if it has none.
        seed: seed of noise and views.
        device: device on which noise is sampled and examples are encoded.

    Raises:
        ValueError: for inputs that have another shape, are too few, not finite or constant; for views without inputs,
            or that are not random views of their inputs; for inputs that noise cannot be added to, without views.
    """
    if inputs is None:
        if views is not None:
            raise ValueError("`views` needs `inputs` to sample views of, got `inputs=None`.")
        return None
    if isinstance(inputs, (ChunkedViews, _InputByInput)):
        return inputs
    real = isinstance(inputs, Tensor) and inputs.is_floating_point()
    shape = tuple(inputs.shape[1:]) if input_shape is None and isinstance(inputs, Tensor) else tuple(input_shape or ())
    several = isinstance(inputs, Tensor) and inputs.shape[2:] == shape and inputs.ndim > len(shape) + 1
    if several and inputs.shape[1] > 1:
        if views is not None:
            raise ValueError(
                f"`inputs` of shape {tuple(inputs.shape)} already contains {inputs.shape[1]} views of each input: pass "
                "`inputs[:, 0]` with `views`, or omit `views`."
            )
        return GivenViews(inputs, shape, device) if real else given_chunks(inputs)
    if views is None and is_text(inputs):
        return viewed_texts([inputs])
    if not real and not (isinstance(inputs, Tensor) and inputs.ndim == 1):
        return drawn_chunks(inputs, views, seed)
    return (
        NoisyViews(inputs, shape, seed, device) if views is None else SampledViews(inputs, views, shape, seed, device)
    )


class _InputByInput(ABC):
    """Inputs whose examples are ordered by input: all views of the first, then of the next."""

    kind: Kind
    identity: str
    warnings: tuple[str, ...]
    num_inputs: int
    draws: int

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Encode all views, input by input; returns features ``(inputs, draws, D)``."""
        grouped: Tensor = encoding.features(self.examples)[:, 0].unflatten(0, (-1, self.draws))
        return grouped

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Return some inputs in the form that the encoder takes."""
        return encoding.few(self.examples, number)

    @property
    def examples(self) -> Examples:
        """All views, as blocks to encode."""
        rows = self.num_inputs * self.draws
        return Examples(in_blocks(rows), rows, 1, self.write)

    @abstractmethod
    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""


class NoisyViews(_InputByInput):
    """Each input with white noise, which approximates unknown nuisance variation."""

    kind: Kind = "noise"
    warnings: tuple[str, ...] = ()

    def __init__(self, inputs: Tensor, input_shape: Sequence[int], seed: int, device: torch.device) -> None:
        self.inputs = check_inputs("inputs", inputs, input_shape, FEWEST_INPUTS, MOST_INPUTS)
        self.noise = INPUT_NOISE * float(self.inputs.double().std())
        self.identity = f"{len(self.inputs)} ({checksum(self.inputs)})"
        self.seed, self.device, self.num_inputs = seed, device, len(self.inputs)
        self.draws = num_draws(self.num_inputs)

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        shape, place = tuple(self.inputs.shape[1:]), block.first // NOISE_BLOCK
        noise = noise_block(self.seed, "inputs", 0.0, place, shape, self.device)[: block.vectors]
        first = block.first // self.draws
        of_block = self.inputs[first : first + block.vectors // self.draws].to(self.device)
        torch.add(of_block.repeat_interleave(self.draws, 0), noise, alpha=self.noise, out=out)


class SampledViews:
    """Random views of each input, sampled from the seed.

    Each view is one call for all inputs, with its own seed. So transforms may sample once per batch or once per
    example, and the result does not depend on the number of processes.
    """

    kind: Kind = "views"

    def __init__(
        self, inputs: Tensor, views: Views, input_shape: Sequence[int], seed: int, device: torch.device
    ) -> None:
        if not callable(views):
            raise ValueError(f"`views` must be a function from a batch of inputs to views of them, got {views!r}.")
        self.inputs = check_inputs("inputs", inputs, input_shape, FEWEST_INPUTS, MOST_INPUTS)
        self.views, self.seed, self.device, self.num_inputs = views, seed, device, len(self.inputs)
        self.draws = num_draws(self.num_inputs)
        fits = 4 * self.draws * self.inputs.numel() <= VIEWS_BUDGET_BYTES  # mutants: memory and time alone
        self._kept: dict[int, Tensor] | None = {} if fits else None
        first = self.drawn(0)
        others = map(self.drawn, range(1, self.draws))  # mutants: any others
        other = next((view for view in others if not torch.equal(view, first)), None)
        if other is None:
            raise ValueError(
                f"`views` returned the same view {self.draws} times: it must return a new random view in each call "
                "(is the transform disabled, or does it set its own seed?)."
            )
        self.warnings = view_warnings(self.inputs, first, other)
        self.identity = f"{self.num_inputs} ({checksum(self.inputs)}) in {self.draws} views ({checksum(first)})"

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Encode all views, view by view; returns features ``(inputs, draws, D)``."""
        grouped: Tensor = encoding.features(self.examples)[:, 0].unflatten(0, (self.draws, -1))
        return grouped.transpose(0, 1)

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Return some inputs in the form that the encoder takes."""
        return encoding.few(self.examples, number)

    @property
    def examples(self) -> Examples:
        """All views, as blocks to encode."""
        number = self.num_inputs
        blocks = [Block(draw * number, 0, 0, draw, number) for draw in range(self.draws)]  # mutants: no task, no scale
        return Examples(blocks, self.draws * self.num_inputs, 1, self.write)

    def write(self, block: Block, out: Tensor) -> None:
        """Write the view of all inputs that the block stands for into ``(inputs, *input_shape)``."""
        out.copy_(self.drawn(block.first))

    def drawn(self, draw: int) -> Tensor:
        """One view of each input."""
        if self._kept is not None and draw in self._kept:
            return self._kept[draw]
        view = _checked_view(random_view(self.views, self.inputs, self.seed, draw), self.inputs)
        if self._kept is not None:
            self._kept[draw] = view
        return view


class GivenViews(_InputByInput):
    """Precomputed views of each input, as in a batch for contrastive pretraining."""

    kind: Kind = "pairs"

    def __init__(self, inputs: Tensor, input_shape: Sequence[int], device: torch.device) -> None:
        self.draws = inputs.shape[1]
        self.num_inputs = min(len(inputs), max(1, INPUT_FORWARDS // self.draws))
        self.device = device
        self.inputs = check_inputs("inputs", inputs, (self.draws, *input_shape), FEWEST_INPUTS, self.num_inputs)
        first, other = self.inputs[:, 0], self.inputs[:, 1]
        if torch.equal(first, other):
            raise ValueError(
                "`inputs` (N, V, *input_shape) must contain different views of each input, got equal ones."
            )
        self.warnings = view_warnings(first, first, other)
        self.identity = f"{self.num_inputs} x {self.draws} views ({checksum(self.inputs)})"

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        out.copy_(self.inputs.flatten(0, 1)[block.first : block.first + block.vectors])


def check_inputs(name: str, inputs: Any, input_shape: Sequence[int], fewest: int, most: int) -> Tensor:
    """Return the first inputs on the CPU in single precision; require their shape, number, finiteness and variance."""
    shape = tuple(input_shape)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.shape[1:] != shape:
        raise ValueError(
            f"`{name}` must be a floating-point tensor (N, {', '.join(map(str, shape))}), as the encoder takes "
            f"them, got {shown(inputs)}: convert arrays with `torch.as_tensor`."
        )
    check_enough(name, len(inputs), fewest)
    kept = inputs[:most].detach().cpu().float()
    if not 0 < (deviation := float(kept.double().var(0).mean().sqrt())) < float("inf"):
        raise ValueError(f"`{name}` must be finite and vary; their standard deviation is {deviation:g}.")
    return kept


def _checked_view(found: Any, inputs: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != inputs.shape or not found.is_floating_point():
        parts = f", {len(found)} of them" if isinstance(found, (list, tuple)) else ""
        raise ValueError(
            f"`views` must return a floating-point tensor of the shape of its input, {tuple(inputs.shape)}, got "
            f"{f'a {type(found).__name__}' if parts else shown(found)}{parts}. {ONE_BY_ONE}"
        )
    view = found.detach().cpu().float()
    if bad := int((~torch.isfinite(view)).flatten(1).any(1).sum()):
        raise ValueError(f"`views` returned NaN or infinity in {bad} of {len(view)} views.")
    return view
