import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from scipy.stats import pearsonr
from sklearn.decomposition import PCA

from synbench_lightning.functional.benchmark.cartography import cartography, multidimensional_scaling
from synbench_lightning.functional.benchmark.dynamics import correlation_distance, pearson, standardised, task_curves
from synbench_lightning.functional.benchmark.polynomials import agreement, polynomial_basis, polynomial_coefficients


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
    one = with_gaps(one) if missing else one
    r, p_value = pearson(one, other)
    for i in range(6):
        for j in range(4):
            seen = ~torch.isnan(one[:, i])
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


@pytest.mark.parametrize("positions", [torch.arange(100.0), 1.3 ** torch.arange(30.0), torch.tensor([3.0])])
def test_the_basis_is_orthonormal_to_the_highest_degree(positions):
    basis = polynomial_basis(positions, len(positions) - 1)
    torch.testing.assert_close(basis.T @ basis, torch.eye(len(positions)).double(), rtol=0, atol=1e-12)


def test_the_basis_spans_the_polynomials():
    positions = torch.tensor([0.0, 1.0, 3.0, 4.0, 8.0, 9.0, 20.0])
    values = np.random.default_rng(0).standard_normal(7)
    basis = polynomial_basis(positions, 3)
    expected = np.polynomial.Polynomial.fit(positions.numpy(), values, 3)(positions.numpy())
    np.testing.assert_allclose((basis @ (basis.T @ torch.tensor(values))).numpy(), expected)


def test_at_the_highest_degree_distances_of_coefficients_are_the_pairwise_correlations():
    curves = walks(29, 40)
    coefficients = polynomial_coefficients(standardised(curves), 28)
    distance = torch.cdist(coefficients, coefficients)
    torch.testing.assert_close(1 - distance.square() / 2, pearson(curves).r, rtol=0, atol=1e-9)
    torch.testing.assert_close(distance, correlation_distance(pearson(curves).r), rtol=0, atol=1e-6)


def test_agreement_grows_with_the_degree():
    curves = walks(29, 60)
    r = pearson(curves).r
    found = [agreement(polynomial_coefficients(standardised(curves), degree), r) for degree in (1, 4, 28)]
    assert found[0] < found[1] < found[2]
    assert found[2] > 0.98
    noise = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    assert abs(agreement(noise, r)) < 0.2


def test_a_polynomial_is_found_through_its_gaps():
    positions = torch.arange(9.0).double()
    curves = torch.stack([positions**2 - 3 * positions, 2 - positions, positions**3], 1)
    full = polynomial_coefficients(curves, 3, positions)
    gaps = with_gaps(curves, 0.3)
    assert torch.isnan(gaps).any(0).all()
    torch.testing.assert_close(polynomial_coefficients(gaps, 3, positions), full)


def test_a_curve_without_values_has_no_coefficients_and_one_value_the_shortest():
    nan = float("nan")
    coefficients = polynomial_coefficients(torch.tensor([[nan, nan], [nan, 4.0], [nan, nan]]), 2)
    assert coefficients[0].tolist() == [0, 0, 0]
    basis = polynomial_basis(torch.arange(3.0), 2)
    assert (basis[1] @ coefficients[1]).item() == pytest.approx(4.0)


def test_cartography_is_mean_standard_deviation_and_share():
    curves = walks(7, 5)
    correct = curves > 0
    found = cartography(curves, correct)
    np.testing.assert_allclose(found.confidence.numpy(), curves.numpy().mean(0))
    np.testing.assert_allclose(found.variability.numpy(), curves.numpy().std(0))
    np.testing.assert_allclose(found.correctness.numpy(), correct.numpy().mean(0))
    gaps = with_gaps(curves, 0.3)
    np.testing.assert_allclose(cartography(gaps).variability.numpy(), np.nanstd(gaps.numpy(), 0))


def test_scaling_of_correlation_distances_is_the_principal_components_of_the_curves():
    curves = standardised(walks(15, 40))
    found = multidimensional_scaling(correlation_distance(pearson(curves).r), dims=3)
    expected = PCA(3).fit_transform(curves.T.numpy())
    assert procrustes(found.numpy(), expected)[2] < 1e-6


def test_scaling_has_as_many_dimensions_as_asked_for():
    assert multidimensional_scaling(torch.zeros(2, 2), dims=3).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pearson(torch.ones(3)), r"`first` must be a floating-point tensor \(checkpoints, points\)"),
        (lambda: pearson(torch.ones(3, 2), torch.ones(4, 2)), "must have the same checkpoints, got 3 and 4"),
        (lambda: pearson(torch.full((3, 2), -torch.inf)), "`first` must be finite or NaN.*got infinity in 2 of 2"),
        (lambda: task_curves(torch.ones(3, 2), torch.tensor([0])), r"`tasks` must be integers of shape \(2,\)"),
        (lambda: polynomial_basis(torch.tensor([1.0, 1.0]), 1), "`positions` must be different finite numbers"),
        (lambda: polynomial_coefficients(torch.ones(3, 2), 3), "`degree` must be below the number of checkpoints, 3"),
        (lambda: polynomial_coefficients(torch.ones(3, 2), 1, torch.ones(2)), r"`positions` must have shape \(3,\)"),
        (lambda: cartography(torch.ones(3, 2), torch.ones(3)), "`correct` must have the shape of `curves`"),
        (lambda: multidimensional_scaling(torch.ones(2, 2)), "`distances` must be symmetric and 0 on the diagonal"),
        (lambda: multidimensional_scaling(torch.ones(2, 3)), "`distances` must be a square matrix"),
        (lambda: agreement(torch.ones(3, 2), torch.ones(2, 2)), r"`r` must have shape \(3, 3\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
