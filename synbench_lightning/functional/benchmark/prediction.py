"""Choose which points of a benchmark to evaluate, and predict its value from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.estimation import Estimate, mean_of_tasks, weighted_mean
from synbench_lightning.functional.benchmark.lure import lure
from synbench_lightning.functional.benchmark.representatives import coefficient_clusters
from synbench_lightning.functional.benchmark.residuals import aipw, weighted_residual
from synbench_lightning.functional.benchmark.selection import Selection, proportional, stratified

Method = Literal["residual", "clusters", "random"]
"""How points are chosen in each task: drawn in proportion to how far off their forecasts were; the centres of clusters
of their curves; or drawn all alike."""

WINDOWS = (1, 2, 5, 10)
"""Numbers of the latest evaluations whose mean may be the forecast, beside the mean of all of them."""

PRIOR = 3.0
"""The mean squared residual of its task counts for each point like so many evaluations: a point that was never off in
five of them may be off in the sixth. Searched among 0, 3 and 10 on matrices of ``python -m tests.benchmarks.points``:
with 0 the error is up to a quarter above that of random drawing where answers are right or wrong, with 10 drawing gains
less where they are log-likelihoods."""

EVEN = 0.3
"""Share of the probability that is the same for all points of a task; .5 gives errors that are alike."""


def choose_points(curves: Tensor, tasks: Tensor, budget: int, method: Method = "residual", seed: int = 0) -> Selection:
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
        >>> curves = -torch.tensor([[0.1, 0.1, 3.0, 0.1], [0.1, 0.1, 2.0, 0.1]])  # one point moves
        >>> selection = choose_points(curves, torch.zeros(4, dtype=torch.long), budget=1)
        >>> [round(share.item(), 2) for share in selection.inclusion]
        [0.24, 0.24, 0.29, 0.24]
    """
    if method not in get_args(Method):
        raise ValueError(f"`method` must be 'residual', 'clusters' or 'random', got {method!r}.")
    if method == "random":
        return stratified(tasks, budget, seed)
    if method == "residual":
        return proportional(forecast(curves, tasks).residual, tasks, budget, seed, floor=EVEN)
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


class Forecast(NamedTuple):
    """What an evaluation is expected to give each point ``(n,)``, and how far off such a forecast was ``(n,)``."""

    values: Tensor
    residual: Tensor


def forecast(curves: Tensor, tasks: Tensor) -> Forecast:
    """Forecast each point by the mean of some of the evaluations before: as many as would have been best so far.

    Each evaluation in the second half is forecast from those before it, by the mean of the last 1, 2, 5, 10 or of all.
    The number with the smallest residuals is taken. Checkpoints of one run are told best by the last ones, different
    models by all of them. A change that all points of a task share is no residual: it is found from any point.

    Args:
        curves: ``(T, n)`` complete evaluations, the latest last.
        tasks: ``(n,)`` task of each point, integers from 0 on.

    Returns:
        The forecast, and the root mean square of the residuals; 1 for each point after a single evaluation.

    Example:
        >>> curves = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0], [0.0, 4.0]])
        >>> forecast(curves, torch.tensor([0, 1])).values
        tensor([0., 4.], dtype=torch.float64)
    """
    curves, count = curves.double(), len(curves)
    if count == 1:
        return Forecast(curves[0], torch.ones_like(curves[0]))
    squares = {window: _residuals(curves, tasks, window).square() for window in (*WINDOWS, count)}
    window = min(squares, key=lambda candidate: float(squares[candidate].mean()))
    found = squares[window]
    usual = _of_each_task(found.mean(0), tasks)
    return Forecast(curves[-window:].mean(0), ((found.sum(0) + PRIOR * usual) / (len(found) + PRIOR)).sqrt())


def _residuals(curves: Tensor, tasks: Tensor, window: int) -> Tensor:
    """What forecasts from the evaluations of a window leave of those in the second half, less the mean of each task."""
    later = range(max(1, len(curves) // 2), len(curves))
    left = [curves[turn] - curves[max(0, turn - window) : turn].mean(0) for turn in later]
    return torch.stack([residual - _of_each_task(residual, tasks) for residual in left])


def _of_each_task(values: Tensor, tasks: Tensor) -> Tensor:
    """The mean of its task for each point, ``(n,)``."""
    sums = torch.zeros(int(tasks.max()) + 1, dtype=values.dtype).index_add(0, tasks, values)
    means: Tensor = (sums / torch.bincount(tasks))[tasks]
    return means


def predict_tasks(values: Tensor, selection: Selection, curves: Tensor, tasks: Tensor) -> list[Estimate]:
    """Each task's mean from the chosen points: forecast from the complete evaluations, and corrected.

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
        >>> expected = forecast(curves, tasks).values + 0.5  # every point has risen by a half
        >>> estimates = predict_tasks(expected[selection.indices], selection, curves, tasks)
        >>> [torch.allclose(e.value, expected[tasks == k].mean()) for k, e in enumerate(estimates)]
        [True, True]
    """
    predictions = forecast(curves, tasks).values
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
