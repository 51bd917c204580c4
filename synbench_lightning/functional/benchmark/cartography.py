"""Maps of the items of a benchmark: dataset cartography, and multidimensional scaling of their curves."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integer, shown
from synbench_lightning.functional.benchmark.curve_correlation import centred, check_curves


class Cartography(NamedTuple):
    """Coordinates ``(n,)`` of each item on the map of a dataset; correctness ``None`` if it was not asked for."""

    confidence: Tensor
    variability: Tensor
    correctness: Tensor | None


def cartography(curves: Tensor, correct: Tensor | None = None) -> Cartography:
    """Compute confidence, variability and correctness of each item: whether it is easy, ambiguous or hard to learn.

    Mean and standard deviation, over the checkpoints, of the probability of the right label, and the fraction of
    checkpoints at which it was the most probable. Source: Swayamdipta et al., Dataset Cartography (2020).

    Args:
        curves: ``(T, n)`` probability of the right label, or its logarithm; missing values are NaN.
        correct: ``(T, n)`` whether the right label was the most probable one.

    Returns:
        Confidence, variability and correctness of each item, ``(n,)`` each, float64; NaN for an item without values.

    Example:
        >>> probability = torch.tensor([[0.5, 0.9], [0.7, 0.9]])
        >>> confidence, variability, correctness = cartography(probability, probability > 0.6)
        >>> confidence, variability, correctness
        (tensor([0.6000, 0.9000], dtype=torch.float64), tensor([0.1000, 0.0000], dtype=torch.float64), tensor([0.5000, 1.0000], dtype=torch.float64))
    """  # noqa: E501 (one line, as it is printed)
    curves = check_curves(curves, "curves")
    if correct is not None and not (
        isinstance(correct, Tensor) and correct.dtype == torch.bool and correct.shape == curves.shape
    ):
        raise ValueError(
            f"`correct` must be a boolean tensor of the shape of `curves`, {tuple(curves.shape)}, got {shown(correct)}."
        )
    seen = ~torch.isnan(curves)
    count = torch.where(seen.any(0), seen.sum(0).double(), torch.nan)
    variability = (centred(curves).square().sum(0) / count).sqrt()
    correctness = None if correct is None else (correct & seen).sum(0).double() / count
    return Cartography(curves.nan_to_num(0.0).sum(0) / count, variability, correctness)


def multidimensional_scaling(distances: Tensor, dims: int = 2) -> Tensor:
    r"""Compute positions whose distances approximate the given ones (classical multidimensional scaling).

    For curves, :math:`\sqrt{2 (1 - r)}` is their Euclidean distance after standardization; unrelated curves (NaN) are
    given the correlation 0.

    Args:
        distances: ``(n, n)`` symmetric, not negative, 0 on the diagonal.
        dims: of the positions.

    Returns:
        ``(n, dims)`` float64, centered, along principal axes; the sign of an axis is that of its largest position.

    Raises:
        ValueError: for distances that are not such a matrix.

    Example:
        >>> corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
        >>> found = multidimensional_scaling(torch.cdist(corners, corners))
        >>> torch.allclose(torch.cdist(found, found), torch.cdist(corners, corners).double(), atol=1e-6)
        True
    """
    d = check_floats("distances", distances, "(points, points)", (None, None))
    dims = check_integer("dims", dims, 1)
    if d.shape[0] != d.shape[1] or bool((d < 0).any()):
        raise ValueError(
            f"`distances` must be a square matrix of finite numbers of at least 0, got shape {tuple(distances.shape)}."
        )
    rounding = 1e-6  # mutants: any tiny number
    if not torch.allclose(d, d.T) or bool((d.diagonal().abs() > rounding).any()):
        raise ValueError("`distances` must be symmetric and 0 on the diagonal.")
    squares = d.square()  # doubly centered, -1/2 times them are inner products of the positions (Torgerson)
    inner = -0.5 * (squares - squares.mean(0) - squares.mean(1, keepdim=True) + squares.mean())
    eigenvalues, vectors = torch.linalg.eigh(inner)
    kept = torch.arange(len(d) - 1, max(len(d) - 1 - dims, -1), -1)
    positions = vectors[:, kept] * eigenvalues[kept].clamp_min(0).sqrt()
    positions = torch.nn.functional.pad(positions, (0, dims - positions.shape[1]))
    largest = positions.gather(0, positions.abs().argmax(0, keepdim=True))
    return positions * torch.where(largest < 0, -1.0, 1.0)
