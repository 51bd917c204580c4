"""Anchor points: linear predictions of all items from a few evaluated ones."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_integers
from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    check_shares,
    check_values,
    estimate_of,
)
from synbench_lightning.functional.benchmark.curve_correlation import check_curves, standardised


def anchor_estimate(curves: Tensor, anchors: Tensor, values: Tensor, importance: Tensor | None = None) -> Estimate:
    """Estimate the mean over all items by :func:`anchor_predictions`, with the error that these had in the past.

    The standard error is the root mean square error of predictions of the second half of the curves from the first.
    It assumes that items stay correlated as they were.

    Args:
        curves: ``(T, n)`` curves of all items over earlier checkpoints, in order.
        anchors: ``(m,)`` indices of the anchors.
        values: ``(..., m)`` values of the anchors at a later checkpoint.
        importance: ``(n,)`` weight of each item in the mean; ``None`` for equal ones.

    Returns:
        The estimate ``(...)``; the standard error is infinite with fewer than four checkpoints.

    Example:
        >>> steps = torch.arange(6.0)[:, None]
        >>> found = anchor_estimate(steps * torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0]), torch.tensor([10.0]))
        >>> round(found.value.item(), 6), round(found.standard_error.item(), 6)
        (20.0, 0.0)
    """
    predicted = anchor_predictions(curves, anchors, values)
    points = predicted.shape[-1]
    weights = torch.ones(points) if importance is None else importance
    shares = check_shares("importance", weights, points, "one for each point of `curves`")
    shares = shares / shares.sum()
    value = predicted @ shares
    half = len(curves) // 2
    if half < 2:
        return estimate_of(value, torch.full_like(value, torch.inf), 1)
    predicted = anchor_predictions(curves[:half], anchors, curves[half:, anchors])
    wrong = (predicted - curves[half:].double()).nan_to_num(0.0) @ shares
    return estimate_of(value, wrong.square().mean().sqrt().expand_as(value), len(wrong))


def anchor_predictions(curves: Tensor, anchors: Tensor, values: Tensor) -> Tensor:
    r"""Predict each item by linear regression on the anchor whose curve has the highest correlation with its own.

    The line :math:`y_i = a_i + b_i y_{anchor(i)}` is fitted to earlier checkpoints. Source: Vivek et al., Anchor Points
    (2024).

    Args:
        curves: ``(T, n)`` curves of all items over earlier checkpoints; missing values (NaN) count as the mean.
        anchors: ``(m,)`` indices of the anchors.
        values: ``(..., m)`` values of the anchors at another checkpoint.

    Returns:
        ``(..., n)`` predicted values; an item whose curve is constant keeps its mean.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> curves = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
        >>> anchor_predictions(curves, torch.tensor([0]), torch.tensor([3.0])).round(decimals=6)
        tensor([3., 6.], dtype=torch.float64)
    """
    values = check_values(values)
    curves = check_curves(curves, "curves")
    check_integers("anchors", anchors, what="one for each of `values`", length=values.shape[-1])
    if int(anchors.max()) >= curves.shape[1]:
        raise ValueError(
            f"`anchors` must be among the {curves.shape[1]} points of `curves`, got {anchors.tolist()[:8]}."
        )
    shape, mean = standardised(curves).nan_to_num(0.0), curves.double().nanmean(0)
    length = torch.where(torch.isnan(curves), 0.0, curves.double() - mean).norm(dim=0)
    similarity, nearest = (shape.T @ shape[:, anchors]).max(1)
    scale = torch.where(length[anchors] > 0, 1 / length[anchors], 0.0)
    # The regression slope of two curves is their correlation times the ratio of their lengths.
    moved = ((values - mean[anchors]) * scale)[..., nearest]
    predicted: Tensor = mean + similarity * length * moved
    return predicted
