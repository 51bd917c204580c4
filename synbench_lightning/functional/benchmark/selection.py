"""Random selection of the items to evaluate: uniform, stratified or proportional to a size, within a budget."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integer, check_number
from synbench_lightning.functional.benchmark.curve_correlation import check_tasks
from synbench_lightning.functional.benchmark.lure import lure_weights


class Selection(NamedTuple):
    """Items to evaluate, grouped by task; within a task in the order in which they were sampled.

    ``indices`` ``(B,)`` of the items. ``weights`` ``(B,)``: the estimate of a task is the sum of weight times value
    over its items. ``inclusion`` ``(n,)``: inclusion probability of each item of the benchmark; 0 or 1 where the
    selection is deterministic, and no estimate is then unbiased. ``proposal`` ``(B,)``: probability of each item among
    those of its task not yet sampled, for :func:`.lure`; ``None`` where the selection is deterministic.
    """

    indices: Tensor
    weights: Tensor
    inclusion: Tensor
    proposal: Tensor | None


def uniform(tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Sample items uniformly from the whole benchmark.

    A small task may get no item; :func:`stratified` gives each task the same number.

    Args:
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items, over all tasks.
        seed: the same seed gives the same items.

    Raises:
        ValueError: for tasks that are not such integers, or a budget outside [1, n].

    Example:
        >>> selection = uniform(torch.tensor([0] * 60 + [1] * 40), budget=10)
        >>> len(selection.indices), selection.inclusion[0].item()
        (10, 0.1)
    """
    sizes = task_sizes(tasks)
    budget, seed = check_budget(budget, 1, len(tasks)), check_integer("seed", seed, 0)
    drawn = torch.from_numpy(np.random.default_rng(seed).permutation(len(tasks))[:budget])
    of_tasks = [drawn[tasks[drawn] == task] for task in range(len(sizes))]
    proposals = [1 / (size - torch.arange(len(own)).double()) for own, size in zip(of_tasks, sizes, strict=True)]
    inclusion = torch.full((len(tasks),), budget / len(tasks), dtype=torch.float64)
    return _random(tasks, of_tasks, proposals, inclusion)


def stratified(tasks: Tensor, budget: int, seed: int = 0) -> Selection:
    """Sample items uniformly within each task, the same number from each as far as it has them.

    Args:
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items, over all tasks; at least one for each.
        seed: the same seed gives the same items.

    Raises:
        ValueError: for tasks that are not such integers, or a budget outside [tasks, n].

    Example:
        >>> selection = stratified(torch.tensor([0] * 60 + [1] * 40), budget=10)
        >>> [round(selection.inclusion[point].item(), 4) for point in (0, 99)]
        [0.0833, 0.125]
    """
    return proportional(torch.ones(int(task_sizes(tasks).sum())), tasks, budget, seed)


def proportional(sizes: Tensor, tasks: Tensor, budget: int, seed: int = 0, floor: float = 0.1) -> Selection:
    """Sample items within each task with probability proportional to a size, sequentially without replacement.

    With the expected loss of each item as its size this is the proposal of active testing; the standard deviation of
    its curve (the variability of dataset cartography) is another choice. Items with a large size are sampled often,
    with a small weight; those with a small size rarely, with a large one.

    Source: Kossen et al., Active Testing (2021).

    Args:
        sizes: ``(n,)`` size of each item, not negative; where a task has only zeros, its items are equally likely.
        tasks: ``(n,)`` task of each item, integers from 0 on.
        budget: number of items over all tasks, the same number for each as far as it has them, at least one.
        seed: the same seed gives the same items.
        floor: fraction of the probability that is the same for all items, in (0, 1] (a defensive mixture): an item
            whose size was underestimated can still be sampled. The default is a convention, not searched.

    Returns:
        The items; the weights are those of :func:`.lure`, the inclusion probabilities those of successive sampling to
        first order (Rosén, 1997).

    Raises:
        ValueError: for sizes, tasks, a budget or a floor outside their range.

    Example:
        >>> sizes = torch.tensor([1.0] * 50 + [9.0] * 50)
        >>> selection = proportional(sizes, torch.zeros(100, dtype=torch.long), budget=20)
        >>> [round(selection.inclusion[point].item(), 2) for point in (0, 99)]
        [0.06, 0.34]
    """
    counts = allotment(task_sizes(tasks), budget)
    sizes = check_floats("sizes", sizes, f"of shape {(len(tasks),)}, one for each point", (len(tasks),))
    if bool((sizes < 0).any()):
        raise ValueError(f"`sizes` must be numbers of at least 0, got {float(sizes.min())}.")
    floor = check_number("floor", floor, "a number in (0, 1]", 0, 1, low_in=False)
    seed = check_integer("seed", seed, 0)
    generator = np.random.default_rng(seed)
    drawn, proposals, inclusion = [], [], torch.zeros(len(tasks), dtype=torch.float64)
    for task, count in enumerate(counts.tolist()):
        own = (tasks == task).nonzero()[:, 0]
        size = sizes[own]
        even = torch.full_like(size, 1 / len(own))
        share = (1 - floor) * size / size.sum() + floor * even if bool(size.sum() > 0) else even
        # Sorting exponential waiting times with these rates is sampling without replacement in proportion to them.
        order = (torch.from_numpy(generator.exponential(size=len(own))) / share).argsort()[:count]
        left = 1 - torch.cat([share.new_zeros(1), share[order].cumsum(0)[:-1]])
        drawn.append(own[order])
        proposals.append((share[order] / left).clamp_max(1.0))
        inclusion[own] = _successive_inclusion(share, count)
    return _random(tasks, drawn, proposals, inclusion)


def allotment(sizes: Tensor, budget: int) -> Tensor:
    """Allocate a budget to the tasks ``(K,)``: the same number of items for each, as far as it has them.

    Example:
        >>> allotment(torch.tensor([3, 50, 50]), budget=23)
        tensor([ 3, 10, 10])
    """
    budget = check_budget(budget, len(sizes), int(sizes.sum()))
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
    """Compute inclusion probabilities ``(n,)`` of ``count`` items sampled in proportion to ``share`` ``(n,)``.

    An item is included if its exponential waiting time, with the rate ``share``, ends before the time by which
    ``count`` items are expected: ``1 - exp(-share t)`` with the ``t`` at which these sum to ``count``.
    """
    if count == len(share):
        return torch.ones_like(share)
    if count == 1:
        return share

    def excess(log_time: float) -> float:
        return float((1 - torch.exp(-share * np.exp(log_time))).sum()) - count

    highest = np.log(50 / float(share.min()))
    return 1 - torch.exp(-share * np.exp(brentq(excess, -50.0, highest)))


def _random(tasks: Tensor, drawn: list[Tensor], proposals: list[Tensor], inclusion: Tensor) -> Selection:
    """Join the sampled indices and proposals of the tasks, with the weights of LURE."""
    sizes = task_sizes(tasks).tolist()
    drew = [(q, size) for q, size in zip(proposals, sizes, strict=True) if len(q)]
    weights = torch.cat([lure_weights(q, size) for q, size in drew])
    return Selection(torch.cat(drawn), weights, inclusion, torch.cat(proposals))


def task_sizes(tasks: Tensor) -> Tensor:
    """Count the items of each task ``(K,)``, after a check that none is empty."""
    check_tasks(tasks)
    sizes = torch.bincount(tasks)
    if bool((sizes == 0).any()):
        raise ValueError(
            f"`tasks` must be integers from 0 on without gaps; no point is of task {int((sizes == 0).nonzero()[0])}."
        )
    return sizes


def check_budget(budget: int, lowest: int, points: int) -> int:
    """Check that a number of items to evaluate is in [lowest, points], and return it."""
    budget = check_integer("budget", budget, 1)
    if not lowest <= budget <= points:
        raise ValueError(
            f"`budget` must be a number of items from {lowest} (one for each task) to {points} (all), got {budget}."
        )
    return budget
