"""The epsilon-robust linear discriminant in closed form, with its accuracy and margin on held-out features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from synbench_lightning.checks import check_dense, check_floats, numbers, shown

EIGENVALUE_FLOOR = 1e-6
"""Directions in which the features vary less than this carry no information (official SynBench code)."""


class Spectrum(NamedTuple):
    """Eigenvalues ``(R,)`` and eigenvectors ``(D, R)`` of a covariance, without its empty directions."""

    eigenvalues: Tensor
    basis: Tensor


def accuracy_and_bound(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    epsilons: Sequence[float],
) -> tuple[Tensor, Tensor]:
    r"""Compute held-out accuracy and mean margin of the epsilon-robust linear discriminant.

    With :math:`\mu` half the difference of the class means, :math:`c` their midpoint and :math:`S` the pooled
    within-class covariance, the rule that is optimal against shifts of the features of length up to
    :math:`\epsilon |\mu|_2` is :math:`\mathrm{sign}(w^\top (x - c))` with :math:`w \propto (S + g I)^{-1} \mu`; the
    ridge :math:`g \ge 0` solves :math:`|g (S + g I)^{-1} \mu| = \epsilon |\mu|`. The margin of a sample is
    :math:`|w^\top (x - c)| / |w^\top \mu|`. Source: SynBench, the robust Bayes rule for class-conditional Gaussians;
    derivation of the ridge: "The robust discriminant" in ``docs/mathematics.md``. Directions of :math:`S` with an
    eigenvalue of at most 1e-6 are dropped, as in the official code.

    Args:
        train_features: ``(n, D)`` features to fit on; fewer samples than dimensions are allowed.
        train_labels: ``(n,)`` labels, 0 or 1, both present.
        test_features: ``(m, D)`` features to measure on.
        test_labels: ``(m,)`` labels, 0 or 1.
        epsilons: strengths of the shift relative to :math:`|\mu|_2`, each in [0, 1).

    Returns:
        ``accuracy`` ``(E,)``, the fraction of test samples that are classified correctly, in [0, 1], and ``bound``
        ``(E,)``, their mean margin, both float64. Where no rule exists (all features constant, or the class means equal
        in every direction that is kept) accuracy is 0.5 and bound 0; where no sample is right, bound is 0.

    Raises:
        ValueError: for wrong shapes, labels other than 0 and 1, a class without training samples, fewer than three
            training samples, NaN or infinite features, or an epsilon outside [0, 1).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.arange(4000) % 2
        >>> features = torch.randn(4000, 8, generator=generator) + 0.5 * (2 * labels[:, None] - 1)
        >>> accuracy, bound = accuracy_and_bound(features[:2000], labels[:2000], features[2000:], labels[2000:], [0.0])
        >>> abs(accuracy.item() - 0.921) < 0.02  # Phi(sqrt(8) / 2)
        True
    """
    epsilons = check_epsilons(epsilons)
    train, train_positive = _checked(train_features, train_labels, "train")
    test, test_positive = _checked(test_features, test_labels, "test")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"`train_features` and `test_features` must have the same dimension, got {train.shape[1]} and "
            f"{test.shape[1]}."
        )
    if len(train) < 3 or not 0 < int(train_positive.sum()) < len(train):
        raise ValueError(
            "`train_labels` must hold both classes, 0 and 1, and at least three samples in all, got "
            f"{int((~train_positive).sum())} of class 0 and {int(train_positive.sum())} of class 1."
        )
    (negative, positive), covariance = class_moments(train, train_positive.long(), 2)
    spectrum = covariance_spectrum(covariance, EIGENVALUE_FLOOR)
    weights = robust_weights(spectrum, (positive - negative) / 2, epsilons)
    projected = (test - (positive + negative) / 2) @ weights.T
    return summarise_margins(torch.where(test_positive[:, None], projected, -projected).T)


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Compute class means ``(C, D)`` and the pooled within-class covariance ``(D, D)``, divided by n - C.

    Features are ``(n, D)``, labels ``(n,)`` integers in [0, C), each of them present.
    """
    means = torch.stack([features[labels == label].mean(0) for label in range(num_classes)])
    centered = features - means[labels]
    return means, centered.T @ centered / (len(features) - num_classes)


def covariance_spectrum(covariance: Tensor, floor: float) -> Spectrum:
    """Decompose a covariance ``(D, D)``: its eigenvalues above ``floor``, ascending, and their eigenvectors."""
    eigenvalues, basis = torch.linalg.eigh(covariance)
    kept = eigenvalues > floor
    return Spectrum(eigenvalues[kept], basis[:, kept])


def robust_weights(spectrum: Spectrum, half_difference: Tensor, epsilons: Sequence[float]) -> Tensor:
    r"""Compute weights ``(E, D)`` of the epsilon-robust discriminants, scaled so that :math:`w^\top \mu = 1`.

    With this scale ``y * w @ (x - c)`` is the signed margin of SynBench. Where the half difference of the means
    ``(D,)`` vanishes in the directions that the spectrum keeps, there is no rule and the weights are 0.
    """
    eigenvalues, basis = spectrum
    mu = half_difference @ basis  # in the eigenvectors of S, (R,)
    weights = basis.new_zeros(len(epsilons), basis.shape[0])
    if not bool(mu.square().sum() > 0):
        return weights
    squares, values = mu.square().cpu().numpy(), eigenvalues.cpu().numpy()
    for row, epsilon in zip(weights, epsilons, strict=True):
        direction = mu / (eigenvalues + _ridge(values, squares, epsilon))
        row.copy_(basis @ (direction / (direction @ mu)))
    return weights


def _ridge(eigenvalues: np.ndarray, squared_mu: np.ndarray, epsilon: float) -> float:
    """Solve ``|g (S + g)^-1 mu| = epsilon |mu|`` for the ridge ``g``, a monotone equation in log g.

    Args:
        eigenvalues: ``(R,)`` of S, positive.
        squared_mu: ``(R,)`` squares of mu in the eigenvectors.
        epsilon: in [0, 1).
    """
    if epsilon == 0:
        return 0.0
    target = epsilon**2 * squared_mu.sum()

    def excess(log_ridge: float) -> float:
        shrunk = 1 / (1 + eigenvalues * math.exp(-log_ridge))  # g / (S + g), without overflow
        return float((squared_mu * shrunk**2).sum() - target)

    # With one eigenvalue v for all directions g = v * epsilon / (1 - epsilon): the extremes bracket the root.
    odds = math.log(epsilon / (1 - epsilon))
    margin, accuracy = 1e-6, 1e-12  # mutants: any tiny numbers
    low, high = math.log(eigenvalues.min()) + odds - margin, math.log(eigenvalues.max()) + odds + margin
    return math.exp(brentq(excess, low, high, xtol=accuracy))


def summarise_margins(margins: Tensor) -> tuple[Tensor, Tensor]:
    """Compute accuracy and bound ``(...)`` of signed margins ``(..., m)``, positive where the sample is right.

    Margins that are all 0 come from features without a rule: accuracy 0.5 (chance), bound 0.
    """
    right = margins > 0
    count = right.sum(-1)
    accuracy = count.double() / margins.shape[-1]
    bound = torch.where(right, margins, 0).sum(-1) / count.clamp_min(1)
    without_rule = (margins == 0).all(-1)
    return torch.where(without_rule, 0.5, accuracy), bound.double()


def check_epsilons(epsilons: Sequence[float]) -> tuple[float, ...]:
    """Check the epsilons and return them as a tuple of floats.

    Raises:
        ValueError: if there is none, one is given twice, or one is outside [0, 1).
    """
    values = numbers("epsilons", epsilons)
    if not values or not all(0 <= epsilon < 1 for epsilon in values) or len(set(values)) < len(values):
        raise ValueError(
            f"`epsilons` must be different numbers in [0, 1), at least one, got {list(values)}. An epsilon is relative "
            "to half the distance of the class means: at 1 no rule exists."
        )
    return values


def _checked(features: Tensor, labels: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Check features and labels; return features ``(n, D)`` as float64 and a mask ``(n,)`` of class 1."""
    checked = check_floats(f"{name}_features", features, "(samples, dimensions)", (None, None)).detach()
    check_dense(f"{name}_labels", labels)
    if not isinstance(labels, Tensor) or labels.shape != features.shape[:1]:
        raise ValueError(
            f"`{name}_labels` must be a tensor of shape {(len(features),)}, one label for each row of "
            f"`{name}_features`, got {shown(labels)}."
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError(f"`{name}_labels` must be 0 or 1, got {labels.unique().tolist()[:8]}.")
    return checked, labels == 1
