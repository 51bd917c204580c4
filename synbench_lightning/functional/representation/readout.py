"""Leave-one-out R² of a ridge regression of few labels on features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integers
from synbench_lightning.functional.tolerances import ROUNDING

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 3))  # mutants: wide enough either way
"""Ridge penalties to choose from, as multiples of the total sum of squares of the centered features."""
GROUPS = 16
"""Jackknife groups of examples: the standard error of a difference then has a relative error of about a fifth."""


class Readout(NamedTuple):
    """Leave-one-out R² of a ridge regression of labels on features.

    Attributes:
        value: R², the fraction of the labels' variance that is explained.
        error: its standard error over the examples.
        right: ``(n,)``, whether the class with the largest prediction is that of the held-out example.
        replicates: ``(1, groups)`` jackknife replicates, the value without each group of examples. The replicates of
            two encoders on the same examples give the standard error of their paired difference, see
            :func:`~synbench_lightning.functional.representation.information.replicates_error`.
    """

    value: float
    error: float
    right: Tensor
    replicates: Tensor


def few_label_readout(features: Tensor, labels: Tensor) -> Readout:
    r"""Compute the leave-one-out R² of a ridge regression of the classes on the features, in closed form.

    The classes are coded as one-hot vectors. The leave-one-out error of an example is :math:`e_i = (y_i - \hat y_i) /
    (1 - h_i)` with :math:`h_i` its leverage, so that one fit serves all examples (Allen's PRESS, 1974). The value is

    .. math:: 1 - \frac{\sum_i \|e_i\|^2}{\sum_i \|y_i - \bar y_{-i}\|^2}

    with the errors of the mean of the other examples in the denominator: 1 for perfect prediction of each held-out
    example, 0 if the features predict no better than the class frequencies. The value is the maximum over several
    ridge penalties. It is invariant to scaling, shifts and rotations of the features.

    Args:
        features: ``(n, D)``, finite.
        labels: ``(n,)`` integers, at least two classes.

    Returns:
        R², at most 1, with its standard error; 0 for constant features.

    Example:
        >>> labels = torch.arange(40) % 2
        >>> features = labels[:, None] + 0.1 * torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
        >>> few_label_readout(features, labels).value > 0.9
        True
    """
    features = check_floats("features", features, "(examples, dimensions)", (None, None))
    check_integers("labels", labels, what="one for each row of `features`", length=len(features))
    classes, place = labels.to(features.device).unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"`labels` must contain at least two classes, got only {classes.tolist()}.")
    targets = torch.nn.functional.one_hot(place, len(classes)).double()
    n = len(features)
    centered, own = features - features.mean(0), targets - targets.mean(0)
    alone = own * n / (n - 1)  # y_i minus the mean of the others
    gram = centered @ centered.T  # (n, n)
    total = gram.diagonal().sum()
    if not bool(total > ROUNDING * features.square().sum()):
        return Readout(0.0, 0.0, place.bincount().argmax() == place, gram.new_zeros(1, min(GROUPS, n)))
    values, vectors = torch.linalg.eigh(gram)
    values, along = values.clamp_min(0), vectors.T @ own
    errors = []
    for penalty in PENALTIES:
        share = values / (values + penalty * total)  # shrinkage factor of each eigenvector
        leverage = 1 / n + vectors.square() @ share  # h_i; 1 / n is that of the mean
        left = (1 - leverage).clamp_min(1e-9)  # mutants: any tiny number
        errors.append((own - vectors @ (share[:, None] * along)) / left[:, None])
    missed = min(errors, key=lambda found: float(found.square().sum()))
    squares, baseline = missed.square().sum(1), alone.square().sum(1)
    ratio = squares.sum() / baseline.sum()
    influence = (squares - ratio * baseline) / baseline.mean()  # first-order influence of each example on the ratio
    right = (targets - missed).argmax(1) == place
    group = torch.arange(n, device=squares.device) % GROUPS
    kept = (group != torch.arange(min(GROUPS, n), device=squares.device)[:, None]).double()  # (groups, n)
    replicates = 1 - (kept @ squares) / (kept @ baseline)
    return Readout(float(1 - ratio), float(influence.std() / n**0.5), right, replicates[None])
