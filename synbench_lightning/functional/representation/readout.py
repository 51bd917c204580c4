"""Leave-one-out R² of a ridge regression of a few labels on the features."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integers
from synbench_lightning.functional.tolerances import ROUNDING

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 3))  # mutants: wide enough either way
"""Ridges among which the best is taken, as multiples of the variance of the features, summed over the dimensions."""
GROUPS = 16
"""Of the examples that are left out in turn: enough for an error of a difference that is itself known to a fifth."""


class Readout(NamedTuple):
    """The share of the labels' variance that is told, its standard error over the examples, and who was right.

    ``right`` is ``(n,)``, whether the class with the largest answer is that of the example which was left out.
    ``replicates`` is ``(1, groups)``, the value without each group of the examples: the difference of those of two
    encoders has the standard error of the difference for the same examples, by
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

    with the errors of the mean of the other examples in the denominator: 1 where each held-out example is predicted
    without an error, 0 where the features predict no better than the class frequencies. The largest value over several
    ridges is taken. It is invariant to scaling, shifts and rotations of the features.

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
        raise ValueError(f"`labels` must hold at least two classes, got only {classes.tolist()}.")
    targets = torch.nn.functional.one_hot(place, len(classes)).double()
    n = len(features)
    centered, own = features - features.mean(0), targets - targets.mean(0)
    alone = own * n / (n - 1)  # y_i less the mean of the others
    gram = centered @ centered.T  # (n, n)
    total = gram.diagonal().sum()
    if not bool(total > ROUNDING * features.square().sum()):
        return Readout(0.0, 0.0, place.bincount().argmax() == place, gram.new_zeros(1, min(GROUPS, n)))
    values, vectors = torch.linalg.eigh(gram)
    values, along = values.clamp_min(0), vectors.T @ own
    errors = []
    for penalty in PENALTIES:
        share = values / (values + penalty * total)  # of each eigenvector that the ridge keeps
        leverage = 1 / n + vectors.square() @ share  # h_i; 1 / n from the mean
        errors.append((own - vectors @ (share[:, None] * along)) / (1 - leverage).clamp_min(1e-9)[:, None])
    missed = min(errors, key=lambda found: float(found.square().sum()))
    squares, baseline = missed.square().sum(1), alone.square().sum(1)
    ratio = squares.sum() / baseline.sum()
    influence = (squares - ratio * baseline) / baseline.mean()  # of each example on the ratio, to first order
    right = (targets - missed).argmax(1) == place
    group = torch.arange(n, device=squares.device) % GROUPS
    kept = (group != torch.arange(min(GROUPS, n), device=squares.device)[:, None]).double()  # (groups, n)
    replicates = 1 - (kept @ squares) / (kept @ baseline)
    return Readout(float(1 - ratio), float(influence.std() / n**0.5), right, replicates[None])
