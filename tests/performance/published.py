"""Published ways to use item response models, as far as their papers tell, on the items and abilities of this package.

Not their code: each is the idea in its simplest form, with the same item parameters for all, so that what differs is
which points are evaluated and how a value is made of them. Each takes known models ``(T, n)`` and new ones ``(M, n)``,
answers in {0, 1}, and returns the values of the tasks ``(M, K)`` from a budget of points for each new model.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from synbench_lightning.functional.benchmark.item_response import ItemResponse, abilities, chances, fit_item_response
from synbench_lightning.functional.benchmark.selection import allotment, stratified


def task_means(values: Tensor, tasks: Tensor) -> Tensor:
    return torch.stack([values[..., tasks == task].mean(-1) for task in range(int(tasks.max()) + 1)], -1)


def items_alone(known: Tensor, new: Tensor, tasks: Tensor, budget: int, seed: int) -> Tensor:
    """Random points; their answers, and for the others what the ability lets expect (p-IRT of tinyBenchmarks)."""
    return _completed(fit_item_response(known, tasks), new, stratified(tasks, budget, seed).indices, tasks)


def anchors(known: Tensor, new: Tensor, tasks: Tensor, budget: int, seed: int) -> Tensor:
    """tinyBenchmarks (Maia Polo et al., 2024): anchors of clusters of item parameters, and a mixture of two estimates.

    The weighted mean of the anchors and p-IRT are mixed (gp-IRT) by their errors for the second half of known models.
    """
    chosen, weights = [], []
    model = fit_item_response(known, tasks)
    for task, count in enumerate(allotment(torch.bincount(tasks), budget).tolist()):
        own = (tasks == task).nonzero()[:, 0]
        at = torch.stack([model.slope[own], model.easiness[own]], 1).numpy()
        with np.errstate(invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # alike items may leave a cluster empty; its anchor then weighs nothing
            centres = kmeans2(at, min(count, len(own)), minit="++", seed=np.random.default_rng([seed, task]))[0]
        nearest, sizes = vq(centres, at)[0], np.bincount(vq(at, centres)[0], minlength=len(centres))
        chosen.append(own[torch.from_numpy(nearest).long()])
        weights.append(torch.from_numpy(sizes / len(own)))
    indices, weight = torch.cat(chosen), torch.cat(weights)

    def weighted(answers: Tensor) -> Tensor:
        sums = torch.zeros(len(answers), int(tasks.max()) + 1, dtype=torch.float64)
        return sums.index_add(1, tasks[indices], weight * answers[:, indices])

    half = len(known) // 2
    earlier, later = known[:half], known[half:]
    truth = task_means(later, tasks)
    of_items = (_completed(fit_item_response(earlier, tasks), later, indices, tasks) - truth).square().mean()
    of_anchors = (weighted(later) - truth).square().mean()
    share = of_items / (of_items + of_anchors)
    return share * weighted(new) + (1 - share) * _completed(model, new, indices, tasks)


def informative(known: Tensor, new: Tensor, tasks: Tensor, budget: int, seed: int) -> Tensor:
    """metabench (Kipnis et al., 2024): the items with most information, and scores regressed on abilities."""
    model = fit_item_response(known, tasks)
    everything = abilities(model, known, torch.arange(len(tasks)), tasks)
    chance = chances(model, everything, tasks)
    information = (model.slope.square() * chance * (1 - chance)).mean(0)
    counts = allotment(torch.bincount(tasks), budget).tolist()
    own = [(tasks == task).nonzero()[:, 0] for task in range(len(counts))]
    indices = torch.cat([mine[information[mine].topk(count).indices] for mine, count in zip(own, counts, strict=True)])
    seen, unseen = (abilities(model, answers[:, indices], indices, tasks) for answers in (known, new))
    scores, found = task_means(known, tasks), []
    for task in range(len(counts)):
        curve = np.polynomial.Polynomial.fit(seen[:, task].numpy(), scores[:, task].numpy(), 2)
        found.append(torch.from_numpy(curve(unseen[:, task].numpy())).clamp(0, 1))
    return torch.stack(found, 1)


def adaptive(known: Tensor, new: Tensor, tasks: Tensor, budget: int, seed: int) -> Tensor:
    """Fluid Benchmarking (Hofmann et al., 2025): for each model the items that tell most at its ability so far."""
    model = fit_item_response(known, tasks)
    everything, counts = torch.arange(len(tasks)), allotment(torch.bincount(tasks), budget)
    used, ability = torch.zeros_like(new), torch.zeros(len(new), len(counts), dtype=torch.float64)
    for turn in range(int(counts.max())):
        chance = chances(model, ability, tasks)
        information = (model.slope.square() * chance * (1 - chance)).masked_fill(used > 0, -1)
        for task in (counts > turn).nonzero()[:, 0].tolist():
            own = (tasks == task).nonzero()[:, 0]
            used[torch.arange(len(new)), own[information[:, own].argmax(1)]] = 1
        ability = abilities(model, new, everything, tasks, used)
    return task_means(torch.where(used > 0, new, chances(model, ability, tasks)), tasks)


def _completed(model: ItemResponse, answers: Tensor, indices: Tensor, tasks: Tensor) -> Tensor:
    expected = chances(model, abilities(model, answers[:, indices], indices, tasks), tasks)
    expected[:, indices] = answers[:, indices]
    return task_means(expected, tasks)


PUBLISHED = {
    "items alone": items_alone,
    "anchors, items": anchors,
    "informative": informative,
    "adaptive, items": adaptive,
}
