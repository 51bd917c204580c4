import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

from synbench_lightning.functional.gaussian.aggregates import aggregate, aggregate_weights

SCORES = np.random.default_rng(0).random(7)


def test_value_at_risk_runs_from_the_minimum_to_the_mean():
    assert aggregate(SCORES, fraction=0.01)["cvar"].item() == SCORES.min()
    assert aggregate(SCORES, fraction=3 / 7)["cvar"].item() == pytest.approx(np.sort(SCORES)[:3].mean())
    assert aggregate(SCORES, fraction=1.0)["cvar"].item() == pytest.approx(SCORES.mean())


@pytest.mark.parametrize("temperature", [0.01, 0.05, 1.0])
def test_the_smoothed_worst_is_its_formula_and_lies_between_worst_and_mean(temperature):
    found = aggregate(SCORES, temperature=temperature)
    expected = -temperature * (logsumexp(-SCORES / temperature) - np.log(7))
    assert found["smoothed_worst"].item() == pytest.approx(expected, abs=1e-6)
    assert found["worst"] <= found["smoothed_worst"] <= found["mean"]
    assert found["smoothed_worst"] <= found["worst"] + temperature * np.log(7)


def test_equal_scores_are_all_of_their_aggregates():
    found = aggregate([0.4, 0.4, 0.4])
    assert [round(value.item(), 6) for value in found.values()] == [0.4, 0.4, 0.4, 0.4, 0.0]


def test_weights_are_the_gradients():
    scores = torch.tensor(SCORES, requires_grad=True)
    for name, value in aggregate(scores).items():
        (gradient,) = torch.autograd.grad(value, scores, retain_graph=True)
        torch.testing.assert_close(gradient, aggregate_weights(SCORES)[name])


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_the_worst_of_equally_hard_tasks_reads_low_by_the_expected_minimum_of_normal_variables(tasks):
    error = 0.01
    drawn = 0.7 + error * np.random.default_rng(1).standard_normal((200_000, tasks))
    grid = np.linspace(-8, 8, 4001)
    expected = -np.trapezoid(grid * tasks * norm.pdf(grid) * norm.cdf(grid) ** (tasks - 1), grid)
    found = aggregate(drawn)
    low = (found["worst"].mean().item() - 0.7) / error
    assert low == pytest.approx(expected, abs=0.02)
    assert {2: -0.56, 3: -0.85, 5: -1.16}[tasks] == pytest.approx(expected, abs=0.005)
    assert abs(found["smoothed_worst"].mean().item() - 0.7) < abs(low * error) / 2
    assert abs(found["cvar"].mean().item() - 0.7) < abs(low * error) + 1e-9


def test_settings_outside_their_range_are_refused():
    with pytest.raises(ValueError, match=r"`fraction` must be a number in \(0, 1\], got 0"):
        aggregate(SCORES, fraction=0)
    with pytest.raises(ValueError, match="`temperature` must be a positive number, got 0"):
        aggregate(SCORES, temperature=0)


@pytest.mark.parametrize("scores", [0.5, [], np.ones((3, 0))])
def test_there_is_at_least_one_score(scores):
    for function in (aggregate, aggregate_weights):
        with pytest.raises(ValueError, match=r"`scores` must be numbers \(\.\.\., tasks\), at least one, got"):
            function(scores)
    assert aggregate([0.5])["worst"].item() == aggregate(np.full((3, 1), 0.5))["mean"][2].item() == 0.5
    assert aggregate(np.ones((0, 2)))["worst"].shape == (0,)
