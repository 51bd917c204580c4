import numpy as np
import pytest
import torch

from synbench_lightning.functional.benchmark.curve_correlation import correlation_distance, pearson, standardised
from synbench_lightning.functional.benchmark.polynomials import agreement, polynomial_basis, polynomial_coefficients


def walks(checkpoints, points, seed=0):
    """Curves that drift, as training dynamics do."""
    noise = torch.randn(checkpoints, points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.cumsum(0)


def with_gaps(curves, share=0.2, seed=1):
    gaps = torch.rand(curves.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(gaps, torch.nan, curves)


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


def test_pairs_without_a_correlation_are_no_part_of_the_agreement():
    generator = torch.Generator().manual_seed(0)
    coefficients, r = torch.randn(5, 3, generator=generator), torch.rand(5, 5, generator=generator)
    r[0, 2] = r[1, 4] = float("nan")
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5) if not torch.isnan(r[i, j])]
    distances = [float((coefficients[i] - coefficients[j]).norm()) for i, j in pairs]
    expected = -np.corrcoef(distances, [float(r[i, j]) for i, j in pairs])[0, 1]
    assert agreement(coefficients, r) == pytest.approx(expected)


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


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: polynomial_basis(torch.tensor([1.0, 1.0]), 1), "`positions` must be different finite numbers"),
        (lambda: polynomial_coefficients(torch.ones(3, 2), 3), "`degree` must be below the number of `positions`, 3"),
        (lambda: polynomial_coefficients(torch.ones(3, 2), 1, torch.ones(2)), r"`positions` must have shape \(3,\)"),
        (lambda: agreement(torch.ones(3, 2), torch.ones(2, 2)), r"`r` must be .* of shape \(3, 3\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
