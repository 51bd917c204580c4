import numpy as np
import pytest
import torch
from scipy.stats import norm

from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound


def test_accuracy_and_bound_are_those_of_the_bayes_rule_on_a_large_sample():
    rng = np.random.default_rng(0)
    for delta in (0.3, 1.0, 2.5):
        margin = 1 + rng.standard_normal(2_000_000) / delta  # signed distance to the boundary over that of the mean
        assert optimal_accuracy(delta).item() == pytest.approx((margin > 0).mean(), abs=1e-3)
        assert optimal_bound(delta).item() == pytest.approx(margin[margin > 0].mean(), abs=3e-3)


def test_accuracy_and_bound_equal_scipys_closed_forms_for_tensors():
    delta = np.linspace(0.05, 5, 100)
    expected = 1 + norm.pdf(delta) / (delta * norm.cdf(delta))
    torch.testing.assert_close(optimal_accuracy(torch.tensor(delta)), torch.tensor(norm.cdf(delta)))
    torch.testing.assert_close(optimal_bound(torch.tensor(delta)), torch.tensor(expected))


@pytest.mark.parametrize("delta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_distance_that_is_not_positive_and_finite_is_refused(delta):
    for function in (optimal_accuracy, optimal_bound):
        with pytest.raises(ValueError, match="`delta` must be positive and finite"):
            function(delta)
