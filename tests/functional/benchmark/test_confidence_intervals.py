import numpy as np
import pytest
import torch
from scipy.stats import bootstrap, norm, ttest_1samp

from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    mean_estimate,
    mean_of_tasks,
    minimum_detectable_difference,
    weighted_mean,
)
from synbench_lightning.functional.benchmark.lure import lure, lure_weights
from synbench_lightning.functional.benchmark.residuals import aipw
from synbench_lightning.functional.benchmark.selection import proportional, stratified

RNG = np.random.default_rng(0)

LOSSES = torch.tensor(RNG.lognormal(0.0, 0.8, 300))

GUESSES = LOSSES * torch.tensor(RNG.lognormal(0.0, 0.3, 300))

ONE_TASK = torch.zeros(300, dtype=torch.long)

DRAWS = 1000


def simulate(estimate, select):
    """Estimates over many draws: values, standard errors, and whether the 95 % interval holds the truth."""
    found = [estimate(select(seed)) for seed in range(DRAWS)]
    value, error, freedom = (torch.stack([getattr(f, name) for f in found]) for name in Estimate._fields)
    low, high = Estimate(value, error, freedom).interval(0.95)
    truth = LOSSES.mean()
    return value.numpy(), error.numpy(), ((low <= truth) & (truth <= high)).double().mean().item()


def assert_unbiased(values, errors):
    assert abs(values.mean() - LOSSES.mean().item()) < 3.5 * values.std() / DRAWS**0.5
    assert (errors**2).mean() == pytest.approx(values.var(), rel=0.15)


def test_lure_is_unbiased_and_its_interval_covers_whatever_the_proposal():
    for sizes, coverage in ((torch.ones(300), 0.89), (GUESSES, 0.93), (1 / GUESSES, 0.80)):
        values, errors, covered = simulate(
            lambda s: lure(LOSSES[s.indices], s.proposal, 300),
            lambda seed, sizes=sizes: proportional(sizes, ONE_TASK, 40, seed, floor=0.3),
        )
        assert_unbiased(values, errors)
        assert covered >= coverage


def test_intervals_cover_as_they_claim_where_errors_are_gaussian():
    population = torch.tensor(RNG.normal(0, 1, 300))
    held = {0.8: 0, 0.95: 0}
    for seed in range(DRAWS):
        drawn = proportional(torch.linspace(1, 2, 300), ONE_TASK, 20, seed)
        found = aipw(population[drawn.indices], torch.zeros(300), drawn.indices, drawn.proposal)
        for confidence in held:
            low, high = found.interval(confidence)
            held[confidence] += bool(low <= population.mean() <= high)
    for confidence, count in held.items():
        assert count / DRAWS == pytest.approx(confidence, abs=0.03)


def test_aipw_is_unbiased_whatever_the_predictions_and_good_ones_help():
    spread = []
    for predictions in (torch.zeros(300), GUESSES, LOSSES.flip(0)):
        values, errors, covered = simulate(
            lambda s, predictions=predictions: aipw(LOSSES[s.indices], predictions, s.indices),
            lambda seed: stratified(ONE_TASK, 40, seed),
        )
        assert_unbiased(values, errors)
        assert covered >= 0.90
        spread.append(values.std())
    assert spread[1] < 0.6 * spread[0] < spread[2]


def test_aipw_with_proposals_is_unbiased_and_better_than_without():
    values, errors, covered = simulate(
        lambda s: aipw(LOSSES[s.indices], GUESSES, s.indices, s.proposal),
        lambda seed: proportional(GUESSES, ONE_TASK, 40, seed),
    )
    plain, *_ = simulate(
        lambda s: aipw(LOSSES[s.indices], GUESSES, s.indices), lambda seed: stratified(ONE_TASK, 40, seed)
    )
    assert_unbiased(values, errors)
    assert covered >= 0.93
    assert values.std() < 0.8 * plain.std()


def test_drawing_in_proportion_to_the_loss_itself_leaves_little_error():
    values, *_ = simulate(
        lambda s: lure(LOSSES[s.indices], s.proposal, 300),
        lambda seed: proportional(LOSSES, ONE_TASK, 40, seed, floor=0.01),
    )
    plain, *_ = simulate(lambda s: mean_estimate(LOSSES[s.indices], 300), lambda seed: stratified(ONE_TASK, 40, seed))
    assert values.std() < 0.15 * plain.std()


def test_equal_proposals_make_lure_the_mean_with_its_standard_error():
    selection = stratified(ONE_TASK, 200, seed=3)
    found = lure(LOSSES[selection.indices], selection.proposal, 300)
    plain = mean_estimate(LOSSES[selection.indices], 300)
    torch.testing.assert_close(found.value, plain.value)
    assert found.standard_error.item() == pytest.approx(plain.standard_error.item(), rel=0.15)


def test_all_points_give_the_exact_mean():
    selection = proportional(GUESSES, ONE_TASK, 300, seed=1)
    for found in (
        lure(LOSSES[selection.indices], selection.proposal, 300),
        mean_estimate(LOSSES, 300),
        weighted_mean(LOSSES, torch.ones(300), 300),
        aipw(LOSSES, GUESSES, torch.arange(300)),
    ):
        assert found.value.item() == pytest.approx(LOSSES.mean().item())
        assert found.standard_error.item() == 0


def test_one_point_has_an_unknown_error():
    one = torch.tensor([2.0])
    for found in (mean_estimate(one), weighted_mean(one, one), lure(one, torch.tensor([0.2]), 5)):
        assert torch.isinf(found.standard_error)
        assert [torch.isinf(limit).item() for limit in found.interval()] == [True, True]


def test_the_interval_of_a_mean_is_that_of_the_t_test():
    values = LOSSES[:12]
    expected = ttest_1samp(values.numpy(), 0).confidence_interval(0.9)
    assert [limit.item() for limit in mean_estimate(values).interval(0.9)] == pytest.approx(list(expected))


def test_the_error_of_a_weighted_mean_is_that_of_the_bootstrap():
    values, weights = LOSSES.numpy(), GUESSES.numpy()
    found = weighted_mean(LOSSES, GUESSES)
    assert found.value.item() == pytest.approx(np.average(values, weights=weights))
    redrawn = bootstrap(
        (values, weights), lambda v, w, axis: (v * w).sum(axis) / w.sum(axis), paired=True, vectorized=True,
        n_resamples=2000, rng=0,
    )  # fmt: skip
    assert found.standard_error.item() == pytest.approx(redrawn.standard_error, rel=0.1)


def test_lure_weights_average_to_one_over_the_draws():
    weights = [lure_weights(proportional(GUESSES, ONE_TASK, 30, seed).proposal, 300).sum() for seed in range(500)]
    assert np.mean(weights) == pytest.approx(1, abs=0.05)


def test_values_may_have_leading_dimensions():
    selection = proportional(GUESSES, ONE_TASK, 30, 0)
    both = torch.stack([LOSSES, 2 * LOSSES])[:, selection.indices]
    found = lure(both, selection.proposal, 300)
    alone = lure(both[1], selection.proposal, 300)
    assert found.value.shape == found.interval()[0].shape == (2,)
    assert found.standard_error[1].item() == pytest.approx(alone.standard_error.item())


def test_the_benchmark_is_the_mean_of_its_tasks_and_its_interval_covers():
    covered = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        samples = [torch.tensor(rng.normal(0, scale, size)) for scale, size in ((1.0, 5), (3.0, 8), (0.1, 20))]
        low, high = mean_of_tasks([mean_estimate(sample) for sample in samples]).interval(0.9)
        covered.append(bool(low <= 0 <= high))
    assert np.mean(covered) == pytest.approx(0.9, abs=0.025)


def test_a_difference_as_large_as_the_detectable_one_is_seen_with_the_power():
    sample = Estimate(torch.tensor(0.0), torch.tensor(0.5), torch.tensor(torch.inf))
    difference = minimum_detectable_difference(sample, confidence=0.95, power=0.8).item()
    seen = norm.sf(norm.ppf(0.975) - difference / 0.5)
    assert seen == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_estimate(torch.ones(0)), "`values` must be a floating-point tensor"),
        (
            lambda: mean_estimate(torch.tensor([1.0, torch.nan])),
            "`values` must be finite, got .* in 1 of 2",
        ),
        (lambda: mean_estimate(torch.ones(3), 2), "`population` must be at least the number of evaluated points, 3"),
        (lambda: weighted_mean(torch.ones(2), torch.tensor([0.0, 0.0])), "`weights` must be numbers of at least 0"),
        (lambda: lure(torch.ones(2), torch.ones(3), 5), r"`proposal` must be .* of shape \(2,\)"),
        (lambda: lure(torch.ones(2), torch.tensor([0.5, 0.0]), 5), r"`proposal` must be probabilities in \(0, 1\]"),
        (lambda: lure(torch.ones(2), torch.tensor([0.5, 1.01]), 5), r"`proposal` must be probabilities in \(0, 1\]"),
        (lambda: aipw(torch.ones(2), torch.ones(5), torch.tensor([0])), r"`indices` must be .* of shape \(2,\)"),
        (lambda: mean_of_tasks([]), "`estimates` must be .* at least one"),
        (lambda: mean_estimate(torch.ones(3)).interval(1.0), r"`confidence` must be a probability in \(0, 1\)"),
        (
            lambda: minimum_detectable_difference(mean_estimate(torch.ones(3)), power=0.0),
            r"`power` must be a probability in \(0, 1\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_equal_weights_are_no_weights():
    values = LOSSES[:20]
    for population in (None, 100):
        plain, weighted = mean_estimate(values, population), weighted_mean(values, torch.full((20,), 3.0), population)
        for one, other in zip(plain, weighted, strict=True):
            torch.testing.assert_close(one, other)


def test_a_population_of_one_is_known_from_its_point():
    found = mean_estimate(torch.tensor([3.0]), 1)
    assert (found.value.item(), found.standard_error.item(), found.degrees_of_freedom.item()) == (3.0, 0.0, 0.0)


def test_the_variance_that_lure_reports_is_the_mean_over_all_orders_of_drawing():
    values, sizes = torch.linspace(0, 3, 40).double().square(), torch.linspace(1, 2, 40).double()
    share, mean, second, reported = sizes / sizes.sum(), 0.0, 0.0, 0.0
    for first in range(40):
        for after in (place for place in range(40) if place != first):
            proposal = torch.stack([share[first], share[after] / (1 - share[first])])
            found = lure(values[[first, after]], proposal, 40)
            chance = float(proposal.prod())
            mean, second = mean + chance * float(found.value), second + chance * float(found.value) ** 2
            reported += chance * float(found.standard_error) ** 2
            assert found.degrees_of_freedom == 1
    assert mean == pytest.approx(float(values.mean()))
    assert reported == pytest.approx(second - mean**2, rel=0.03)


def test_the_last_point_of_a_population_is_drawn_for_certain():
    found = lure(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.0]), 2)
    assert (found.value.item(), found.standard_error.item(), found.degrees_of_freedom.item()) == (2.0, 0.0, 1.0)
