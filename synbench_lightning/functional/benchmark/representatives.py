"""Representative items of a benchmark, selected from training dynamics: medoids, cluster centers, coverage."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import check_integer
from synbench_lightning.functional.benchmark.clustering import BLOCK, k_means, k_medoids, nearest_medoid
from synbench_lightning.functional.benchmark.curve_correlation import check_tasks, standardised
from synbench_lightning.functional.benchmark.polynomials import polynomial_coefficients
from synbench_lightning.functional.benchmark.selection import Selection, allotment, check_budget, task_sizes

MAX_CANDIDATES = 1024  # mutants: memory and time alone
"""Number of random candidates from which :func:`coverage` selects (twice the budget, if that is more). Set to limit
time, not searched for quality: each candidate costs one pass over all items, timed by
`python -m tests.performance.dynamics`."""


def anchor_points(curves: Tensor, tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Select anchor points: the medoids of each task under the distance 1 - r of training curves.

    The weight of an anchor is the fraction of the items that are nearest to it. Source: Vivek et al., Anchor Points
    (2024).

    Args:
        curves: ``(T, n)`` curves of the items over earlier checkpoints; missing values (NaN) count as the mean.
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items over all tasks, the same number for each as far as it has them, at least one.
        seed: of the initial medoids.

    Raises:
        ValueError: for curves, tasks or a budget outside their range.

    Example:
        >>> rise, fall = torch.arange(4.0), -torch.arange(4.0)
        >>> curves = torch.stack([rise, rise, rise, fall], 1)
        >>> selection = anchor_points(curves, torch.zeros(4, dtype=torch.long), budget=2)
        >>> sorted(selection.weights.tolist())
        [0.25, 0.75]
    """
    vectors, seed = _vectors(curves, tasks), check_integer("seed", seed, 0)
    found = []
    for task, count in enumerate(allotment(task_sizes(tasks), budget).tolist()):
        own = (tasks == task).nonzero()[:, 0]
        medoids, cluster = k_medoids(vectors[own], count, seed + task)  # mutants: any seeds that differ
        found.append((own[medoids], torch.bincount(cluster, minlength=count) / len(own)))
    return _deterministic(found, len(tasks))


def coefficient_clusters(curves: Tensor, tasks: Tensor, budget: int, degree: int, seed: int = 0) -> Selection:
    """Select the items of each task nearest to the k-means centers of polynomial coefficients.

    The weight of an item is the fraction of the items in its cluster. Source: Vivek et al., Benchmark Hill Climbing,
    section 3.4.

    Args:
        curves: ``(T, n)`` curves of the items over earlier checkpoints.
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items over all tasks, the same number for each as far as it has them, at least one.
        degree: of the polynomials, at most T - 1; they are fitted to the curves without standardization, so level,
            trend and shape count.
        seed: of the initial centers.

    Raises:
        ValueError: for curves, tasks, a degree or a budget outside their range.

    Example:
        >>> level = torch.tensor([1.0, 1.1, 1.2, 5.0]).repeat(4, 1)
        >>> selection = coefficient_clusters(level, torch.zeros(4, dtype=torch.long), budget=2, degree=2)
        >>> selection.indices.sort().values, selection.weights.sort().values
        (tensor([1, 3]), tensor([0.2500, 0.7500], dtype=torch.float64))
    """
    _vectors(curves, tasks)
    seed = check_integer("seed", seed, 0)
    coefficients = polynomial_coefficients(curves, degree)
    found = []
    for task, count in enumerate(allotment(task_sizes(tasks), budget).tolist()):
        own = (tasks == task).nonzero()[:, 0]
        nearest, cluster = k_means(coefficients[own], count, seed + task)  # mutants: any seeds that differ
        found.append((own[nearest], torch.bincount(cluster, minlength=count) / len(own)))
    return _deterministic(found, len(tasks))


def coverage(curves: Tensor, tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Select items that cover the whole benchmark (greedy facility location), so that related tasks share the budget.

    Each step adds the item that most increases the correlation with the most similar selected item, averaged over
    tasks and items (at least 63 percent of the optimum among the candidates). A task whose items are correlated with
    those of another needs few of its own; one that is unlike all others gets more. Each task gets at least one.

    Args:
        curves: ``(T, n)`` curves of the items over earlier checkpoints; missing values (NaN) count as the mean.
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items, over all tasks; at least one for each.
        seed: of the candidates, where there are more items than ``MAX_CANDIDATES``.

    Raises:
        ValueError: for curves, tasks or a budget outside their range.

    Example:
        >>> rise, wave = torch.arange(6.0), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
        >>> curves = torch.stack([rise, rise, rise, rise, wave, -wave], 1)
        >>> tasks = torch.tensor([0, 0, 1, 1, 2, 2])  # the first two are alike
        >>> torch.bincount(tasks[coverage(curves, tasks, budget=4).indices])
        tensor([1, 1, 2])
    """
    vectors, sizes = _vectors(curves, tasks), task_sizes(tasks)
    budget, seed = check_budget(budget, len(sizes), len(tasks)), check_integer("seed", seed, 0)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(tasks)))
    firsts = torch.stack([order[(tasks[order] == task).nonzero()[0, 0]] for task in range(len(sizes))])
    candidates = torch.cat([firsts, order[: max(MAX_CANDIDATES, 2 * budget)]]).unique()
    importance = (1 / (len(sizes) * sizes.double()))[tasks]
    covered = vectors.new_zeros(len(tasks))
    # Gains only shrink as items are added (submodularity), so an earlier gain is an upper bound.
    gains = torch.cat([
        importance @ (vectors @ vectors[part].T).clamp_min(0)
        for part in candidates.split(max(1, BLOCK // len(tasks)))
    ])  # fmt: skip
    without = set(range(len(sizes)))
    taken = torch.zeros(len(candidates), dtype=torch.bool)
    for left in range(budget, 0, -1):
        allowed = ~taken
        if left == len(without):  # the rest of the budget is for the tasks that have no item yet
            allowed &= torch.isin(tasks[candidates], torch.tensor(sorted(without)))
        known = torch.zeros_like(taken)
        while not known[best := int(torch.where(allowed, gains, -1.0).argmax())]:
            similarity = vectors @ vectors[candidates[best]]
            gains[best], known[best] = importance @ (similarity - covered).clamp_min(0), True
        covered = torch.maximum(covered, vectors @ vectors[candidates[best]])
        taken[best] = True
        without.discard(int(tasks[candidates[best]]))
    found = []
    for task in range(len(sizes)):
        own, chosen = (tasks == task).nonzero()[:, 0], candidates[taken & (tasks[candidates] == task)]
        shares = torch.bincount(nearest_medoid(vectors[own], vectors[chosen]), minlength=len(chosen)) / len(own)
        found.append((chosen, shares))
    return _deterministic(found, len(tasks))


def _deterministic(found: list[tuple[Tensor, Tensor]], points: int) -> Selection:
    """Join the indices and weights of the tasks; no item is selected by chance."""
    indices = torch.cat([chosen for chosen, _ in found])
    inclusion = torch.zeros(points, dtype=torch.float64)
    inclusion[indices] = 1.0
    return Selection(indices, torch.cat([shares.double() for _, shares in found]), inclusion, None)


def _vectors(curves: Tensor, tasks: Tensor) -> Tensor:
    """Standardize curves ``(T, n)`` to ``(n, T)``; a missing value counts as the mean of its curve."""
    vectors = standardised(curves).nan_to_num(0.0).T.contiguous()
    check_tasks(tasks, len(vectors))
    return vectors
