"""Predictions for all points, corrected by their residuals at the points that were evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_integers
from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    check_values,
    mean_estimate,
    weighted_mean,
)
from synbench_lightning.functional.benchmark.lure import lure


def aipw(values: Tensor, predictions: Tensor, indices: Tensor, proposal: Tensor | None = None) -> Estimate:
    r"""Predictions for all points, corrected by how far off they were for those that were evaluated.

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`.lure` estimate of the mean residual :math:`y - f` (augmented
    inverse probability weighting). It has no bias whatever the predictions, as long as they were not made from the
    values; the better they are, the smaller its error. As predictions, the values at earlier checkpoints serve.

    Args:
        values: ``(..., m)`` values of the points that were evaluated, in the order of the draws.
        predictions: ``(N,)`` predicted values of all points, or ``(..., N)`` where they differ.
        indices: ``(m,)`` places of the evaluated points among them.
        proposal: ``(m,)`` probability of each draw among the points that were left; ``None``: all equally likely.

    Returns:
        The estimate ``(...)`` of the mean over all points.

    Raises:
        ValueError: for values, predictions or probabilities that do not fit.

    Example:
        >>> import torch
        >>> before = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> aipw(torch.tensor([2.5, 4.5]), before, torch.tensor([1, 3]))  # both have risen by a half
        Estimate(value=tensor(3., dtype=torch.float64), standard_error=tensor(0., dtype=torch.float64), degrees_of_freedom=tensor(1., dtype=torch.float64))
    """  # noqa: E501 (one line, as it is printed)
    values, predicted = _residual_parts(values, predictions, indices)
    residuals = values - predicted[..., indices]
    if proposal is None:
        residual = mean_estimate(residuals, predicted.shape[-1])
    else:
        residual = lure(residuals, proposal, predicted.shape[-1])
    return residual._replace(value=predicted.mean(-1) + residual.value)


def weighted_residual(values: Tensor, predictions: Tensor, indices: Tensor, weights: Tensor) -> Estimate:
    r"""Predictions for all points, corrected by how far off they were for points that stand for the others.

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`.weighted_mean` of the residuals :math:`y - f`: what :func:`aipw` is
    for points drawn at random, for anchors or centres of clusters. It has a bias where residuals within a cluster
    differ, and no probability stands behind its interval.

    Args:
        values: ``(..., m)`` values of the points that were evaluated.
        predictions: ``(N,)`` predicted values of all points, or ``(..., N)`` where they differ.
        indices: ``(m,)`` places of the evaluated points among them.
        weights: ``(m,)`` share of the points that each of them stands for.

    Returns:
        The estimate ``(...)`` of the mean over all points.

    Raises:
        ValueError: for values, predictions or weights that do not fit.

    Example:
        >>> import torch
        >>> before, shares = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.75, 0.25])
        >>> weighted_residual(torch.tensor([2.0, 5.0]), before, torch.tensor([1, 3]), shares).value
        tensor(2.7500, dtype=torch.float64)
    """
    values, predicted = _residual_parts(values, predictions, indices)
    residual = weighted_mean(values - predicted[..., indices], weights, predicted.shape[-1])
    return residual._replace(value=predicted.mean(-1) + residual.value)


def _residual_parts(values: Tensor, predictions: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    values, predicted = check_values(values), check_values(predictions, "predictions")
    if predicted.shape[:-1] not in (torch.Size(), values.shape[:-1]):
        raise ValueError(
            "`predictions` must be (points,) or have the dimensions of `values`, got "
            f"{tuple(predictions.shape)} for {tuple(values.shape)}."
        )
    points = predicted.shape[-1]
    check_integers("indices", indices, what="one for each of `values`", length=values.shape[-1], below=points)
    return values, predicted
