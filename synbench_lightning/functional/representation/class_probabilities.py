"""Calibrated class probabilities of a regularized linear discriminant on few labelled features, in closed form."""

from __future__ import annotations

import math

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integers

MAX_FOLDS = 10  # mutants: enough either way
"""Number of folds of the cross-fit in which the temperature is found."""

LOG_TEMPERATURES = (-5.0, 10.0)  # mutants: enough either way
"""Search interval of the logarithm of the temperature: from scores times 148 to scores over 22,026."""


def class_log_probabilities(support: Tensor, support_labels: Tensor, features: Tensor) -> Tensor:
    r"""Compute calibrated log-probabilities of the classes, from a linear discriminant fitted to a small support set.

    The classes are Gaussians with a common covariance, shrunk towards a multiple of the identity (oracle approximating
    shrinkage), and with the class frequencies of the support set as prior. Such a discriminant is over-confident where
    features are many and examples few. So its scores are divided by a temperature, which maximizes the likelihood of
    the support set in a cross-fit (each fold is scored by a discriminant of the other folds). The result is mixed with
    the prior, with weight :math:`1 / (n + 1)`, in the search for the temperature too: n examples cannot rule out an
    event of that probability. So a support set that is separated without an error does not lead to probabilities of 1,
    and no log-likelihood is below :math:`\log(\text{prior} / (n + 1))`. The log-likelihood of the right labels is
    ``class_log_probabilities(...).gather(1, labels[:, None])[:, 0]``.

    Sources: Chen, Wiesel, Eldar and Hero (2010), equation 23, for the shrinkage; Guo et al. (2017) for the temperature;
    Platt (1999) for targets short of certainty.

    Args:
        support: ``(n, D)`` labelled features.
        support_labels: ``(n,)`` their classes, integers from 0 on; at least two examples of each class.
        features: ``(N, D)`` features to be classified.

    Returns:
        ``(N, C)`` log-probabilities, float64; those of the prior where the support features are constant.

    Raises:
        ValueError: for shapes that do not fit, features that are not finite, or a class with fewer than two examples.

    Example:
        >>> support = torch.tensor([[-1.2], [-0.8], [0.8], [1.2]])
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> class_log_probabilities(support, labels, torch.tensor([[-1.0], [0.0], [1.0]])).argmax(1)
        tensor([0, 0, 1])
        >>> class_log_probabilities(support, labels, torch.tensor([[0.0]])).exp()
        tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    support, features = (
        check_floats(name, values, "(examples, dimensions)", (None, None))
        for name, values in (("support", support), ("features", features))
    )
    if support.shape[1] != features.shape[1]:
        raise ValueError(
            f"`support` and `features` must have the same dimension, got {support.shape[1]} and {features.shape[1]}."
        )
    counts = _class_counts(support_labels, len(support))
    fold = _folds(support_labels, len(counts), min(MAX_FOLDS, int(counts.max())))
    held_out = support.new_empty(len(support), len(counts))
    for part in range(int(fold.max()) + 1):
        inside = fold == part
        held_out[inside] = _scores(support[~inside], support_labels[~inside], len(counts), support[inside])

    prior = (counts / counts.sum()).log()
    weight = 1 / (len(support) + 1)  # of the prior
    targets = (1 - weight) * torch.nn.functional.one_hot(support_labels, len(counts)) + weight * prior.exp()

    def cost(log_temperature: float) -> float:
        """Cross-entropy of the cross-fit at a temperature."""
        scaled = torch.log_softmax(held_out / torch.tensor(log_temperature).double().exp() + prior, 1)
        return -float((targets * scaled).sum(1).mean())

    found = minimize_scalar(cost, bounds=LOG_TEMPERATURES, method="bounded")
    scores = _scores(support, support_labels, len(counts), features)
    calibrated = torch.log_softmax(scores / torch.tensor(float(found.x)).double().exp() + prior, 1)
    return torch.logaddexp(math.log1p(-weight) + calibrated, math.log(weight) + prior.expand_as(calibrated))


def _scores(support: Tensor, labels: Tensor, classes: int, features: Tensor) -> Tensor:
    r"""Compute discriminants ``(N, C)`` without the prior: :math:`x^\top S^{-1} m_c - \frac12 m_c^\top S^{-1} m_c`.

    They are 0 where the support features do not vary within the classes.

    Args:
        support: ``(n, D)``.
        labels: ``(n,)``.
        classes: C.
        features: ``(N, D)``.
    """
    one_hot = torch.nn.functional.one_hot(labels, classes).to(support.dtype)
    means = (one_hot.T @ support) / one_hot.sum(0)[:, None]
    centered = support - means[labels]
    covariance = shrunk_covariance(centered, len(support) - classes)
    scale = covariance.diagonal().mean()
    if not bool(scale > 0):
        return features.new_zeros(len(features), classes)
    weights = torch.cholesky_solve(means.T, torch.linalg.cholesky(covariance))
    return features @ weights - 0.5 * (means.T * weights).sum(0)


def shrunk_covariance(centred: Tensor, degrees_of_freedom: int | None = None) -> Tensor:
    """Estimate the covariance ``(D, D)`` of centered features ``(n, D)`` by oracle approximating shrinkage (OAS).

    It is shrunk towards a multiple of the identity, with the weight that minimizes the expected squared error for
    Gaussian features, approximately. Source: Chen, Wiesel, Eldar and Hero (2010), equation 23, in scikit-learn's form.

    Args:
        centred: ``(n, D)`` features with mean zero.
        degrees_of_freedom: of the sum of squares; ``None`` for n.

    Example:
        >>> diagonal = torch.tensor([[1.0, 1.0], [-1.0, -1.0]]).double()
        >>> shrunk_covariance(diagonal.repeat(20, 1))
        tensor([[1.0000, 0.9024],
                [0.9024, 1.0000]], dtype=torch.float64)
    """
    n, dim = centred.shape
    freedom = n if degrees_of_freedom is None else max(degrees_of_freedom, 1)
    covariance = centred.T @ centred / freedom
    size, spread = covariance.diagonal().mean(), covariance.square().mean()
    numerator, denominator = spread + size**2, (n + 1) * (spread - size**2 / dim)
    # At 0 the covariance is a multiple of the identity already.
    share = min(1.0, float(numerator / denominator)) if float(denominator) > 0 else 0.0  # mutants: at 0 any share
    return (1 - share) * covariance + share * size * torch.eye(dim, dtype=centred.dtype, device=centred.device)


def _folds(labels: Tensor, classes: int, folds: int) -> Tensor:
    """Assign each example to a fold ``(n,)``, stratified by class."""
    fold = torch.empty_like(labels)
    for index in range(classes):
        own = labels == index
        fold[own] = torch.arange(int(own.sum()), device=labels.device) % folds
    return fold


def _class_counts(labels: Tensor, examples: int) -> Tensor:
    """Check labels ``(n,)``, and count the examples of each class, ``(C,)`` float64."""
    what = "one class for each row of `support`"
    check_integers("support_labels", labels, what=what, length=examples)
    counts = torch.bincount(labels)
    if len(counts) < 2 or int(counts.min()) < 2:
        raise ValueError(
            "`support_labels` must hold at least two classes, from 0 on without gaps, and two examples of each; the "
            f"numbers of examples are {counts.tolist()}. Give the support set more examples."
        )
    return counts.double()
