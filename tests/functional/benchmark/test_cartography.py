import numpy as np
import pytest
import torch
from scipy.spatial import procrustes
from sklearn.decomposition import PCA

from synbench_lightning.functional.benchmark.cartography import cartography, multidimensional_scaling
from synbench_lightning.functional.benchmark.curve_correlation import correlation_distance, pearson, standardised


def walks(checkpoints, points, seed=0):
    """Curves that drift, as training dynamics do."""
    noise = torch.randn(checkpoints, points, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise.cumsum(0)


def with_gaps(curves, share=0.2, seed=1):
    gaps = torch.rand(curves.shape, generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(gaps, torch.nan, curves)


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
    sign = np.sign(np.take_along_axis(expected, np.abs(expected).argmax(0)[None], 0))
    np.testing.assert_allclose(found.numpy(), expected * sign, atol=1e-6)
    assert (found.amax(0) >= -found.amin(0)).all()


def test_three_points_lie_in_a_plane_as_their_distances_say():
    corners = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    found = multidimensional_scaling(torch.cdist(corners, corners), dims=3)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(corners, corners).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(0), torch.zeros(3).double(), atol=1e-6, rtol=0)
    line = multidimensional_scaling(torch.cdist(corners[:2], corners[:2]), dims=1)
    assert line.abs().flatten().tolist() == pytest.approx([1.5, 1.5])


def test_scaling_has_as_many_dimensions_as_asked_for():
    assert multidimensional_scaling(torch.zeros(2, 2), dims=3).tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cartography(torch.ones(3, 2), torch.ones(3)),
            "`correct` must be a boolean tensor",
        ),
        (lambda: multidimensional_scaling(torch.ones(2, 2)), "`distances` must be symmetric and 0 on the diagonal"),
        (lambda: multidimensional_scaling(torch.ones(2, 3)), "`distances` must be a square matrix"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
