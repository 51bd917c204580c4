"""k-medoids and k-means of items, each cluster with a representative item."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

BLOCK = 2**24  # mutants: memory and time alone
"""Entries in a block of similarities: 128 MiB in float64, for any number of items. Not searched."""


def k_medoids(vectors: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster by k-medoids under the distance 1 - r, alternating between assignment and update.

    Because r is an inner product, the item with the smallest sum of distances is the one with the largest inner product
    with the sum of its cluster. An iteration therefore costs O(n count T), without a matrix of all pairs.

    Args:
        vectors: ``(n, T)`` standardized curves, rows of length 1 or 0.
        count: number of medoids, at most n.
        seed: of the initial ones, which are chosen as in k-means++.

    Returns:
        ``(count,)`` indices of the medoids and ``(n,)`` the cluster of each item.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [-1.0, 0.0]])
        >>> medoids, cluster = k_medoids(vectors, 2, seed=0)
        >>> medoids.sort().values
        tensor([1, 3])
    """
    generator = np.random.default_rng(seed)
    medoids = _spread(lambda place: 1 - vectors @ vectors[place], len(vectors), count, generator)
    cluster = nearest_medoid(vectors, vectors[medoids])
    for _ in range(100):  # mutants: far more than it takes
        cluster[medoids] = torch.arange(count)  # a duplicate must not take a medoid's place
        totals = vectors.new_zeros(count, vectors.shape[1]).index_add_(0, cluster, vectors)
        closeness = (vectors * totals[cluster]).sum(1)
        order = torch.argsort(closeness, descending=True, stable=True)
        order = order[torch.argsort(cluster[order], stable=True)]  # by cluster, the most central first
        starts = torch.cat([order.new_zeros(1), torch.bincount(cluster, minlength=count).cumsum(0)[:-1]])
        moved = order[starts]
        better = closeness[moved] > closeness[medoids] + 1e-9  # mutants: any tiny number
        if not bool(better.any()):
            break
        medoids = torch.where(better, moved, medoids)
        cluster = nearest_medoid(vectors, vectors[medoids])
    cluster[medoids] = torch.arange(count)
    return medoids, cluster


def k_means(features: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster by k-means (scipy), and find the item nearest to each mean; no cluster is empty.

    Args:
        features: ``(n, D)`` float64.
        count: number of clusters, at most n. Where some become empty, the items farthest from their mean become
            clusters of one.
        seed: of the initial means, which are chosen as in k-means++.

    Returns:
        ``(count,)`` different indices of the items nearest to the means and ``(n,)`` the cluster of each item.

    Example:
        >>> nearest, cluster = k_means(torch.tensor([[0.0], [0.2], [0.4], [9.0]]).double(), 2, seed=0)
        >>> nearest.sort().values
        tensor([1, 3])
    """
    first = _spread(
        lambda place: (features - features[place]).square().sum(1), len(features), count, np.random.default_rng(seed)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        turns = 20  # mutants: more turns change little
        means, labels = kmeans2(features.numpy(), features[first].numpy(), iter=turns, minit="matrix", missing="warn")
    used, cluster = torch.from_numpy(labels).long().unique(return_inverse=True)
    distance = (features - torch.from_numpy(means)[used][cluster]).norm(dim=1)
    nearest = torch.stack([torch.where(cluster == c, distance, torch.inf).argmin() for c in range(len(used))])
    alone = distance.index_fill(0, nearest, -1.0).topk(count - len(used)).indices
    cluster[alone] = torch.arange(len(used), count)
    return torch.cat([nearest, alone]), cluster


def nearest_medoid(vectors: Tensor, medoids: Tensor) -> Tensor:
    """Find, for each row of ``vectors`` ``(n, T)``, the most correlated row of ``medoids`` ``(k, T)``: ``(n,)``.

    Example:
        >>> nearest_medoid(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.0]]))
        tensor([1, 0])
    """
    parts = vectors.split(BLOCK // len(medoids))  # mutants: memory and time alone
    return torch.cat([(part @ medoids.T).argmax(1) for part in parts])


def _spread(distance_to: Callable[[int], Tensor], points: int, count: int, generator: np.random.Generator) -> Tensor:
    """Choose ``(count,)`` different initial items, with probability proportional to the distance from those before."""
    chosen = [int(generator.integers(points))]
    distance = distance_to(chosen[0])
    for _ in range(count - 1):
        weights = distance.double().clamp_min(0) + 1e-12  # mutants: any tiny number
        weights[chosen] = 0
        chosen.append(int(generator.choice(points, p=(weights / weights.sum()).numpy())))
        distance = torch.minimum(distance, distance_to(chosen[-1]))
    return torch.tensor(chosen)
