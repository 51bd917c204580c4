"""From complete evaluations of a benchmark to the points to evaluate next, and from those to its value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.estimation import (
    Estimate,
    aipw,
    lure,
    mean_of_tasks,
    weighted_mean,
    weighted_residual,
)
from synbench_lightning.functional.benchmark.selection import Selection, coefficient_clusters, proportional, stratified

Method = Literal["loss", "clusters", "random"]
"""How points are chosen in each task: drawn in proportion to their loss in the last complete evaluations; the centres
of clusters of their curves; or drawn all alike."""

RECENT = 5
"""Complete evaluations whose mean predicts a point, and says how large its loss is."""


def choose_points(curves: Tensor, tasks: Tensor, budget: int, method: Method = "loss", seed: int = 0) -> Selection:
    """Choose the points to evaluate from here on.

    Args:
        curves: ``(T, n)`` log-likelihoods of the right label in complete evaluations, the latest last.
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks.
        method: how they are chosen.
        seed: the same seed gives the same points.

    Raises:
        ValueError: for an unknown method, or another argument outside its range.

    Example:
        >>> curves = -torch.tensor([[0.1, 0.1, 3.0, 0.1], [0.1, 0.1, 2.0, 0.1]])
        >>> selection = choose_points(curves, torch.zeros(4, dtype=torch.long), budget=1)
        >>> round(selection.inclusion[2].item(), 2)
        0.83
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be 'loss', 'clusters' or 'random', got {method!r}.")
    if method == "random":
        return stratified(tasks, budget, seed)
    if method == "loss":
        return proportional(-curves[-RECENT:].mean(0).clamp_max(0), tasks, budget, seed)
    return coefficient_clusters(curves, tasks, budget, len(curves) - 1, seed)


def exact_tasks(values: Tensor, tasks: Tensor) -> list[Estimate]:
    """Each task's mean where all of its points were evaluated: no error.

    Args:
        values: ``(n,)`` values of all points.
        tasks: ``(n,)`` task of each point, integers from 0 on.

    Example:
        >>> [float(estimate.value) for estimate in exact_tasks(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))]
        [2.0, 5.0]
    """
    none = torch.zeros((), dtype=torch.float64)
    means = [values[(tasks == task).nonzero()[:, 0]].mean() for task in range(int(tasks.max()) + 1)]
    return [Estimate(mean, none, torch.full_like(none, torch.inf)) for mean in means]


def limits(estimate: Estimate) -> tuple[float, float]:
    """Its interval of 95 percent."""
    low, high = estimate.interval()
    return float(low), float(high)


def predict_tasks(values: Tensor, selection: Selection, curves: Tensor, tasks: Tensor) -> list[Estimate]:
    """Each task's mean from the chosen points: predicted from the last complete evaluations, and corrected.

    Points that were drawn correct without bias (:func:`.aipw`), centres of
    clusters by their shares (:func:`.weighted_residual`).

    Args:
        values: ``(..., B)`` values of the selected points.
        selection: of :func:`choose_points`.
        curves: ``(T, n)`` complete evaluations.
        tasks: ``(n,)`` task of each point.

    Returns:
        An estimate of each task, in order.

    Example:
        >>> curves, tasks = -torch.rand(3, 40), torch.arange(40) // 20
        >>> selection = choose_points(curves, tasks, budget=10, method="clusters")
        >>> risen = (curves.mean(0) + 0.5)[selection.indices]  # every point by a half
        >>> estimates = predict_tasks(risen, selection, curves, tasks)
        >>> [torch.allclose(e.value, curves[:, tasks == k].double().mean() + 0.5) for k, e in enumerate(estimates)]
        [True, True]
    """
    predictions = curves[-RECENT:].double().mean(0)
    found = []
    for own, inside in _by_task(selection, tasks):
        places, seen = torch.searchsorted(own, selection.indices[inside]), values[..., inside]
        if selection.proposal is None:
            found.append(weighted_residual(seen, predictions[own], places, selection.weights[inside]))
        else:
            found.append(aipw(seen, predictions[own], places, selection.proposal[inside]))
    return found


def change_of_benchmark(changes: Tensor, selection: Selection, tasks: Tensor) -> Estimate:
    """How much the mean over the tasks has changed, from the changes of the selected points.

    Two evaluations of the same points are compared much better by their differences than by their two values.

    Args:
        changes: ``(..., B)`` differences of the selected points.
        selection: of :func:`choose_points`.
        tasks: ``(n,)`` task of each point.

    Example:
        >>> tasks = torch.arange(40) // 20
        >>> selection = choose_points(-torch.rand(3, 40), tasks, budget=10, method="clusters")
        >>> round(change_of_benchmark(torch.full((10,), 0.5), selection, tasks).value.item(), 6)
        0.5
    """
    found = []
    for own, inside in _by_task(selection, tasks):
        if selection.proposal is None:
            found.append(weighted_mean(changes[..., inside], selection.weights[inside], len(own)))
        else:
            found.append(lure(changes[..., inside], selection.proposal[inside], len(own)))
    return mean_of_tasks(found)


def _by_task(selection: Selection, tasks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """All points of each task, and the places of its points in the selection."""
    for task in range(int(tasks.max()) + 1):
        inside = (tasks[selection.indices] == task).nonzero()[:, 0]
        yield (tasks == task).nonzero()[:, 0], inside
