"""Augmented inverse probability weighting: predictions of all items, corrected by the residuals of evaluated ones."""

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
    r"""Estimate the mean over all items by augmented inverse probability weighting (AIPW).

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`.lure` estimate of the mean residual :math:`y - f`. It is unbiased
    for any predictions that do not depend on the values; the better they are, the smaller its error. Values at earlier
    checkpoints can be the predictions.

    Args:
        values: ``(..., m)`` values of the items that were evaluated, in the order in which they were sampled.
        predictions: ``(N,)`` predicted values of all items, or ``(..., N)`` where they differ.
        indices: ``(m,)`` indices of the evaluated items among them.
        proposal: ``(m,)`` probability of each item among those not yet sampled; ``None``: all equally likely.

    Returns:
        The estimate ``(...)`` of the mean over all items.

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
    r"""Estimate the mean over all items from predictions and the weighted residuals of representative items.

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`.weighted_mean` of the residuals :math:`y - f`: the analog of
    :func:`aipw` for anchors or cluster centers in place of a random sample. It is biased where residuals within a
    cluster differ, and its interval has no guaranteed coverage.

    Args:
        values: ``(..., m)`` values of the items that were evaluated.
        predictions: ``(N,)`` predicted values of all items, or ``(..., N)`` where they differ.
        indices: ``(m,)`` indices of the evaluated items among them.
        weights: ``(m,)`` fraction of the items that each of them represents.

    Returns:
        The estimate ``(...)`` of the mean over all items.

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
    """Check values ``(..., m)``, predictions and indices; return the first two as float64."""
    values, predicted = check_values(values), check_values(predictions, "predictions")
    if predicted.shape[:-1] not in (torch.Size(), values.shape[:-1]):
        raise ValueError(
            "`predictions` must be (points,) or have the dimensions of `values`, got "
            f"{tuple(predictions.shape)} for {tuple(values.shape)}."
        )
    points = predicted.shape[-1]
    check_integers("indices", indices, what="one for each of `values`", length=values.shape[-1], below=points)
    return values, predicted
