"""Select which items of a benchmark to evaluate, and estimate its value from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from synbench_lightning.checks import check_choice, check_floats, shown
from synbench_lightning.functional.benchmark.confidence_intervals import Estimate, mean_of_tasks, weighted_mean
from synbench_lightning.functional.benchmark.curve_correlation import check_tasks, task_curves
from synbench_lightning.functional.benchmark.item_response import (
    chances_from_other_tasks,
    fit_item_response,
)
from synbench_lightning.functional.benchmark.lure import lure
from synbench_lightning.functional.benchmark.representatives import coefficient_clusters
from synbench_lightning.functional.benchmark.residuals import aipw, weighted_residual
from synbench_lightning.functional.benchmark.selection import Selection, proportional, stratified, task_sizes
from synbench_lightning.functional.benchmark.signal_to_noise import decision_accuracy
from synbench_lightning.functional.benchmark.task_shrinkage import related_tasks

Method = Literal["residual", "clusters", "random"]
"""How items are selected in each task: sampled in proportion to the error of their forecasts; the items at the centers
of clusters of curves; or sampled uniformly."""

WINDOWS = (1, 2, 5, 10)  # mutants: a choice of candidates
"""Candidate numbers of latest evaluations whose mean is the forecast, in addition to all of them."""

PRIOR = 3.0  # mutants: searched, alike over a range
"""Number of evaluations that the mean squared residual of the task is worth as a prior for each item: an item without a
residual in five of them may have one in the sixth. Searched among 0, 3 and 10 on matrices of
``python -m tests.performance.points``: with 0 the error is up to a quarter above that of uniform sampling where answers
are right or wrong, with 10 there is less gain where they are log-likelihoods."""

EVEN = 0.3  # mutants: searched, alike over a range
"""Fraction of the probability that is the same for all items of a task; .5 gives similar errors."""

LEAST_MODELS = 4
"""Number of complete evaluations below which no item response model is tried: the first half of them must be two."""


def choose_points(curves: Tensor, tasks: Tensor, budget: int, method: Method = "residual", seed: int = 0) -> Selection:
    """Select the items to evaluate from here on, from the complete evaluations so far.

    Args:
        curves: ``(T, n)`` log-likelihoods of the right label in complete evaluations, the latest last.
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items, over all tasks.
        method: how they are selected.
        seed: the same seed gives the same items.

    Raises:
        ValueError: for an unknown method, or another argument outside its range.

    Example:
        >>> curves = -torch.tensor([[0.1, 0.1, 3.0, 0.1], [0.1, 0.1, 2.0, 0.1]])  # one point moves
        >>> selection = choose_points(curves, torch.zeros(4, dtype=torch.long), budget=1)
        >>> [round(share.item(), 2) for share in selection.inclusion]
        [0.24, 0.24, 0.29, 0.24]
    """
    check_choice("method", method, get_args(Method))
    check_complete(curves, tasks)
    if method == "random":
        return stratified(tasks, budget, seed)
    if method == "residual":
        return proportional(forecast(curves, tasks).residual, tasks, budget, seed, floor=EVEN)
    return coefficient_clusters(curves, tasks, budget, len(curves) - 1, seed)


def check_complete(curves: Tensor, tasks: Tensor) -> None:
    """Check complete evaluations ``(T, n)`` and the tasks ``(n,)`` of their items, none of them empty."""
    curves = check_floats("curves", curves, "(evaluations, points)", (None, None))
    check_tasks(tasks, curves.shape[1])
    task_sizes(tasks)


def check_selection(selection: Selection, points: int) -> None:
    """Check that a selection is from that many items."""
    if not isinstance(selection, Selection) or int(selection.indices.max()) >= points:
        raise ValueError(f"`selection` must be a Selection among {points} points, got {shown(selection)}.")


def exact_tasks(values: Tensor, tasks: Tensor) -> list[Estimate]:
    """Compute the mean of each task where all of its items were evaluated: the standard error is 0.

    Args:
        values: ``(n,)`` values of all items.
        tasks: ``(n,)`` task of each item, integers from 0 on.

    Example:
        >>> [float(estimate.value) for estimate in exact_tasks(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]))]
        [2.0, 5.0]
    """
    none = torch.zeros((), dtype=torch.float64)
    means = [values[(tasks == task).nonzero()[:, 0]].mean() for task in range(int(tasks.max()) + 1)]
    return [Estimate(mean, none, torch.full_like(none, torch.inf)) for mean in means]


def limits(estimate: Estimate) -> tuple[float, float]:
    """Return the 95 % confidence interval of an estimate."""
    low, high = estimate.interval()
    return float(low), float(high)


class Forecast(NamedTuple):
    """Forecast of each item ``(n,)``, and the root mean square of the residuals of such forecasts ``(n,)``."""

    values: Tensor
    residual: Tensor


def forecast(curves: Tensor, tasks: Tensor) -> Forecast:
    """Forecast each item by the mean of its last evaluations, with the window that would have been best so far.

    Each evaluation in the second half is forecast from those before it, by the mean of the last 1, 2, 5, 10 or of all.
    The window with the smallest residuals is taken. Checkpoints of one run are forecast best by the last ones,
    different models by all of them. A change common to all items of a task is no residual: any item reveals it.

    Args:
        curves: ``(T, n)`` complete evaluations, the latest last.
        tasks: ``(n,)`` task of each item, integers from 0 on.

    Returns:
        The forecast, and the root mean square of the residuals; 1 for each item after a single evaluation.

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
    """Compute the residuals ``(t, n)`` of forecasts of the second half from a window, less the mean of each task."""
    later = range(max(1, len(curves) // 2), len(curves))
    left = [curves[turn] - curves[max(0, turn - window) : turn].mean(0) for turn in later]
    return _off(torch.stack(left), tasks)


def _off(residuals: Tensor, tasks: Tensor) -> Tensor:
    """Subtract the mean of each task from residuals ``(..., n)``."""
    return residuals - _of_each_task(residuals, tasks)


def _of_each_task(values: Tensor, tasks: Tensor) -> Tensor:
    """Compute, for each item, the mean of its task over values ``(..., n)``."""
    sums = torch.zeros(*values.shape[:-1], int(tasks.max()) + 1, dtype=values.dtype).index_add(-1, tasks, values)
    means: Tensor = (sums / torch.bincount(tasks))[..., tasks]
    return means


def predict_tasks(values: Tensor, selection: Selection, curves: Tensor, tasks: Tensor) -> list[Estimate]:
    """Estimate the mean of each task from the selected items, by forecasts that are corrected by their residuals.

    Forecasts are those of :func:`forecast`. Where all values are one of two, right or wrong, an item response model
    replaces them if it forecasts the second half of the complete evaluations better from the first.

    Random items give an unbiased correction (:func:`.aipw`); cluster centers are weighted by the size of their clusters
    (:func:`.weighted_residual`).

    Args:
        values: ``(..., B)`` values of the selected items.
        selection: of :func:`choose_points`.
        curves: ``(T, n)`` complete evaluations.
        tasks: ``(n,)`` task of each item.

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
    check_complete(curves, tasks)
    check_selection(selection, len(tasks))
    values = check_floats("values", values, "(..., selected points)", (..., len(selection.indices)))
    predictions = _expected(values, selection, curves, tasks)
    found = []
    for own, inside in _by_task(selection, tasks):
        places = torch.searchsorted(own, selection.indices[inside])
        seen, expected = values[..., inside], predictions[..., own]
        if selection.proposal is None:
            found.append(weighted_residual(seen, expected, places, selection.weights[inside]))
        else:
            found.append(aipw(seen, expected, places, selection.proposal[inside]))
    return found


def _expected(values: Tensor, selection: Selection, curves: Tensor, tasks: Tensor) -> Tensor:
    """Forecast all items ``(n,)`` or ``(..., n)``, without the values of their own task."""
    low, high = curves.min(), curves.max()
    two_valued = all(bool(((seen == low) | (seen == high)).all()) for seen in (curves, values.to(curves)))
    if not two_valued or low == high or len(curves) < LEAST_MODELS:
        return forecast(curves, tasks).values
    right, chosen = (curves == high).double(), selection.indices
    earlier, later = right[: len(right) // 2], right[len(right) // 2 :]
    by_items = chances_from_other_tasks(fit_item_response(earlier, tasks), later[:, chosen], chosen, tasks)
    errors = [_off(later - guess, tasks).square().mean() for guess in (by_items, forecast(earlier, tasks).values)]
    if errors[0] >= errors[1]:
        return forecast(curves, tasks).values
    answers = (values.to(curves) == high).double()
    chances = chances_from_other_tasks(fit_item_response(right, tasks), answers, chosen, tasks)
    return low.double() + (high - low).double() * chances


def related(estimates: Sequence[Estimate], selection: Selection, curves: Tensor, tasks: Tensor) -> list[Estimate]:
    """Shrink the estimates of :func:`predict_tasks` towards those of the other tasks (:func:`.related_tasks`).

    Args:
        estimates: of the tasks.
        selection: of :func:`choose_points`.
        curves: ``(T, n)`` complete evaluations.
        tasks: ``(n,)`` task of each item.

    Example:
        >>> generator, tasks = torch.Generator().manual_seed(0), torch.arange(40) // 20
        >>> curves = -torch.rand(5, 40, generator=generator)
        >>> selection = choose_points(curves, tasks, budget=10)
        >>> estimates = predict_tasks(-torch.rand(10, generator=generator), selection, curves, tasks)
        >>> drawn = related(estimates, selection, curves, tasks)
        >>> all(one.standard_error < other.standard_error for one, other in zip(drawn, estimates))
        True
    """
    complete = torch.bincount(tasks[selection.indices], minlength=len(estimates)) == torch.bincount(tasks)
    return related_tasks(estimates, task_curves(curves, tasks), complete)


def change_of_benchmark(changes: Tensor, selection: Selection, tasks: Tensor) -> Estimate:
    """Estimate the change of the mean over the tasks from the paired differences of the selected items.

    Paired differences are much less noisy than the difference between two separate estimates.

    Args:
        changes: ``(..., B)`` differences of the selected items.
        selection: of :func:`choose_points`.
        tasks: ``(n,)`` task of each item.

    Example:
        >>> tasks = torch.arange(40) // 20
        >>> selection = choose_points(-torch.rand(3, 40), tasks, budget=10, method="clusters")
        >>> round(change_of_benchmark(torch.full((10,), 0.5), selection, tasks).value.item(), 6)
        0.5
    """
    check_tasks(tasks)
    check_selection(selection, len(tasks))
    changes = check_floats("changes", changes, "(..., selected points)", (..., len(selection.indices)))
    return mean_of_tasks(_changes_of_tasks(changes, selection, tasks))


def decisions(curves: Tensor, selection: Selection, tasks: Tensor) -> tuple[Tensor, Tensor]:
    """Compute how often the selected items rank two complete evaluations as all items do (decision accuracy).

    Args:
        curves: ``(T, n)`` complete evaluations.
        selection: of :func:`choose_points`.
        tasks: ``(n,)`` task of each item.

    Returns:
        The :func:`.decision_accuracy` of the benchmark, and that of its tasks ``(K,)``.

    Example:
        >>> curves = torch.arange(4.0)[:, None] * torch.rand(40) - 5  # each point rises
        >>> tasks = torch.arange(40) // 20
        >>> decisions(curves, choose_points(curves, tasks, budget=10, method="random"), tasks)
        (tensor(1., dtype=torch.float64), tensor([1., 1.], dtype=torch.float64))
    """
    truth = task_curves(curves, tasks)
    estimates = _changes_of_tasks(curves[:, selection.indices].double(), selection, tasks)
    found = torch.stack([estimate.value for estimate in estimates], 1)
    return decision_accuracy(found.mean(1), truth.mean(1)), decision_accuracy(found, truth)


def _changes_of_tasks(changes: Tensor, selection: Selection, tasks: Tensor) -> list[Estimate]:
    """Estimate the change of each task from differences ``(..., B)`` of the selected items."""
    found = []
    for own, inside in _by_task(selection, tasks):
        if selection.proposal is None:
            found.append(weighted_mean(changes[..., inside], selection.weights[inside], len(own)))
        else:
            found.append(lure(changes[..., inside], selection.proposal[inside], len(own)))
    return found


def _by_task(selection: Selection, tasks: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield, for each task, the indices of all its items, and the positions of its items in the selection."""
    for task in range(int(tasks.max()) + 1):
        inside = (tasks[selection.indices] == task).nonzero()[:, 0]
        yield (tasks == task).nonzero()[:, 0], inside
