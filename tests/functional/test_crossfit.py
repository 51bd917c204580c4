import pytest
import torch

from synbench_lightning.functional.crossfit import crossfit_accuracy_and_bound
from synbench_lightning.functional.theory import optimal_accuracy, optimal_bound


def features(scales, vectors, dim, seed=0):
    noise = torch.randn(1, len(scales), vectors, 1, dim, generator=torch.Generator().manual_seed(seed))
    shift = torch.tensor(scales).reshape(-1, 1, 1, 1) * torch.nn.functional.one_hot(torch.tensor(0), dim)
    return torch.cat([noise + shift, noise - shift], 3)


def test_an_isometric_encoder_reaches_the_optimum():
    scales = [0.5, 1.0, 2.0, 3.0]
    accuracy, bound = crossfit_accuracy_and_bound(features(scales, 20_000, 4), [0.0, 0.3])
    for row in range(2):
        torch.testing.assert_close(accuracy[0, row], optimal_accuracy(torch.tensor(scales)), rtol=0, atol=5e-3)
        torch.testing.assert_close(bound[0, row], optimal_bound(torch.tensor(scales)), rtol=0, atol=1e-2)


def test_an_orthogonal_transformation_scale_and_shift_of_the_features_change_nothing():
    x = features([0.5, 2.0], 300, 8)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2))).Q
    before = crossfit_accuracy_and_bound(x, [0.0, 0.2])
    torch.testing.assert_close(
        crossfit_accuracy_and_bound(1e-4 * (x @ rotation) + 1, [0.0, 0.2]), before, rtol=5e-3, atol=5e-3
    )


def test_constant_features_are_chance_with_no_bound():
    accuracy, bound = crossfit_accuracy_and_bound(torch.ones(1, 2, 8, 2, 3), [0.0, 0.2])
    assert (accuracy == 0.5).all()
    assert (bound == 0).all()


def test_more_dimensions_than_forwards_give_finite_numbers():
    accuracy, bound = crossfit_accuracy_and_bound(features([1.0, 3.0], 8, 500), [0.0, 0.2])
    assert torch.isfinite(accuracy).all()
    assert torch.isfinite(bound).all()


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`features` must have the shape"):
        crossfit_accuracy_and_bound(torch.ones(1, 2, 8, 3), [0.0])
