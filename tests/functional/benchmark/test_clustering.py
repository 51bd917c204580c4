from itertools import combinations

import pytest
import torch
from sklearn.cluster import KMeans

from synbench_lightning.functional.benchmark.clustering import k_means, k_medoids
from synbench_lightning.functional.benchmark.curve_correlation import standardised

CURVES = torch.randn(12, 100, generator=torch.Generator().manual_seed(0)).cumsum(0)


def test_medoids_of_clear_clusters_are_the_best_there_are():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 3, generator=generator)
    curves = centres[:, torch.arange(12) % 3] + 0.2 * torch.randn(10, 12, generator=generator)
    vectors = standardised(curves).T.contiguous()
    distance = 1 - vectors @ vectors.T

    def cost(chosen):
        return distance[:, list(chosen)].amin(1).sum().item()

    best = min(combinations(range(12), 3), key=cost)
    for seed in range(5):
        medoids, cluster = k_medoids(vectors, 3, seed)
        if len({int(m) % 3 for m in medoids}) == 3:
            assert sorted(medoids.tolist()) == sorted(best)
            assert all(len(cluster[torch.arange(12) % 3 == group].unique()) == 1 for group in range(3))


@pytest.mark.parametrize("method", [k_means, k_medoids])
def test_each_of_many_clusters_far_apart_is_found_with_any_seed(method):
    # First points that are drawn alike from all would leave out some: 8 of 8 are hit once in 400 times.
    vectors = torch.eye(8, dtype=torch.float64).repeat_interleave(10, 0)
    vectors += 0.01 * torch.randn(80, 8, generator=torch.Generator().manual_seed(0)).double()
    for seed in range(10):
        found, cluster = method(vectors / vectors.norm(dim=1, keepdim=True), 8, seed)
        assert sorted((found // 10).tolist()) == list(range(8))
        assert torch.equal(cluster[found // 10 * 10], torch.arange(8))


@pytest.mark.parametrize("seed", range(5))
def test_no_medoid_is_improved_by_another_point_of_its_cluster(seed):
    vectors = standardised(CURVES).T.contiguous()
    distance = 1 - vectors @ vectors.T
    medoids, cluster = k_medoids(vectors, 9, seed)
    for index, medoid in enumerate(medoids):
        own = cluster == index
        assert cluster[medoid] == index
        totals = distance[own][:, own].sum(1)
        assert distance[own][:, medoid].sum() <= totals.min() + 1e-6
    nearest = distance[:, medoids].amin(1)
    torch.testing.assert_close(distance[torch.arange(100), medoids[cluster]], nearest)


def test_clusters_are_about_as_tight_as_those_of_scikit_learn():
    features = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).double()
    nearest, cluster = k_means(features, 20, seed=0)
    means = torch.stack([features[cluster == c].mean(0) for c in range(20)])
    found = (features - means[cluster]).square().sum().item()
    assert found < 1.1 * KMeans(20, n_init=5, random_state=0).fit(features.numpy()).inertia_
    assert torch.equal(cluster[nearest], torch.arange(20))


def test_doubles_do_not_leave_clusters_empty():
    features = torch.ones(9, 2).double()
    nearest, cluster = k_means(features, 5, seed=0)
    assert len(nearest.unique()) == 5
    assert torch.equal(cluster[nearest], torch.arange(5))


@pytest.mark.parametrize("method", [k_means, k_medoids])
def test_points_that_are_all_the_same_have_as_many_representatives_as_were_asked_for(method):
    places, cluster = method(torch.ones(6, 4).double() / 2, 3, 0)
    assert len(places) == len(set(places.tolist())) == 3
    assert len(cluster) == 6
