"""Each correction of the estimate, where leaving it out or getting it wrong can be seen."""

import math

import pytest
import torch
from scipy.optimize import brentq

from synbench_lightning.functional.gaussian.asymptotic import _projected, estimate_limit
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy
from synbench_lightning.functional.gaussian.pooled_covariance import fit_of_means, pooled
from synbench_lightning.functional.gaussian.score import synbench_score
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.probe.plan import ProbePlan

PLAN = ProbePlan()
SCALES = torch.tensor(PLAN.scales).double()
POSITION = SCALES / SCALES.max()


def drawn(means, vectors, seed=0, own=0.0, deviations=1.0):
    """Features ``(1, K, n, 2, D)`` about means ``(K, D)``: noise shown at both signs, ``own`` noise to each example."""
    generator = torch.Generator().manual_seed(seed)
    scales, dim = means.shape
    both = torch.randn(scales, vectors, 1, dim, generator=generator).expand(-1, -1, 2, -1)
    each = torch.randn(scales, vectors, 2, dim, generator=generator)
    shift = torch.stack([means, -means], 1)[:, None]
    return (shift + (both + own * each) * deviations)[None].float()


def along_the_first_axis(dim):
    return SCALES[:, None] * torch.eye(dim, dtype=torch.float64)[0]


def accuracies(features, epsilon=0.0):
    return estimate_limit(features, PLAN.scales, [epsilon]).accuracy[0, 0]


def robust_accuracy(means, variances, epsilon):
    """Accuracy of the epsilon-robust discriminant of N(+-mean, diag(variances)), from its definition."""
    found = []
    for mean in means:

        def excess(log, mean=mean):
            share = math.exp(log) / (variances + math.exp(log))
            return float((share * mean).norm() - epsilon * mean.norm())

        weight = mean / (variances + math.exp(brentq(excess, -20, 20)))
        found.append(float(optimal_accuracy(weight @ mean / (weight.square() @ variances).sqrt())))
    return torch.tensor(found, dtype=torch.float64)


def test_the_means_may_go_through_four_directions_with_the_odd_powers_of_the_scale():
    odd = torch.linalg.qr(torch.stack([POSITION ** (2 * term + 1) for term in range(4)], 1)).Q
    means = torch.zeros(16, 6, dtype=torch.float64)
    means[:, :4] = 4 * odd  # the classes are about as far apart at each scale, each time elsewhere
    found = accuracies(drawn(means, 1024))
    torch.testing.assert_close(found, optimal_accuracy(means.norm(dim=1)), rtol=0, atol=0.02)


def test_the_logarithm_of_the_spread_may_be_an_even_polynomial_of_the_scale():
    even = 3 * POSITION**2 - 7 * POSITION**4 + 4 * POSITION**6
    deviation = (1.5 * even).exp()
    features = drawn(0.5 * along_the_first_axis(1), 1024, deviations=deviation[:, None, None, None])
    torch.testing.assert_close(accuracies(features), optimal_accuracy(0.5 * SCALES / deviation), rtol=0, atol=0.02)


def test_noise_of_another_shape_at_far_scales_says_nothing_about_a_scale():
    # At small scales the noise has two values, so accuracy jumps where the classes part; at large ones it is normal.
    noise = torch.randn(16, 1024, generator=torch.Generator().manual_seed(0)).double()
    noise = torch.where(SCALES[:, None] < 2.5, noise.sign() + 0.05 * noise, noise)
    shift = SCALES[:, None, None] * torch.tensor([1.0, -1.0])
    found = accuracies((noise[:, :, None] + shift)[None, ..., None].float())
    assert found[3] == pytest.approx(0.5, abs=0.01)  # scale 0.61; the normal distribution has 0.73
    assert found[-4:] == pytest.approx(optimal_accuracy(SCALES)[-4:], abs=0.01)


def test_neighbouring_scales_share_their_points_so_that_each_scatters_less():
    found = torch.stack([accuracies(drawn(along_the_first_axis(2), 64, seed)) for seed in range(60)])
    expected = optimal_accuracy(SCALES)
    alone = (expected * (1 - expected) / 128).sqrt()  # of the two examples of 64 pairs
    share = (found.std(0) / alone)[2:9].mean()
    assert 0.3 < share < 0.55


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize(("own", "allowed"), [(0.0, 0.003), (1.0, 0.006), (3.0, 0.01)])
def test_dimensions_as_many_as_a_third_of_the_pairs_cost_next_to_nothing_on_average(own, allowed, epsilon):
    # From noise that the two signs share, where half differences do not vary, to nearly all of it their own.
    found = [accuracies(drawn(along_the_first_axis(160), 32, seed, own), epsilon) for seed in range(40)]
    error = torch.stack(found).mean(0) - optimal_accuracy(SCALES / math.sqrt(1 + own**2))
    assert error.mean().abs() < allowed
    assert error.abs().max() < 0.03


@pytest.mark.parametrize("own", [0.0, 1.0])
@pytest.mark.parametrize("epsilon", [0.3, 0.6])
def test_the_robust_rule_in_many_dimensions_is_that_of_the_population(own, epsilon):
    variances = torch.logspace(-1, 1, 96, dtype=torch.float64)
    means = SCALES[:, None] * torch.full((96,), 0.04, dtype=torch.float64)
    deviations = (variances / (1 + own**2)).sqrt()
    found = [accuracies(drawn(means, 32, seed, own, deviations), epsilon) for seed in range(40)]
    expected = robust_accuracy(means, variances, epsilon)
    torch.testing.assert_close(torch.stack(found).mean(0), expected, rtol=0, atol=0.015)


@pytest.mark.parametrize("epsilon", [0.2, 0.5, 0.8])
def test_features_that_grow_with_the_scale_have_the_robust_rule_of_those_that_do_not(epsilon):
    variances = torch.tensor([0.05, 1.0, 5.0], dtype=torch.float64)
    means = SCALES[:, None] * torch.tensor([0.05, 0.3, 1.0], dtype=torch.float64)
    gain = (2 * POSITION) ** 2 + 0.3
    features = drawn(means * gain[:, None], 512, deviations=variances.sqrt() * gain[:, None, None, None])
    expected = robust_accuracy(means, variances, epsilon)
    torch.testing.assert_close(accuracies(features, epsilon), expected, rtol=0, atol=0.015)


def test_the_standard_error_covers_the_scatter_where_dimensions_are_half_as_many_as_pairs():
    scores, errors = [], []
    for seed in range(40):
        found = estimate_limit(drawn(along_the_first_axis(240), 32, seed), PLAN.scales, [0.0])
        score, replicates = (
            synbench_score(accuracy[..., 0, 0, :], bound[..., 0, 0, :], PLAN.scales, [0.7], PLAN.weights)
            for accuracy, bound in (
                (found.accuracy, found.bound),
                (found.jackknife_accuracy, found.jackknife_bound),
            )
        )
        scores.append(score)
        errors.append(jackknife_error(score, replicates))
    assert 1.05 < torch.stack(errors).square().mean().sqrt() / torch.stack(scores).std() < 1.4


@pytest.mark.parametrize(("pairs", "counts"), [(5, False), (64, True)])
def test_a_direction_counts_where_its_variance_comes_from_more_than_a_few_pairs(pairs, counts):
    features = drawn(along_the_first_axis(1), 256)
    struck = torch.linspace(0, 16 * 256 - 1, pairs).long()
    features.view(-1, 2, 1)[struck] += 300
    found = estimate_limit(features, PLAN.scales, [0.0])
    assert ((found.accuracy > 0.5).any() and (found.bound > 0).any()) == counts


@pytest.mark.parametrize("dim", [24, 120, 240])
def test_the_noise_of_the_covariance_keeps_the_factor_of_wishart(dim):
    features = drawn(along_the_first_axis(dim), 32)
    means = fit_of_means(SCALES, 32)
    pool, (residuals,), (coefficients,), *_ = pooled(features, means)
    (found,) = _projected(residuals, SCALES, means, coefficients, pool, [0.0])
    assert float(found.kept) == pytest.approx(1 - dim / (16 * 32), abs=0.04)
