"""Item response theory: the two-parameter logistic model of right and wrong answers, with an ability for each task."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.selection import task_sizes
from synbench_lightning.functional.benchmark.task_shrinkage import correlations

STEPS = 12  # mutants: more steps change nothing
"""Number of Newton steps; the penalized likelihoods are concave, and six are enough for a change below 1e-6."""

SLOPE, SLOPE_SPREAD, EASINESS_SPREAD = 1.0, 0.5, 2.0  # mutants: a prior, alike over a range
"""Prior of an item: mean and standard deviation of its slope, and standard deviation of its easiness around the
logit of its task's mean. A slope spread of .3 gives similar errors, and so does an easiness spread of 1 or 4."""

ABILITY_SPREAD = 1.5  # mutants: searched, alike over a range
"""Variance of a new model's abilities as a multiple of that of the known models, whose range it may leave. Searched
among 1, 1.5 and 4; all give similar errors."""


class ItemResponse(NamedTuple):
    """Two-parameter logistic model: an item is answered correctly with probability sigmoid(slope * ability + easiness).

    ``slope`` and ``easiness`` ``(n,)``; the difficulty of an item is -easiness / slope. ``covariance`` ``(K, K)`` of
    the abilities, one for each task: their correlations are their common factor. Abilities have mean 0 and variance 1
    over the models that the items were fitted to.
    """

    slope: Tensor
    easiness: Tensor
    covariance: Tensor


def fit_item_response(right: Tensor, tasks: Tensor) -> ItemResponse:
    """Fit slope and easiness of the items to models that have answered all of them.

    With hundreds of items in a task, the ability of a known model is estimated well by the logit of its fraction of
    right answers. Given these, each item is a logistic regression with two parameters and a Gaussian prior.
    Iterating between the two does not improve predictions.

    Args:
        right: ``(T, n)`` 1 where a model answered correctly, else 0.
        tasks: ``(n,)`` task of each item, integers from 0 on.

    Raises:
        ValueError: for fewer than two models, or answers that are not 0 or 1.

    Example:
        >>> answers = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
        >>> model = fit_item_response(answers, torch.zeros(4, dtype=torch.long))
        >>> model.easiness.argsort(descending=True)
        tensor([0, 1, 2, 3])
    """
    if right.ndim != 2 or len(right) < 2 or not bool(((right == 0) | (right == 1)).all()):
        raise ValueError(
            f"`right` must be 0 or 1 in shape (models, items) with at least two models, got {tuple(right.shape)}, "
            f"values from {right.min() if right.numel() else None} to {right.max() if right.numel() else None}."
        )
    answers, sizes = right.double(), task_sizes(tasks)
    counts = torch.zeros(len(answers), len(sizes), dtype=torch.float64).index_add(1, tasks, answers)
    ability = torch.logit((counts + 0.5) / (sizes + 1))
    ability = (ability - ability.mean(0)) / ability.std(0).clamp_min(1e-6)  # mutants: any tiny number
    x = ability[:, tasks]
    usual = torch.logit((counts.sum(0) + 0.5) / (len(answers) * sizes + 1))[tasks]
    slope, easiness = torch.full_like(usual, SLOPE), usual.clone()
    for _ in range(STEPS):  # Newton steps of the penalized log-likelihood, with the 2 x 2 Hessian inverted by hand
        chance = torch.sigmoid(slope * x + easiness)
        left, weight = answers - chance, chance * (1 - chance)
        up = (left * x).sum(0) - (slope - SLOPE) / SLOPE_SPREAD**2
        across = left.sum(0) - (easiness - usual) / EASINESS_SPREAD**2
        first = (weight * x.square()).sum(0) + 1 / SLOPE_SPREAD**2
        second, mixed = weight.sum(0) + 1 / EASINESS_SPREAD**2, (weight * x).sum(0)
        determinant = first * second - mixed.square()
        slope = slope + ((second * up - mixed * across) / determinant).clamp(-2, 2)
        easiness = easiness + ((first * across - mixed * up) / determinant).clamp(-2, 2)
    return ItemResponse(slope, easiness, ABILITY_SPREAD * correlations(ability))


def abilities(model: ItemResponse, right: Tensor, indices: Tensor, tasks: Tensor, used: Tensor | None = None) -> Tensor:
    """Estimate the abilities of models from some of their answers: the mode of the posterior.

    Abilities are correlated, so that the ability in a task is estimated from the answers in other tasks too.

    Args:
        model: of :func:`fit_item_response`.
        right: ``(..., B)`` answers, 1 or 0.
        indices: ``(B,)`` their items.
        tasks: ``(n,)`` task of each item.
        used: ``(..., B)`` 1 for answers to use, 0 for those to ignore; ``None``: all are used.

    Returns:
        ``(..., K)``.

    Example:
        >>> model = ItemResponse(torch.ones(4), torch.zeros(4), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> found = abilities(model, torch.tensor([1.0, 1.0]), torch.tensor([0, 1]), torch.tensor([0, 0, 1, 1]))
        >>> [round(ability, 2) for ability in found.tolist()]
        [0.67, 0.61]
    """
    slope, easiness, own = model.slope[indices].double(), model.easiness[indices].double(), tasks[indices]
    weight = torch.ones_like(slope) if used is None else used.double()
    precision = torch.linalg.inv(model.covariance.double())
    shape = torch.broadcast_shapes(right.shape, weight.shape)[:-1]
    found = torch.zeros(*shape, len(precision), dtype=torch.float64)
    for _ in range(STEPS):
        chance = torch.sigmoid(slope * found[..., own] + easiness)
        pull = torch.zeros_like(found).index_add(-1, own, weight * slope * (right.double() - chance))
        sure = torch.zeros_like(found).index_add(-1, own, weight * slope.square() * chance * (1 - chance))
        gradient = (pull - found @ precision)[..., None]
        step = torch.linalg.solve(torch.diag_embed(sure) + precision, gradient)[..., 0]
        found = found + step.clamp(-2, 2)  # mutants: any size from which Newton's method converges
    return found


def chances(model: ItemResponse, ability: Tensor, tasks: Tensor) -> Tensor:
    """Compute the probabilities ``(..., n)`` of right answers to all items from abilities ``(..., K)``.

    Example:
        >>> model = ItemResponse(torch.tensor([1.0, 2.0]), torch.tensor([0.0, -2.0]), torch.eye(1))
        >>> chances(model, torch.tensor([1.0]), torch.tensor([0, 0]))
        tensor([0.7311, 0.5000])
    """
    return torch.sigmoid(model.slope * ability[..., tasks] + model.easiness)


def chances_from_other_tasks(model: ItemResponse, right: Tensor, indices: Tensor, tasks: Tensor) -> Tensor:
    """Compute the probabilities of right answers to all items, for each task from the answers in the others.

    No answer contributes to the forecasts of its own task, so these can be corrected by the answers without bias
    (:func:`.aipw`). With a single task they are those of an average model.

    Args:
        model: of :func:`fit_item_response`.
        right: ``(..., B)`` answers, 1 or 0.
        indices: ``(B,)`` their items.
        tasks: ``(n,)`` task of each item.

    Returns:
        ``(..., n)``.

    Example:
        >>> model = ItemResponse(torch.ones(2), torch.zeros(2), torch.tensor([[1.0, 0.9], [0.9, 1.0]]))
        >>> found = chances_from_other_tasks(model, torch.tensor([1.0, 0.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> [round(chance, 2) for chance in found.tolist()]
        [0.41, 0.59]
    """  # noqa: E501 (one line of the example)
    others = tasks[indices] != torch.arange(len(model.covariance))[:, None]
    each = abilities(model, right[..., None, :], indices, tasks, others)
    return chances(model, each.diagonal(dim1=-2, dim2=-1), tasks)
