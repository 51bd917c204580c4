import pytest
import torch

from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound
from synbench_lightning.functional.gaussian.cross_fitting import (
    Projections,
    accuracy_and_bound_curves,
    neighborhood,
)

SCALES = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def projections(mean, pairs=40, noise=0.0, spread=1.0):
    """Pairs whose two points scatter around plus and minus their mean with a standard deviation of one at scale 1."""
    generator = torch.Generator().manual_seed(0)
    deviation = (spread / 2) ** 0.5 * torch.ones(len(mean), 1, 1, dtype=torch.float64)
    residual = deviation * torch.randn(len(mean), pairs, 2, generator=generator, dtype=torch.float64)
    noise = torch.full((len(mean),), noise, dtype=torch.float64)
    return Projections(residual, mean[:, None].expand(-1, pairs), noise, torch.ones(len(mean)).double())


def test_gaussian_projections_have_the_accuracy_and_bound_of_their_half_distance():
    accuracy, bound = accuracy_and_bound_curves([projections(SCALES, 20_000)], SCALES, 4)[:, 0, 0]
    torch.testing.assert_close(accuracy, optimal_accuracy(SCALES), rtol=0, atol=0.01)
    torch.testing.assert_close(bound, optimal_bound(SCALES), rtol=0.02, atol=0)


def test_the_noise_of_the_directions_is_taken_off_their_variance():
    found = accuracy_and_bound_curves([projections(SCALES, 20_000, noise=0.5, spread=1.5)], SCALES, 4)[:, 0, 0]
    plain = accuracy_and_bound_curves([projections(SCALES, 20_000)], SCALES, 4)[:, 0, 0]
    torch.testing.assert_close(found, plain, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("pairs", [40, 42])  # blocks of one size and of two
def test_a_replicate_is_the_estimate_from_all_pairs_but_those_of_a_block(pairs):
    whole = projections(SCALES, pairs)
    found = accuracy_and_bound_curves([whole], SCALES, 4)
    for block in range(4):
        kept = torch.arange(pairs) % 4 != block
        part = whole._replace(residual=whole.residual[:, kept], mean=whole.mean[:, kept])
        torch.testing.assert_close(found[:, 1 + block], accuracy_and_bound_curves([part], SCALES, 4)[:, 0])


def test_where_the_direction_points_away_from_the_class_or_nowhere_there_is_no_rule():
    accuracy, bound = accuracy_and_bound_curves([projections(torch.tensor([-1.0, 0.0, 1.0]).double())], SCALES, 4)[
        :, 0, 0
    ]
    assert accuracy[:2].tolist() == [0.5, 0.5]
    assert bound[:2].tolist() == [0.0, 0.0]
    assert accuracy[2] > 0.5
    assert bound[2] > 1


def test_the_weights_of_a_neighborhood_are_those_of_a_normal_density():
    weights = neighborhood(SCALES)
    expected = torch.distributions.Normal(0, 0.12 * 2.0).log_prob(SCALES[:, None] - SCALES).exp()
    torch.testing.assert_close(weights, (expected / expected.sum(1, keepdim=True)).double())
