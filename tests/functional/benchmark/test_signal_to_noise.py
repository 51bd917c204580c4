import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau, kstest, norm

from synbench_lightning.functional.benchmark.prediction import decisions
from synbench_lightning.functional.benchmark.selection import stratified
from synbench_lightning.functional.benchmark.signal_to_noise import decision_accuracy, signal_and_noise


def noisy(count, series, seed=0):
    return torch.randn(count, series, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_straight_line_is_all_signal_and_alternation_all_noise():
    line, zigzag = torch.arange(20.0), (-1.0) ** torch.arange(20)
    signal, noise, p_value = signal_and_noise(torch.stack([line, zigzag], 1))
    assert noise.tolist() == pytest.approx([0.0, math.sqrt(16 / 6)])
    assert signal.tolist() == pytest.approx([float(line.double().std()), 0.0])
    assert p_value[0] < 1e-4
    assert p_value[1] > 0.9999


def test_the_noise_is_that_which_was_added_to_a_trend_and_the_signal_is_the_trend():
    trend = torch.linspace(0, 5, 400, dtype=torch.float64).square()[:, None]
    signal, noise, _ = signal_and_noise(trend + 0.7 * noisy(400, 50))
    assert float(noise.mean()) == pytest.approx(0.7, rel=0.02)
    assert float(signal.mean()) == pytest.approx(float(trend.std()), rel=0.01)


@pytest.mark.parametrize("count", [8, 30])
def test_p_values_of_series_without_an_order_are_uniform(count):
    _, _, p_value = signal_and_noise(noisy(count, 2000))
    assert kstest(p_value.numpy(), "uniform").statistic < 0.04
    assert float((p_value < 0.05).double().mean()) == pytest.approx(0.05, abs=0.015)


def test_neither_shift_nor_scale_changes_the_ratio_and_a_constant_series_tells_nothing():
    series = noisy(12, 3).cumsum(0)
    signal, noise, p_value = signal_and_noise(series)
    other = signal_and_noise(100 - 3 * series)
    assert torch.allclose(other.signal / other.noise, signal / noise)
    assert torch.allclose(other.p_value, p_value)
    constant = signal_and_noise(torch.full((6,), -0.4))
    assert [float(each) for each in constant] == [0.0, 0.0, 0.5]


def test_fewer_than_five_values_are_refused():
    with pytest.raises(ValueError, match=r"`values` must be at least 5 in order, got shape \(4,\)"):
        signal_and_noise(torch.ones(4))


def test_the_decision_accuracy_is_kendalls_correlation_from_0_to_1():
    truth, estimates = noisy(25, 4), noisy(25, 4) + noisy(25, 4, seed=1)
    expected = [(1 + kendalltau(truth[:, k], estimates[:, k]).statistic) / 2 for k in range(4)]
    assert decision_accuracy(estimates, truth).tolist() == pytest.approx(expected)


def test_pairs_equal_in_truth_do_not_count_and_equal_estimates_are_right_by_half():
    assert decision_accuracy(torch.tensor([0.0, 5.0, 1.0]), torch.tensor([1.0, 1.0, 2.0])) == 0.5
    assert decision_accuracy(torch.zeros(3), torch.arange(3.0)) == 0.5
    assert decision_accuracy(torch.arange(3.0), torch.zeros(3)).isnan()


def test_decisions_from_all_points_are_right_and_from_points_of_noise_by_half():
    tasks = torch.arange(2).repeat_interleave(500)
    curves = noisy(40, 1000)
    whole, each = decisions(curves, stratified(tasks, 1000), tasks)
    assert (float(whole), each.tolist()) == (1.0, [1.0, 1.0])
    few, _ = decisions(curves, stratified(tasks, 4), tasks)
    assert 0.45 < float(few) < 0.65


def test_the_p_value_is_that_of_von_neumanns_ratio():
    values = torch.tensor([0.3, 1.0, 0.2, 0.9, 1.4])
    x = values.double().numpy()
    ratio = np.square(np.diff(x)).sum() / np.square(x - x.mean()).sum()
    expected = norm.cdf((ratio - 2) / np.sqrt(4 * (5 - 2) / ((5 - 1) * (5 + 1))))
    assert signal_and_noise(values).p_value.item() == pytest.approx(expected)
