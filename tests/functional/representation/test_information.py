import math

import pytest
import torch

from synbench_lightning.functional.representation import information
from synbench_lightning.functional.representation.information import information_error, instance_information


def features(inputs=400, draws=16, dim=6, seed=0, signal=2.0):
    generator = torch.Generator().manual_seed(seed)
    means = signal * torch.randn(inputs, 1, dim, generator=generator, dtype=torch.float64)
    return means + torch.randn(inputs, draws, dim, generator=generator, dtype=torch.float64)


def test_it_is_the_capacity_of_a_gaussian_channel():
    # Independent components with signal-to-noise ratio 4 each; the floor is a hundredth of the mean variance, 5.
    found = [instance_information(features(seed=seed)).item() for seed in range(8)]
    expected = 6 / 2 * math.log(1 + 4 / (1 + 0.05))
    assert sum(found) / 8 == pytest.approx(expected, rel=0.01)


def test_it_is_what_the_channel_tells_by_sampling():
    # log p(x | m) - log p(x), averaged over samples, for one component with a signal-to-noise ratio of 9.
    generator = torch.Generator().manual_seed(1)
    mean, noise = 3 * torch.randn(200_000, generator=generator), torch.randn(200_000, generator=generator)
    normal = torch.distributions.Normal
    told = (normal(mean, 1.0).log_prob(mean + noise) - normal(0.0, math.sqrt(10)).log_prob(mean + noise)).mean()
    found = instance_information(features(inputs=20_000, dim=1, signal=3.0), floor=1e-9)
    assert found.item() == pytest.approx(told.item(), rel=0.02)


def test_it_does_not_depend_on_rotation_scale_or_order():
    x = features(inputs=40)
    turn, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    expected = instance_information(x)
    torch.testing.assert_close(instance_information(7 * x @ turn + 3), expected)
    for other in (x.flip(0), x[:, torch.arange(16).roll(5)]):  # the noise is dealt otherwise
        assert instance_information(other).item() == pytest.approx(expected.item(), rel=0.01)


@pytest.mark.parametrize("dim", [6, 70, 150])
def test_an_isometry_into_more_dimensions_than_examples_changes_nothing_but_the_mean_variance(dim):
    x = features(inputs=12, draws=8, dim=dim)
    wide = torch.linalg.qr(torch.randn(250, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q.T
    for told in (instance_information, information_error):
        torch.testing.assert_close(told(x @ wide + 3, floor=0.01 * 250 / dim), told(x, floor=0.01))


def test_noise_alone_tells_nothing_and_constant_features_neither():
    for dim in (6, 300, 1500):  # nearly as many dimensions as noise vectors
        assert abs(instance_information(features(inputs=128, dim=dim, signal=0.0)).item()) < 0.05 + 0.003 * dim
    assert instance_information(torch.full((40, 16, 5), 3.1)).item() == 0
    constant = torch.full((40, 16, 5), 3.1) + 1e-7 * torch.randn(40, 16, 5)
    assert instance_information(constant).item() == 0


def test_a_direction_that_shrinks_is_lost_below_the_floor():
    x, scale = features(), torch.ones(6, dtype=torch.float64)
    scale[3:] = 0.001
    half = instance_information(x[..., :3]).item()
    assert instance_information(x * scale).item() == pytest.approx(half, rel=0.05)
    assert instance_information(x * scale, floor=1e-9).item() == pytest.approx(2 * half, rel=0.1)


@pytest.mark.parametrize(("inputs", "draws", "dim"), [(128, 16, 6), (128, 16, 100), (400, 2, 20)])
def test_the_standard_error_is_the_scatter_over_other_inputs_and_other_noise(inputs, draws, dim):
    found = [features(inputs, draws, dim, seed) for seed in range(40)]
    values = torch.stack([instance_information(x) for x in found])
    errors = torch.stack([information_error(x) for x in found])
    # The noise counts twice, so that the error is rather too large.
    assert 0.7 < errors.square().mean().sqrt().item() / values.std().item() < 1.5


def test_the_standard_error_covers_what_other_noise_alone_changes():
    generator = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(64, 1, 6, generator=generator, dtype=torch.float64)
    found = [means + torch.randn(64, 16, 6, generator=generator, dtype=torch.float64) for _ in range(20)]
    values = torch.stack([instance_information(x) for x in found])
    assert torch.stack([information_error(x) for x in found]).mean() > values.std()


@pytest.mark.parametrize("shape", [(40, 16), (1, 16, 5), (40, 1, 5)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=r"`features` must have the shape \(inputs, noise, dimensions\)"):
        instance_information(torch.randn(shape))


def test_a_floor_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="`floor` must be a positive number, got 0"):
        instance_information(features(), floor=0)


@pytest.mark.parametrize("dim", [20, 300])
def test_columns_that_are_read_a_few_at_a_time_change_nothing(dim, monkeypatch):
    x = features(inputs=12, draws=8, dim=dim)
    whole = instance_information(x), information_error(x)
    monkeypatch.setattr(information, "COLUMNS", 7)
    for one, other in zip(whole, (instance_information(x), information_error(x)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("draws", [2, 3, 4])
def test_views_are_left_out_in_turn_where_there_are_four(draws):
    x = features(inputs=16, draws=draws)
    found = information.information_replicates(x)
    assert found.shape == (1 + (draws == 4), 4)
    constant = information.information_replicates(torch.ones(16, draws, 3))
    assert constant.tolist() == torch.zeros_like(found).tolist()
    groups = information.information_replicates(x, groups=3)
    assert groups.shape == (1 + (draws == 4), 3)


@pytest.mark.parametrize("dim", [6, 300])
def test_a_large_common_offset_changes_nothing(dim):
    x = features(inputs=12, draws=8, dim=dim)
    for told in (instance_information, information_error):
        torch.testing.assert_close(told(x + 1e6), told(x), rtol=1e-3, atol=1e-3)
