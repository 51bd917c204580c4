"""Unlabelled inputs, each of which a probe shows several times: with noise, or in views that are drawn or given."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import shown
from synbench_lightning.probe.proxy_samples import Block, Examples, checksum, in_blocks
from synbench_lightning.probe.tasks import NOISE_BLOCK, noise_block
from synbench_lightning.runtime.seeded_calls import seeded

FEWEST_INPUTS, MOST_INPUTS = 32, 128
"""How many inputs are shown with noise or drawn views: with fewer there are too few directions between them."""
INPUT_FORWARDS = 2048
"""Examples made of them, at most."""
INPUT_NOISE = 0.7
"""Standard deviation of their noise, in units of their own; chosen in ``examples/validity_study.py``."""
VIEWS_BUDGET_BYTES = 2**31
"""Views that fit are kept in the memory of the host between probes, each process its own; more are drawn again."""
LITTLE = 1e-3
"""Views that change less than this share of the variance of the inputs are told of, by convention."""

Views = Callable[[Tensor], Tensor]
"""From a batch of inputs ``(N, *input_shape)`` to a random view of each."""
Kind = Literal["noise", "views", "pairs"]


class ViewedInputs(Protocol):
    """Inputs that are shown several times.

    ``kind`` tells what the information about them is measured with, ``identity`` the inputs and views: values with
    another one do not compare. ``warnings`` are sentences about views that may not be what was meant.
    """

    kind: Kind
    identity: str
    warnings: tuple[str, ...]
    num_inputs: int
    draws: int

    @property
    def examples(self) -> Examples:
        """What the encoder is shown."""
        ...

    def by_input(self, features: Tensor) -> Tensor:
        """Features ``(rows, D)`` of the examples as ``(inputs, draws, D)``."""
        ...


def viewed_inputs(
    inputs: Tensor | None, views: Views | None, input_shape: Sequence[int], seed: int, device: torch.device
) -> ViewedInputs | None:
    """Inputs as they will be shown; ``None`` where none were given.

    Args:
        inputs: ``(N, *input_shape)``, at least 32, of which the first 128 are shown with noise, or in ``views`` where
            that is given; or ``(N, V, *input_shape)``, V views of each, as many as 2,048 forwards allow.
        views: see :data:`Views`.
        input_shape: shape of one input of the encoder.
        seed: of noise and views.
        device: where noise is drawn and examples are shown.

    Raises:
        ValueError: for inputs of another shape, too few of them, such as are not finite or do not vary; for views
            without inputs, or such as are not random views of what they are given.
    """
    if inputs is None:
        if views is not None:
            raise ValueError("`views` needs `inputs`, the inputs that views are drawn of; got `inputs=None`.")
        return None
    shape = tuple(input_shape)
    if (
        isinstance(inputs, Tensor)
        and inputs.shape[2:] == shape
        and inputs.ndim > len(shape) + 1
        and inputs.shape[1] > 1
    ):
        if views is not None:
            raise ValueError(
                f"`inputs` of shape {tuple(inputs.shape)} holds {inputs.shape[1]} views of each input already: give "
                "`inputs[:, 0]` with `views`, or leave `views` out."
            )
        return GivenViews(inputs, shape, device)
    return (
        NoisyViews(inputs, shape, seed, device) if views is None else SampledViews(inputs, views, shape, seed, device)
    )


class _InputByInput(ABC):
    """Inputs whose examples come one input after another."""

    num_inputs: int
    draws: int

    @property
    def examples(self) -> Examples:
        """All of them, those of one input after those of another."""
        rows = self.num_inputs * self.draws
        return Examples(in_blocks(rows), rows, 1, self.write)

    def by_input(self, features: Tensor) -> Tensor:
        """``(inputs, draws, D)``."""
        grouped: Tensor = features.unflatten(0, (-1, self.draws))
        return grouped

    @abstractmethod
    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""


class NoisyViews(_InputByInput):
    """Each input with white noise: what stands for that which must not matter where nothing is known of it."""

    kind: Kind = "noise"
    warnings: tuple[str, ...] = ()

    def __init__(self, inputs: Tensor, input_shape: Sequence[int], seed: int, device: torch.device) -> None:
        self.inputs = check_inputs("inputs", inputs, input_shape, FEWEST_INPUTS, MOST_INPUTS)
        self.noise = INPUT_NOISE * float(self.inputs.double().std())
        self.identity = f"{len(self.inputs)} ({checksum(self.inputs)})"
        self.seed, self.device, self.num_inputs = seed, device, len(self.inputs)
        self.draws = _draws(self.num_inputs)

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        shape, place = tuple(self.inputs.shape[1:]), block.first // NOISE_BLOCK
        noise = noise_block(self.seed, "inputs", 0.0, place, shape, self.device)[: block.vectors]
        first = block.first // self.draws
        of_block = self.inputs[first : first + block.vectors // self.draws].to(self.device)
        torch.add(of_block.repeat_interleave(self.draws, 0), noise, alpha=self.noise, out=out)


class SampledViews:
    """Random views of each input, drawn from the seed.

    Every draw is one call for all inputs, with a seed of its own. So a transform that draws once for a whole batch
    serves as well as one that draws for each example, and the number of processes changes nothing.
    """

    kind: Kind = "views"

    def __init__(
        self, inputs: Tensor, views: Views, input_shape: Sequence[int], seed: int, device: torch.device
    ) -> None:
        if not callable(views):
            raise ValueError(f"`views` must be a function from a batch of inputs to views of them, got {views!r}.")
        self.inputs = check_inputs("inputs", inputs, input_shape, FEWEST_INPUTS, MOST_INPUTS)
        self.views, self.seed, self.device, self.num_inputs = views, seed, device, len(self.inputs)
        self.draws = _draws(self.num_inputs)
        fits = 4 * self.draws * self.inputs.numel() <= VIEWS_BUDGET_BYTES
        self._kept: dict[int, Tensor] | None = {} if fits else None
        first = self.drawn(0)
        other = next((view for view in map(self.drawn, range(1, self.draws)) if not torch.equal(view, first)), None)
        if other is None:
            raise ValueError(
                f"`views` drew the same {self.draws} times: it must return another random view in each call (is the "
                "transform switched off, or does it set a seed of its own?)."
            )
        self.warnings = _view_warnings(self.inputs, first, other)
        self.identity = f"{self.num_inputs} ({checksum(self.inputs)}) in {self.draws} views ({checksum(first)})"

    @property
    def examples(self) -> Examples:
        """All of them, those of one draw after those of another."""
        blocks = [Block(draw * self.num_inputs, 0, 0, draw, self.num_inputs) for draw in range(self.draws)]
        return Examples(blocks, self.draws * self.num_inputs, 1, self.write)

    def by_input(self, features: Tensor) -> Tensor:
        """``(inputs, draws, D)``."""
        grouped: Tensor = features.unflatten(0, (self.draws, -1))
        return grouped.transpose(0, 1)

    def write(self, block: Block, out: Tensor) -> None:
        """Write the draw that is the block into ``(inputs, *input_shape)``."""
        out.copy_(self.drawn(block.first))

    def drawn(self, draw: int) -> Tensor:
        """One view of each input."""
        if self._kept is not None and draw in self._kept:
            return self._kept[draw]
        state = np.random.SeedSequence([self.seed, draw]).generate_state(1, np.uint64)
        with seeded(self.views, int(state[0]) >> 1):
            try:
                found = self.views(self.inputs.clone())
            except Exception as error:
                raise ValueError(
                    f"`views` failed on a batch of shape {tuple(self.inputs.shape)}: {type(error).__name__}: {error}. "
                    f"{ONE_BY_ONE}"
                ) from error
        view = _checked_view(found, self.inputs)
        if self._kept is not None:
            self._kept[draw] = view
        return view


class GivenViews(_InputByInput):
    """Views of each input that were there already, as in a batch for contrastive pretraining."""

    kind: Kind = "pairs"

    def __init__(self, inputs: Tensor, input_shape: Sequence[int], device: torch.device) -> None:
        self.draws = inputs.shape[1]
        self.num_inputs = min(len(inputs), max(1, INPUT_FORWARDS // self.draws))
        self.device = device
        self.inputs = check_inputs("inputs", inputs, (self.draws, *input_shape), FEWEST_INPUTS, self.num_inputs)
        first, other = self.inputs[:, 0], self.inputs[:, 1]
        if torch.equal(first, other):
            raise ValueError("`inputs` (N, V, *input_shape) must hold different views of each input: they are equal.")
        self.warnings = _view_warnings(first, first, other)
        self.identity = f"{self.num_inputs} x {self.draws} views ({checksum(self.inputs)})"

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        out.copy_(self.inputs.flatten(0, 1)[block.first : block.first + block.vectors])


ONE_BY_ONE = (
    "It is given a batch (N, *input_shape) on the CPU and returns one as large; for a transform of single "
    "examples pass `lambda batch: torch.stack([transform(x) for x in batch])`."
)


def check_inputs(name: str, inputs: Any, input_shape: Sequence[int], fewest: int, most: int) -> Tensor:
    """The first inputs, on the CPU in single precision: finite, of the shape, not too few and not all alike."""
    shape = tuple(input_shape)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point() or inputs.shape[1:] != shape:
        raise ValueError(
            f"`{name}` must be a floating-point tensor (N, {', '.join(map(str, shape))}), as the encoder takes "
            f"them, got {shown(inputs)}: `torch.as_tensor` makes a tensor of an array."
        )
    if len(inputs) < fewest:
        raise ValueError(f"`{name}` must be at least {fewest}, got {len(inputs)}.")
    kept = inputs[:most].detach().cpu().float()
    if not 0 < (deviation := float(kept.double().std())) < float("inf"):
        raise ValueError(f"`{name}` must be finite and vary; their standard deviation is {deviation:g}.")
    return kept


def _draws(inputs: int) -> int:
    draws = NOISE_BLOCK
    while draws * inputs > INPUT_FORWARDS:
        draws //= 2
    return draws


def _checked_view(found: Any, inputs: Tensor) -> Tensor:
    if not isinstance(found, Tensor) or found.shape != inputs.shape or not found.is_floating_point():
        parts = f", {len(found)} of them" if isinstance(found, (list, tuple)) else ""
        raise ValueError(
            f"`views` must return a floating-point tensor of the shape that it is given, {tuple(inputs.shape)}, got "
            f"{f'a {type(found).__name__}' if parts else shown(found)}{parts}. {ONE_BY_ONE}"
        )
    view = found.detach().cpu().float()
    if bad := int((~torch.isfinite(view)).flatten(1).any(1).sum()):
        raise ValueError(f"`views` returned NaN or infinity in {bad} of {len(view)} views.")
    return view


def _view_warnings(inputs: Tensor, one: Tensor, other: Tensor) -> tuple[str, ...]:
    """What the inputs themselves tell of views that do not do much."""
    share = float((one - other).double().square().mean() / 2 / inputs.double().var(0).mean())
    if share >= LITTLE:
        return ()
    return (
        f"Two views of an input differ by {share:.1e} of the variance between inputs: next to nothing, and the "
        "information then says only how many inputs can be told apart. Are these the augmentations of the pretraining?",
    )
