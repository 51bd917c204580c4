"""Aggregates of the scores of several tasks: mean, minimum, smoothed minimum and conditional value at risk."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.checks import check_number, check_numbers, shown
from synbench_lightning.functional.minimax import smoothed_maximum, softmax_weights

FRACTION = 0.5
"""Fraction of the tasks, the worst ones, whose mean is the conditional value at risk."""
TEMPERATURE = 0.05
"""Of the smoothed minimum: scores that differ by much less than this have about the same weight."""


def aggregate(
    scores: Tensor | Sequence[float], fraction: float = FRACTION, temperature: float = TEMPERATURE
) -> dict[str, Tensor]:
    r"""Compute mean, minimum, smoothed minimum and conditional value at risk of the scores of tasks.

    - ``worst``: the lowest score.
    - ``cvar``: the mean of the worst ``fraction`` of the tasks (conditional value at risk). A task at the edge is
      weighted by the part of it that falls inside: at fraction 1 it is the mean, at ``1 / T`` and below the minimum.
    - ``smoothed_worst``: :math:`-\tau \log \frac{1}{T} \sum_t \exp(-s_t / \tau)`, between minimum and mean, and at most
      :math:`\tau \log T` above the minimum.
    - ``mean``, and ``gap``: mean minus worst.

    The minimum of noisy estimates is biased low: where all T tasks are equally hard, ``worst`` is expected .56, .85,
    1.03, 1.16 standard errors of a task below them for T of 2, 3, 4, 5 (the expected minimum of T standard normal
    variables), and less where they differ. ``cvar`` and ``smoothed_worst`` have less of that bias.

    Args:
        scores: ``(..., T)`` scores, or accuracies, of the tasks.
        fraction: of the tasks for ``cvar``, in (0, 1].
        temperature: :math:`\tau`, in units of the scores, positive.

    Returns:
        ``(...)``, float64, by name.

    Raises:
        ValueError: for a fraction or temperature outside its range.

    Example:
        >>> found = aggregate([0.2, 0.8, 0.4])
        >>> {name: round(value.item(), 3) for name, value in found.items()}
        {'worst': 0.2, 'cvar': 0.267, 'smoothed_worst': 0.254, 'mean': 0.467, 'gap': 0.267}
    """
    values = _checked(scores)
    temperature = check_number("temperature", temperature, "a positive number", 0, low_in=False)
    weights = aggregate_weights(values, fraction, temperature)
    found = {name: (weight * values).sum(-1) for name, weight in weights.items()}
    shift = temperature * math.log(values.shape[-1])
    found["smoothed_worst"] = shift - smoothed_maximum(-values, temperature)
    return found


def aggregate_weights(
    scores: Tensor | Sequence[float], fraction: float = FRACTION, temperature: float = TEMPERATURE
) -> dict[str, Tensor]:
    """Compute the gradient of each aggregate with respect to the scores: the weight of each task.

    With independent standard errors ``e`` of the scores, the standard error of an aggregate is the norm of ``weights *
    e``, to first order.

    Args:
        scores: ``(..., T)``.
        fraction: as in :func:`aggregate`.
        temperature: as in :func:`aggregate`.

    Returns:
        ``(..., T)``, float64, by name; those of ``gap`` have sum 0, all others sum 1.

    Raises:
        ValueError: as :func:`aggregate`.

    Example:
        >>> aggregate_weights([0.2, 0.8, 0.4])["cvar"]
        tensor([0.6667, 0.0000, 0.3333], dtype=torch.float64)
    """
    fraction = check_number("fraction", fraction, "a number in (0, 1]", 0, 1, low_in=False)
    temperature = check_number("temperature", temperature, "a positive number", 0, low_in=False)
    values = _checked(scores)
    size = values.shape[-1]
    rank = values.argsort(dim=-1, stable=True).argsort(-1)
    worst = (rank == 0).double()
    inside = (max(fraction * size, 1.0) - rank.double()).clamp(0, 1)  # 1, at the edge a fraction, 0
    mean = torch.full_like(values, 1 / size)
    return {
        "worst": worst,
        "cvar": inside / inside.sum(-1, keepdim=True),
        "smoothed_worst": softmax_weights(-values, temperature),
        "mean": mean,
        "gap": mean - worst,
    }


def _checked(scores: Tensor | Sequence[float]) -> Tensor:
    """Check scores ``(..., T)`` and return them as float64."""
    values = check_numbers("scores", scores, "numbers (..., tasks)")
    if values.ndim == 0 or values.shape[-1] == 0:
        raise ValueError(f"`scores` must be numbers (..., tasks), at least one, got {shown(scores)}.")
    return values
