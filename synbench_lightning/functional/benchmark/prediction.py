"""Choose which points of a benchmark to evaluate, and predict its value from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.estimation import Estimate, mean_of_tasks, weighted_mean
from synbench_lightning.functional.benchmark.lure import lure
from synbench_lightning.functional.benchmark.representatives import coefficient_clusters
from synbench_lightning.functional.benchmark.residuals import aipw, weighted_residual
from synbench_lightning.functional.benchmark.selection import Selection, proportional, stratified

Method = Literal["loss", "clusters", "random"]
"""How the points of each task are chosen: with probability proportional to their loss in the latest complete
evaluations; as those nearest to the centres of clusters of curves; or uniformly at random."""

RECENT = 5
"""Number of latest complete evaluations whose mean predicts a point and sets its probability of being drawn. A
convention, with no search on record; `examples/hill_climb_digits.py` is the measurement to repeat. More would average
over a curve that is still moving, fewer would let the noise of single evaluations decide."""


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


def predict_tasks(values: Tensor, selection: Selection, curves: Tensor, tasks: Tensor) -> list[Estimate]:
    """Each task's mean from the chosen points: predicted from the last complete evaluations, and corrected.

    Points drawn at random give an unbiased correction (:func:`.aipw`); cluster centres are weighted by the size of
    their clusters (:func:`.weighted_residual`).

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
        >>> risen = (curves.mean(0) + 0.5)[selection.indices]  # every point by 0.5
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

    The paired differences are much less noisy than the difference between two separate estimates.

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
