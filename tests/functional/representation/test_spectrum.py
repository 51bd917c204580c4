import numpy as np
import pytest
import torch
from scipy.linalg import svd
from scipy.stats import entropy, ortho_group

from synbench_lightning.functional.representation.spectrum import (
    alpha_req,
    collapse_level,
    effective_rank,
    feature_std,
    power_law_exponent,
)


def draw(n=300, dim=24, decay=1.0, mean=0.0, seed=0):
    generator = np.random.default_rng(seed)
    rotation = ortho_group.rvs(dim, random_state=seed)
    return (generator.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -decay + mean) @ rotation


def rankme(features):
    """The published formula, from scipy's singular values and entropy."""
    values = svd(features, compute_uv=False)
    shares = values / values.sum() + 1e-7
    return np.exp(entropy(shares / shares.sum()) * shares.sum() - shares.sum() * np.log(shares.sum()))


@pytest.mark.parametrize("settings", [{}, {"n": 10}, {"decay": 3.0}, {"mean": 5.0}, {"dim": 1}])
def test_effective_rank_is_rankme_from_scipy(settings):
    features = draw(**settings) if settings != {"dim": 1} else np.ones((8, 1))
    assert effective_rank(torch.tensor(features)).item() == pytest.approx(rankme(features), rel=1e-9)


def test_effective_rank_counts_equal_directions_and_is_not_centred():
    basis = torch.tensor(ortho_group.rvs(64, random_state=0))
    assert effective_rank(basis[:, :16]).item() == pytest.approx(16, rel=1e-4)
    assert effective_rank(torch.ones(50, 8)).item() == pytest.approx(1, rel=1e-4)
    assert effective_rank(torch.zeros(50, 8)).item() == 0


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0, 2.0])
def test_alpha_req_is_the_weighted_slope_of_the_covariance_spectrum_from_numpy(decay):
    features = draw(decay=decay)
    eigenvalues = np.linalg.eigvalsh(np.cov(features.T))[::-1]
    rank = np.arange(1, len(eigenvalues) + 1)
    slope = np.polyfit(np.log(rank), np.log(eigenvalues), 1, w=rank**-0.5)[0]  # numpy squares its weights
    assert alpha_req(torch.tensor(features)).item() == pytest.approx(-slope, rel=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0, 3.0])
def test_a_power_law_gives_its_exponent_in_any_order_and_scale(alpha):
    law = torch.arange(1, 200, dtype=torch.float64) ** -alpha
    shuffled = 17.0 * law[torch.randperm(199, generator=torch.Generator().manual_seed(0))]
    assert power_law_exponent(shuffled).item() == pytest.approx(alpha, abs=1e-9)
    assert power_law_exponent(torch.cat([law, torch.zeros(9)])).item() == pytest.approx(alpha, abs=1e-9)


def test_one_direction_or_none_has_no_exponent():
    assert alpha_req(torch.ones(9, 4)).isnan()
    assert alpha_req(torch.arange(9.0)[:, None] * torch.ones(4)).isnan()


def test_feature_std_is_that_of_numpy():
    features = draw(mean=3.0)
    assert feature_std(torch.tensor(features)).item() == pytest.approx(features.std(0, ddof=1).mean())
    assert feature_std(torch.ones(5, 3)).item() == 0


def test_the_collapse_level_runs_from_isotropic_to_one_direction():
    features = draw(n=20_000, decay=0.0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = max(0, 1 - np.sqrt(24) * unit.std(0).mean())
    assert collapse_level(torch.tensor(features)).item() == pytest.approx(expected, abs=1e-9)
    assert collapse_level(torch.tensor(features)).item() < 0.01
    levels = [collapse_level(torch.tensor(draw(n=2000, decay=0.0, mean=mean))).item() for mean in (0, 1, 10, 100)]
    assert levels == sorted(levels)
    assert levels[-1] > 0.98
    assert collapse_level(torch.zeros(5, 3)).item() == 1


@pytest.mark.parametrize("statistic", [effective_rank, alpha_req, feature_std, collapse_level])
def test_statistics_accept_half_precision_and_refuse_what_has_no_spectrum(statistic):
    features = torch.tensor(draw())
    assert statistic(features.bfloat16()).item() == pytest.approx(statistic(features).item(), rel=0.02, abs=0.01)
    for wrong in (torch.ones(4), torch.ones(4, 3, dtype=torch.int64), torch.ones(0, 3), torch.ones(4, 0)):
        with pytest.raises(ValueError, match=r"`features` must be a floating-point tensor \(at least"):
            statistic(wrong)
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 8 values"):
        statistic(torch.tensor([[1.0, 2.0], [3.0, float("nan")], [1.0, 2.0], [1.0, 3.0]]))


def test_the_effective_rank_does_not_depend_on_the_scale_and_two_examples_are_enough():
    features = torch.tensor(draw())
    for scale in (1e-6, 1e6):
        assert effective_rank(scale * features).item() == pytest.approx(effective_rank(features).item())
    two = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert effective_rank(two).item() == pytest.approx(2, abs=1e-4)
    assert feature_std(two).item() == pytest.approx(0.5**0.5)
    assert collapse_level(two).item() == pytest.approx(1 - 2**0.5 / 2)  # each dimension has the standard deviation 1/2
    assert torch.isnan(alpha_req(two))  # two centred examples are on one line


def test_the_published_floor_is_added_to_each_share():
    share = 1 / 500 + 1e-7
    expected = np.exp(-500 * share * np.log(share))
    assert effective_rank(torch.eye(500).double()).item() == pytest.approx(expected, rel=1e-9)


def test_one_example_has_a_rank_and_two_have_all_else():
    one, two = torch.ones(1, 3), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert effective_rank(one).item() == pytest.approx(1, rel=1e-4)
    assert feature_std(two).item() == pytest.approx(2**0.5 / 2)
    assert collapse_level(two).item() == pytest.approx(1 - 2**0.5 / 2)
    assert alpha_req(two).isnan()
    with pytest.raises(ValueError, match="`features` must be a floating-point tensor"):
        effective_rank(torch.ones(0, 3))
    for statistic in (feature_std, collapse_level, alpha_req):
        with pytest.raises(ValueError, match="`features` must hold at least 2 samples, got 1"):
            statistic(one)


def test_an_exponent_may_start_at_another_rank():
    law = torch.arange(5, 300, dtype=torch.float64) ** -1.2
    assert power_law_exponent(law, first=5).item() == pytest.approx(1.2)
    assert power_law_exponent(law).item() < 1.1
