"""Random views of inputs of any kind, drawn from a seed; how many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from torch import Tensor

from synbench_lightning.probe.tasks import NOISE_BLOCK
from synbench_lightning.runtime.seeded_calls import seeded
from synbench_lightning.runtime.structures import described, mapped

FEWEST_INPUTS, MOST_INPUTS = 32, 128
"""How many inputs are shown with noise or drawn views: with fewer there are too few directions between them."""
INPUT_FORWARDS = 2048
"""Examples made of them, at most."""
INPUT_NOISE = 0.7
"""Standard deviation of their noise, in units of their own; chosen in ``examples/validity_study.py``."""
LITTLE = 1e-3
"""Views that change less than this fraction of the variance of the inputs trigger a warning, by convention."""
Views = Callable[[Any], Any]
"""From a batch of inputs, ``(N, *input_shape)`` or of another structure, to a random view of each."""
Kind = Literal["noise", "views", "pairs"]

ONE_BY_ONE = (
    "It is given a batch (N, *input_shape) on the CPU and returns one as large; for a transform of single "
    "examples pass `lambda batch: torch.stack([transform(x) for x in batch])`."
)


def num_draws(inputs: int) -> int:
    """In how many views so many inputs are encoded."""
    draws = NOISE_BLOCK
    while draws * inputs > INPUT_FORWARDS:
        draws //= 2
    return draws


def random_view(views: Views, inputs: Any, seed: int, draw: int, chunk: int = 0) -> Any:
    """One view of inputs, from the seed, the number of the view and that of the chunk of inputs alone.

    Raises:
        ValueError: if the function fails.
    """
    state = np.random.SeedSequence([seed, draw, *([chunk] if chunk else [])]).generate_state(1, np.uint64)
    with seeded(views, int(state[0]) >> 1):
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
        raise ValueError(f"`{name}` must be at least {fewest}, got {number}.")


def view_warnings(inputs: Tensor, one: Tensor, other: Tensor) -> tuple[str, ...]:
    """What the inputs themselves say of views that do not do much.

    Args:
        inputs: ``(N, ...)``, real values or token ids.
        one: a view of each.
        other: another one.
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
        f"Two views of an input differ by {what}: next to nothing, and the information then says only how many inputs "
        "can be distinguished. Are these the augmentations of the pretraining?",
    )
