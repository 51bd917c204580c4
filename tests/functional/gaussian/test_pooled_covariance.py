"""The pooled covariance: its eigenvalues are numpy's, and a ridge is forced where the pairs cannot resolve it."""

import numpy as np
import pytest
import torch

from synbench_lightning.functional.gaussian.cross_fitting import TERMS
from synbench_lightning.functional.gaussian.pooled_covariance import SHARE, expected_seconds, fit_of_means, pooled

SCALES, VECTORS = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=torch.float64), 8


def features(dim, seed=0):
    noise = torch.randn(1, len(SCALES), VECTORS, 2, dim, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(1, 3, dim)


def of(x):
    return pooled(x, fit_of_means(SCALES, VECTORS))


@pytest.mark.parametrize("dim", [24, 40, 200])
def test_where_directions_are_too_many_for_the_pairs_a_ridge_takes_the_rest(dim):
    found = of(features(dim))
    assert not found.resolved
    pairs = len(SCALES) * VECTORS
    assert found.pool.freedom(found.pool.smallest_ridge) == pytest.approx(SHARE * pairs, rel=1e-6)
    assert found.rank > SHARE * pairs


def test_few_directions_are_resolved_without_a_ridge():
    found = of(features(3))
    assert found.resolved
    assert found.rank == 3
    assert found.pool.smallest_ridge == 0


@pytest.mark.parametrize("dim", [3, 24, 200])
def test_eigenvalues_have_the_trace_of_the_variances(dim):
    found = of(features(dim))
    assert len(found.eigenvalues) == len(found.variances) == dim
    assert float(found.eigenvalues.sum()) == pytest.approx(float(found.variances.sum()), rel=1e-6)
    assert bool((found.eigenvalues >= 0).all())


def test_eigenvalues_are_those_of_the_residual_rows():
    x = features(24)
    found = of(x)
    sums, differences = (x[..., 0, :] + x[..., 1, :]) / 2, (x[..., 0, :] - x[..., 1, :]) / 2
    # Half sums lose the mean of their scale; half differences what an odd polynomial of the scale tells of them.
    odd = np.stack([(SCALES / SCALES.max()).numpy() ** power for power in range(1, 2 * TERMS, 2)], 1)
    flat = differences[0].double().numpy().mean(1)
    fitted = odd @ np.linalg.lstsq(odd, flat, rcond=None)[0]
    rows = np.concatenate(
        [(differences[0].double().numpy() - fitted[:, None]).reshape(-1, 24),
         (sums[0] - sums[0].mean(1, keepdim=True)).double().numpy().reshape(-1, 24)]
    )  # fmt: skip
    values = np.linalg.eigvalsh(rows.T @ rows)
    ratio = found.eigenvalues.numpy() / values
    assert ratio == pytest.approx(np.full(24, ratio.mean()), rel=1e-4), ratio


def test_the_expected_time_grows_with_the_cube_of_the_smaller_side_and_with_the_rows():
    assert expected_seconds(8192, 8192) == pytest.approx(8 * expected_seconds(4096, 4096))
    for rows, dim in ((10_000, 512), (512, 10_000)):
        assert expected_seconds(rows, dim) == pytest.approx(5e-12 * 512**2 * 10_000 + 8e-11 * 512**3)
