"""Accuracy and expected bound of the Bayes classifier in input space, in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from synbench_lightning.checks import check_numbers, shown


def optimal_accuracy(delta: Tensor | float) -> Tensor:
    r"""Compute the accuracy of the Bayes classifier of two Gaussians at Mahalanobis half-distance ``delta``.

    For ``x | y ~ N(y * delta * u, I)`` with ``y = ±1`` equally likely and ``|u| = 1`` it is
    :math:`a(\delta) = \Phi(\delta)` (SynBench, the accuracy of the robust Bayes rule at epsilon 0).

    Args:
        delta: half the Mahalanobis distance between the class means, any shape, positive.

    Returns:
        Accuracy in (0.5, 1], float64, of ``delta``'s shape.

    Raises:
        ValueError: if a ``delta`` is not a positive finite number.

    Example:
        >>> optimal_accuracy(1.0)
        tensor(0.8413, dtype=torch.float64)
    """
    accuracy: Tensor = torch.special.ndtr(_positive(delta))
    return accuracy


def optimal_bound(delta: Tensor | float) -> Tensor:
    r"""Compute the expected bound of the Bayes classifier: the mean relative margin of correctly classified samples.

    The mean distance to the decision boundary over the correctly classified samples, in units of the
    distance of the class mean: :math:`b(\delta) = 1 + \phi(\delta) / (\delta\,\Phi(\delta))` (SynBench).

    Args:
        delta: half the Mahalanobis distance between the class means, any shape, positive.

    Returns:
        Expected bound, at least 1, float64, of ``delta``'s shape.

    Raises:
        ValueError: if a ``delta`` is not a positive finite number.

    Example:
        >>> optimal_bound(1.0)
        tensor(1.2876, dtype=torch.float64)
    """
    delta = _positive(delta)
    density = torch.exp(-0.5 * delta.square()) / math.sqrt(2 * math.pi)
    return 1 + density / (delta * optimal_accuracy(delta))


def _positive(delta: Tensor | float) -> Tensor:
    given, delta = delta, check_numbers("delta", delta, "a positive number or a tensor of them")
    if not bool(((delta > 0) & torch.isfinite(delta)).all()):
        raise ValueError(
            f"`delta` must be positive and finite (a half-distance between two class means), got {shown(given)}."
        )
    return delta
