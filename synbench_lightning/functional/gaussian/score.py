"""The SynBench score: a ratio of robustness-accuracy areas, from accuracy and bound over the scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.checks import check_numbers, numbers, shown
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound


def synbench_score(
    accuracy: Tensor,
    bound: Tensor,
    scales: Tensor | Sequence[float],
    thresholds: Tensor | Sequence[float],
    weights: Tensor | Sequence[float] | None = None,
    *,
    grid: Tensor | Sequence[float] | None = None,
) -> Tensor:
    r"""Compute the SynBench score: the fraction of the Bayes-optimal robustness-accuracy area that is retained.

    The curve :math:`E(a) = \sum_k q_k\, b_k\, 1[acc_k > a]` sums the bounds :math:`b_k` of the scales at which more
    than the accuracy :math:`a` is reached. The score at the threshold :math:`a_t` is the area under this curve over
    :math:`[a_t, 1]`, divided by the same area for the optimum in input space. The area is exact,
    :math:`\sum_k q_k\, b_k \max(acc_k - a_t, 0)`, unless a ``grid`` is given. Source: SynBench, equation of the score.

    Args:
        accuracy: ``(..., K)`` accuracy at each scale, in [0, 1].
        bound: ``(..., K)`` expected bound at each scale.
        scales: ``(K,)`` Mahalanobis half-distances of the classes in input space, positive.
        thresholds: ``(H,)`` threshold accuracies, each in [0.5, 1).
        weights: ``(K,)`` quadrature weights :math:`q_k` of the scales; ``None`` weighs them equally.
        grid: accuracies at which to sum the curve instead of integrating it, as in the official script (see
            :func:`official_grid`); thresholds below its first value are refused.

    Returns:
        ``(..., H)`` scores, float64. 0: no scale reaches the threshold. 1: the representation is lossless for the task.
        Estimates of a lossless representation scatter around 1 and may be larger.

    Raises:
        ValueError: for shapes that do not fit, or a threshold outside [0.5, 1).

    Example:
        >>> scales = torch.linspace(0.1, 4.9, 49)
        >>> half = optimal_accuracy(scales / 2), optimal_bound(scales / 2)  # half of the distance is lost
        >>> synbench_score(*half, scales, [0.6, 0.8])
        tensor([0.8299, 0.6377], dtype=torch.float64)
    """
    scales = check_numbers("scales", scales, "positive numbers (scales,)")
    accuracy = check_numbers("accuracy", accuracy, "a tensor (..., scales)")
    bound = check_numbers("bound", bound, "a tensor (..., scales)")
    quadrature = torch.ones_like(scales) if weights is None else check_numbers("weights", weights, "numbers (scales,)")
    if scales.ndim != 1 or not bool((torch.isfinite(scales) & (scales > 0)).all()):
        raise ValueError(f"`scales` must be positive finite numbers (scales,), got {scales.tolist()}.")
    if accuracy.shape != bound.shape or accuracy.shape[-1:] != scales.shape:
        raise ValueError(
            "`accuracy` and `bound` must have one shape whose last dimension is the number of `scales`, got "
            f"{tuple(accuracy.shape)}, {tuple(bound.shape)} and {tuple(scales.shape)}."
        )
    if quadrature.shape != scales.shape:
        raise ValueError(
            f"`weights` must have the shape of `scales`, {tuple(scales.shape)}, got {tuple(quadrature.shape)}."
        )
    points = None if grid is None else check_numbers("grid", grid, "accuracies (points,)")
    if points is not None and not (points.ndim == 1 and len(points) and bool(((points >= 0) & (points <= 1)).all())):
        raise ValueError(f"`grid` must be accuracies in [0, 1] (points,), at least one, got {shown(grid)}.")
    limits = torch.tensor(
        check_thresholds(thresholds, 0.5 if points is None else float(points[0])), dtype=torch.float64
    )

    def area(accuracy: Tensor, bound: Tensor) -> Tensor:
        """Integrate (or sum) the curve from each threshold: ``(..., K)`` twice to ``(..., H)``."""
        if points is None:
            height = (accuracy.unsqueeze(-1) - limits).clamp_min(0)
        else:
            above = accuracy.unsqueeze(-1) > points
            # `linspace` may put the grid's value at a threshold just below it.
            height = above.double() @ (points[:, None] >= limits - 1e-12).double()  # mutants: any tiny number
        return ((quadrature * bound).unsqueeze(-2) @ height).squeeze(-2)

    return area(accuracy, bound) / area(optimal_accuracy(scales), optimal_bound(scales))


def official_grid() -> Tensor:
    """Return the 100 accuracies between 0.6 and 1 at which the official script sums the curve."""
    return torch.linspace(0.6, 1.0, 100, dtype=torch.float64)


def check_thresholds(thresholds: Tensor | Sequence[float], lowest: float = 0.5) -> tuple[float, ...]:
    """Check the threshold accuracies and return them as a tuple of floats.

    Raises:
        ValueError: if there is none or one is outside ``[lowest, 1)``.
    """
    values = numbers("thresholds", thresholds)
    if not values or not all(lowest <= threshold < 1 for threshold in values):
        raise ValueError(
            f"`thresholds` must be accuracies in [{lowest:g}, 1), at least one, got {list(values)}. "
            + (f"The `grid` of the plan starts at {lowest:g}." if lowest > 0.5 else "Chance is 0.5.")
        )
    return values
