"""Sample random views of inputs of any kind from a seed, and how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from synbench_lightning.checks import check_dense
from synbench_lightning.probe.tasks import NOISE_BLOCK
from synbench_lightning.runtime.seeded_calls import seeded
from synbench_lightning.runtime.structures import described, leaves, mapped

FEWEST_INPUTS, MOST_INPUTS = 32, 128
"""Number of inputs that are encoded with noise or sampled views; fewer span too few directions."""
INPUT_FORWARDS = 2048
"""Maximum number of examples, i.e. inputs times views."""
INPUT_NOISE = 0.7
"""Standard deviation of the noise relative to that of the inputs; chosen in ``examples/validity_study.py``."""
LITTLE = 1e-3
"""Views that change the inputs by less than this fraction of their variance trigger a warning, by convention."""
Views = Callable[[Any], Any]
"""Function from a batch of inputs, ``(N, *input_shape)`` or of another structure, to a random view of each."""
Kind = Literal["noise", "views", "pairs"]

ONE_BY_ONE = (
    "It must map a batch (N, *input_shape) on the CPU to one of the same shape; for a transform of single "
    "examples pass `lambda batch: torch.stack([transform(x) for x in batch])`."
)


def num_draws(inputs: int) -> int:
    """Number of views per input for a number of inputs."""
    draws = NOISE_BLOCK
    while draws * inputs > INPUT_FORWARDS:
        draws //= 2
    return draws


def random_view(views: Views, inputs: Any, seed: int, draw: int, chunk: int = 0) -> Any:
    """Sample one view of inputs, determined by the seed and the indices of the view and of the chunk of inputs.

    Raises:
        ValueError: if the function fails.
    """
    state = np.random.SeedSequence([seed, draw, *([chunk] if chunk else [])]).generate_state(1, np.uint64).item()
    with seeded(state >> 1, views):
        try:
            return views(mapped(inputs, Tensor.clone))
        except Exception as error:
            what = f"of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else described(inputs)
            raise ValueError(
                f"`views` failed on a batch {what}: {type(error).__name__}: {error}. {ONE_BY_ONE}"
            ) from error


def check_enough(name: str, number: int, fewest: int = FEWEST_INPUTS) -> None:
    """Refuse too few inputs."""
    if number < fewest:
        raise ValueError(f"`{name}` must contain at least {fewest} examples, got {number}.")


def check_dense_inputs(name: str, inputs: Any) -> None:
    """Refuse tensors in a structure of inputs that have no value for each element in memory."""
    for _, leaf in leaves(inputs):
        check_dense(name, leaf)


def view_warnings(inputs: Tensor, one: Tensor, other: Tensor) -> tuple[str, ...]:
    """Warn about views that barely change the inputs.

    Args:
        inputs: ``(N, ...)``, real values or token ids.
        one: a view of each input.
        other: another view of each input.
    """
    if inputs.is_floating_point():
        variance = float(inputs.double().var(0).mean())
        change = float((one.double() - other.double()).square().mean() / 2 / max(variance, 1e-300))
        what = f"{change:.1e} of the variance between inputs"
    else:
        change = float((one != other).double().mean())
        what = f"{change:.1e} of their values"
    if change >= LITTLE:
        return ()
    return (
        f"Two views of an input differ by only {what}: the information then measures merely how many inputs can be "
        "distinguished. Are these the pretraining augmentations?",
    )
