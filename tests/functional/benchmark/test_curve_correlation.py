import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from synbench_lightning.functional.benchmark.curve_correlation import pearson, task_curves


def walks(checkpoints, points, seed=0):
    """Curves that drift, as training dynamics do."""
    noise = torch.randn(checkpoints, points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.cumsum(0)


def with_gaps(curves, share=0.2, seed=1):
    gaps = torch.rand(curves.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(gaps, torch.nan, curves)


@pytest.mark.parametrize("missing", [False, True])
def test_correlations_and_p_values_are_those_of_scipy(missing):
    one, other = walks(12, 6), walks(12, 4, seed=5)
    if missing:
        one, other = with_gaps(one), with_gaps(other, seed=2)
    r, p_value = pearson(one, other)
    for i in range(6):
        for j in range(4):
            seen = ~torch.isnan(one[:, i] + other[:, j])
            expected = pearsonr(one[seen, i].numpy(), other[seen, j].numpy())
            assert r[i, j].item() == pytest.approx(expected.statistic, abs=1e-12)
            assert p_value[i, j].item() == pytest.approx(expected.pvalue, rel=1e-8)


def test_a_curve_correlates_with_itself_and_scale_and_level_do_not_matter():
    curves = walks(10, 5)
    r, p_value = pearson(curves)
    assert torch.allclose(r.diagonal(), torch.ones(5).double())
    assert bool((p_value.diagonal() < 1e-12).all())
    torch.testing.assert_close(pearson(curves * 1e6 - 1e3, curves).r, r)


def test_constant_curves_and_too_few_shared_checkpoints_have_no_correlation():
    nan = float("nan")
    curves = torch.tensor(
        [[0.1, 1.0, 1.0, nan], [0.1, 2.0, nan, 1.0], [0.1, 3.0, nan, 2.0], [0.1, 5.0, nan, 4.0]], dtype=torch.float64
    )
    r, p_value = pearson(curves)
    assert torch.isnan(r[0]).all()  # constant
    assert torch.isnan(r[2]).all()  # a single checkpoint
    assert torch.isnan(p_value[0]).all()
    assert not torch.isnan(r[1, 3])
    # constant over the checkpoints that both have, though not over its own
    half = torch.tensor([[nan, 7.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert torch.isnan(pearson(half).r[0, 1])


def test_two_checkpoints_correlate_fully_and_say_nothing():
    r, p_value = pearson(torch.tensor([[1.0, 5.0], [2.0, 3.0]]))
    assert r[0, 1] == -1
    assert p_value[0, 1] == 1


def test_a_task_is_the_mean_of_its_points_that_have_a_value():
    curves, tasks = with_gaps(walks(6, 30)), torch.arange(30) % 3
    expected = np.stack([np.nanmean(curves[:, tasks == task].numpy(), 1) for task in range(3)], 1)
    np.testing.assert_allclose(task_curves(curves, tasks).numpy(), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pearson(torch.ones(3)), r"`first` must be a floating-point tensor \(checkpoints, points\)"),
        (lambda: pearson(torch.ones(3, 2), torch.ones(4, 2)), "must have the same checkpoints, got 3 and 4"),
        (lambda: pearson(torch.full((3, 2), -torch.inf)), "`first` must be finite or NaN.*got infinity in 2 of 2"),
        (
            lambda: task_curves(torch.ones(3, 2), torch.tensor([0])),
            r"`tasks` must be .* of shape \(2,\)",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
