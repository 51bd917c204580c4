"""Which points of a benchmark to evaluate when the budget does not suffice for all of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from synbench_lightning.checks import check_integer, check_number
from synbench_lightning.functional.benchmark.clustering import BLOCK, k_means, k_medoids, nearest_medoid
from synbench_lightning.functional.benchmark.dynamics import polynomial_coefficients, standardised
from synbench_lightning.functional.benchmark.estimation import lure_weights

MAX_CANDIDATES = 1024
"""Points among which :func:`coverage` looks for the best next one (or twice the budget, if that is more)."""


class Selection(NamedTuple):
    """Points to evaluate, grouped by task; within a task in the order in which they were drawn.

    ``indices`` ``(B,)``: places of the points. ``weights`` ``(B,)``: the estimate of a task is the sum of weight times
    value over its points. ``inclusion`` ``(n,)``: probability of each point of the benchmark to be selected; 0 or 1
    where nothing was left to chance, and then no estimate is free of bias. ``proposal`` ``(B,)``: probability of each
    draw among the points of its task that were left, for :func:`.lure`;
    ``None`` where nothing was left to chance.
    """

    indices: Tensor
    weights: Tensor
    inclusion: Tensor
    proposal: Tensor | None


def uniform(tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Points at random from the whole benchmark, each with the same probability.

    A small task may be left without a point; :func:`stratified` gives each its share.

    Args:
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks.
        seed: the same seed gives the same points.

    Raises:
        ValueError: for tasks that are not such integers, or a budget outside [1, n].

    Example:
        >>> selection = uniform(torch.tensor([0] * 60 + [1] * 40), budget=10)
        >>> len(selection.indices), selection.inclusion[0].item()
        (10, 0.1)
    """
    sizes = _sizes(tasks)
    budget = _budget(budget, 1, len(tasks))
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(tasks))[:budget])
    of_tasks = [drawn[tasks[drawn] == task] for task in range(len(sizes))]
    proposals = [1 / (size - torch.arange(len(own)).double()) for own, size in zip(of_tasks, sizes, strict=True)]
    inclusion = torch.full((len(tasks),), budget / len(tasks), dtype=torch.float64)
    return _random(tasks, of_tasks, proposals, inclusion)


def stratified(tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Points at random from each task, the same number from each as far as it has them.

    Args:
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks; at least one for each.
        seed: the same seed gives the same points.

    Raises:
        ValueError: for tasks that are not such integers, or a budget outside [tasks, n].

    Example:
        >>> selection = stratified(torch.tensor([0] * 60 + [1] * 40), budget=10)
        >>> [round(selection.inclusion[point].item(), 4) for point in (0, 99)]
        [0.0833, 0.125]
    """
    return proportional(torch.ones(len(tasks)), tasks, budget, seed)


def proportional(sizes: Tensor, tasks: Tensor, budget: int, seed: int = 0, floor: float = 0.1) -> Selection:
    """Points at random from each task, likelier the larger they are, with known probabilities.

    With the expected loss of each point as size this is the proposal of active testing; the standard deviation of its
    curve (the variability of dataset cartography) serves as well. What is likely to be large, or to change, is looked
    at; what is small is seldom looked at and then counts for many. Drawn one after the other without replacement.

    Source: Kossen et al., Active Testing (2021).

    Args:
        sizes: ``(n,)`` size of each point, not negative; where a task has only zeros, its points are equally likely.
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks, in equal shares as far as the tasks have them; at least one for each.
        seed: the same seed gives the same points.
        floor: share of the probability that is the same for all points, in (0, 1]: a point whose size was
            underestimated must not be out of reach.

    Returns:
        The points; the weights are those of :func:`.lure`, the probabilities
        of inclusion those of successive sampling to first order (Rosén, 1997).

    Raises:
        ValueError: for sizes, tasks, a budget or a floor outside their range.

    Example:
        >>> sizes = torch.tensor([1.0] * 50 + [9.0] * 50)
        >>> selection = proportional(sizes, torch.zeros(100, dtype=torch.long), budget=20)
        >>> [round(selection.inclusion[point].item(), 2) for point in (0, 99)]
        [0.06, 0.34]
    """
    if sizes.shape != tasks.shape or not bool(torch.isfinite(sizes).all()) or bool((sizes < 0).any()):
        raise ValueError(
            f"`sizes` must be finite numbers of at least 0, one for each of the {len(tasks)} points, got shape "
            f"{tuple(sizes.shape)}, lowest {sizes.min() if sizes.numel() else None}."
        )
    floor = check_number("floor", floor, "a share in (0, 1]", 0, 1, low_in=False)
    counts = allotment(_sizes(tasks), budget)
    generator = np.random.default_rng(seed)
    drawn, proposals, inclusion = [], [], torch.zeros(len(tasks), dtype=torch.float64)
    for task, count in enumerate(counts.tolist()):
        own = (tasks == task).nonzero()[:, 0]
        size = sizes[own].double()
        even = torch.full_like(size, 1 / len(own))
        share = (1 - floor) * size / size.sum() + floor * even if bool(size.sum() > 0) else even
        # The order of exponential waiting times is that of draws without replacement.
        order = (torch.from_numpy(generator.exponential(size=len(own))) / share).argsort()[:count]
        left = 1 - torch.cat([share.new_zeros(1), share[order].cumsum(0)[:-1]])
        drawn.append(own[order])
        proposals.append((share[order] / left).clamp_max(1.0))
        inclusion[own] = _successive_inclusion(share, count)
    return _random(tasks, drawn, proposals, inclusion)


def anchor_points(curves: Tensor, tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """The points of each task that stand for the others best: medoids under 1 - r of their training dynamics.

    Source: Vivek et al., Anchor Points (2024). Each anchor weighs as much as the share of the points nearest to it.

    Args:
        curves: ``(T, n)`` curves of the points over earlier checkpoints; missing values (NaN) count as the mean.
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks, in equal shares as far as the tasks have them; at least one for each.
        seed: of the first choice of medoids.

    Raises:
        ValueError: for curves, tasks or a budget outside their range.

    Example:
        >>> rise, fall = torch.arange(4.0), -torch.arange(4.0)
        >>> curves = torch.stack([rise, rise, rise, fall], 1)
        >>> selection = anchor_points(curves, torch.zeros(4, dtype=torch.long), budget=2)
        >>> sorted(selection.weights.tolist())
        [0.25, 0.75]
    """
    vectors = _vectors(curves, tasks)
    found = []
    for task, count in enumerate(allotment(_sizes(tasks), budget).tolist()):
        own = (tasks == task).nonzero()[:, 0]
        medoids, cluster = k_medoids(vectors[own], count, seed + task)
        found.append((own[medoids], torch.bincount(cluster, minlength=count) / len(own)))
    return _deterministic(found, len(tasks))


def coefficient_clusters(curves: Tensor, tasks: Tensor, budget: int, degree: int, seed: int = 0) -> Selection:
    """The points of each task nearest to the centres of clusters of polynomial coefficients (k-means).

    Source: Vivek et al., Benchmark Hill Climbing, section 3.4. Each point weighs as much as the share of its cluster.

    Args:
        curves: ``(T, n)`` curves of the points over earlier checkpoints.
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks, in equal shares as far as the tasks have them; at least one for each.
        degree: of the polynomials, at most T - 1; they are fitted to the curves as they are, so level, trend and shape
            count.
        seed: of the first choice of centres.

    Raises:
        ValueError: for curves, tasks, a degree or a budget outside their range.

    Example:
        >>> level = torch.tensor([1.0, 1.1, 1.2, 5.0]).repeat(4, 1)
        >>> selection = coefficient_clusters(level, torch.zeros(4, dtype=torch.long), budget=2, degree=2)
        >>> selection.indices.sort().values, selection.weights.sort().values
        (tensor([1, 3]), tensor([0.2500, 0.7500], dtype=torch.float64))
    """
    _vectors(curves, tasks)
    coefficients = polynomial_coefficients(curves, degree)
    found = []
    for task, count in enumerate(allotment(_sizes(tasks), budget).tolist()):
        own = (tasks == task).nonzero()[:, 0]
        nearest, cluster = k_means(coefficients[own], count, seed + task)
        found.append((own[nearest], torch.bincount(cluster, minlength=count) / len(own)))
    return _deterministic(found, len(tasks))


def coverage(curves: Tensor, tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Points that cover the whole benchmark, so that related tasks share the budget between them.

    One after the other the point is taken that raises the mean over tasks and points of the correlation with the most
    similar selected point the most (greedy facility location, at least 63 percent of the optimum). A task whose points
    move like those of another needs few points of its own; one that is unlike all others gets more. Each task has at
    least one.

    Args:
        curves: ``(T, n)`` curves of the points over earlier checkpoints; missing values (NaN) count as the mean.
        tasks: ``(n,)`` task of each point, integers from 0 on.
        budget: number of points, over all tasks; at least one for each.
        seed: of the candidates, where there are more points than are looked through.

    Raises:
        ValueError: for curves, tasks or a budget outside their range.

    Example:
        >>> rise, wave = torch.arange(6.0), torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 1.0])
        >>> curves = torch.stack([rise, rise, rise, rise, wave, -wave], 1)
        >>> tasks = torch.tensor([0, 0, 1, 1, 2, 2])  # the first two are alike
        >>> torch.bincount(tasks[coverage(curves, tasks, budget=4).indices])
        tensor([1, 1, 2])
    """
    vectors, sizes = _vectors(curves, tasks), _sizes(tasks)
    budget = _budget(budget, len(sizes), len(tasks))
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(tasks)))
    firsts = torch.stack([order[(tasks[order] == task).nonzero()[0, 0]] for task in range(len(sizes))])
    candidates = torch.cat([firsts, order[: max(MAX_CANDIDATES, 2 * budget)]]).unique()
    importance = (1 / (len(sizes) * sizes.double()))[tasks]
    covered = vectors.new_zeros(len(tasks))
    # What a point adds only falls while others are taken: a gain that was known earlier is an upper limit.
    gains = torch.cat([
        importance @ (vectors @ vectors[part].T).clamp_min(0)
        for part in candidates.split(max(1, BLOCK // len(tasks)))
    ])  # fmt: skip
    without = set(range(len(sizes)))
    taken = torch.zeros(len(candidates), dtype=torch.bool)
    for left in range(budget, 0, -1):
        allowed = ~taken
        if left == len(without):  # the rest of the budget is for the tasks that have no point yet
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


def allotment(sizes: Tensor, budget: int) -> Tensor:
    """Points for each task ``(K,)``: equal shares of the budget as far as the tasks have them.

    Example:
        >>> allotment(torch.tensor([3, 50, 50]), budget=23)
        tensor([ 3, 10, 10])
    """
    budget = _budget(budget, len(sizes), int(sizes.sum()))
    counts = torch.zeros_like(sizes)
    while int(counts.sum()) < budget:
        hungry = (counts < sizes).nonzero()[:, 0]
        left = budget - int(counts.sum())
        if left < len(hungry):
            counts[hungry[:left]] += 1
        else:
            counts[hungry] = torch.minimum(counts[hungry] + left // len(hungry), sizes[hungry])
    return counts


def _successive_inclusion(share: Tensor, count: int) -> Tensor:
    """Probabilities of inclusion for ``count`` draws without replacement with probability proportional to ``share``."""
    if count == len(share):
        return torch.ones_like(share)
    if count == 1:
        return share

    def excess(log_time: float) -> float:
        return float((1 - torch.exp(-share * np.exp(log_time))).sum()) - count

    highest = np.log(50 / float(share.min()))
    return 1 - torch.exp(-share * np.exp(brentq(excess, -50.0, highest)))


def _random(tasks: Tensor, drawn: list[Tensor], proposals: list[Tensor], inclusion: Tensor) -> Selection:
    sizes = _sizes(tasks).tolist()
    drew = [(q, size) for q, size in zip(proposals, sizes, strict=True) if len(q)]
    weights = torch.cat([lure_weights(q, size) for q, size in drew])
    return Selection(torch.cat(drawn), weights, inclusion, torch.cat(proposals))


def _deterministic(found: list[tuple[Tensor, Tensor]], points: int) -> Selection:
    indices = torch.cat([chosen for chosen, _ in found])
    inclusion = torch.zeros(points, dtype=torch.float64)
    inclusion[indices] = 1.0
    return Selection(indices, torch.cat([shares.double() for _, shares in found]), inclusion, None)


def _vectors(curves: Tensor, tasks: Tensor) -> Tensor:
    """Standardised curves ``(n, T)``; a missing value counts as the mean of its curve."""
    vectors = standardised(curves).nan_to_num(0.0).T.contiguous()
    if tasks.shape != vectors.shape[:1]:
        raise ValueError(
            f"`tasks` must have shape {(len(vectors),)}, one for each column of `curves`, got {tuple(tasks.shape)}."
        )
    return vectors


def _sizes(tasks: Tensor) -> Tensor:
    """Points of each task ``(K,)``."""
    if tasks.ndim != 1 or tasks.is_floating_point() or len(tasks) == 0 or int(tasks.min()) < 0:
        raise ValueError(
            f"`tasks` must be integers from 0 on, one for each point, got {tasks.dtype} of shape {tuple(tasks.shape)}."
        )
    sizes = torch.bincount(tasks)
    if bool((sizes == 0).any()):
        raise ValueError(
            f"`tasks` must be integers from 0 on without gaps; no point is of task {int((sizes == 0).nonzero()[0])}."
        )
    return sizes


def _budget(budget: int, lowest: int, points: int) -> int:
    budget = check_integer("budget", budget, 1)
    if not lowest <= budget <= points:
        raise ValueError(
            f"`budget` must be a number of points from {lowest} (one for each task) to {points} (all), got {budget}."
        )
    return budget
