import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound
from synbench_lightning.functional.gaussian.discriminant import (
    accuracy_and_bound,
    covariance_spectrum,
    robust_weights,
    summarise_margins,
)
from tests.encoders import DATA

FEATURES = np.load(DATA / "features.npz")
EXPECTED = json.loads((DATA / "features_expected.json").read_text())


def sample(n, dim, delta, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    shift = delta * torch.nn.functional.one_hot(torch.tensor(0), dim)
    return torch.randn(n, dim, generator=generator) + (2 * labels[:, None] - 1) * shift, labels


@pytest.mark.parametrize("case", EXPECTED)
def test_reference_features_give_the_official_accuracy_and_bound(case):
    tensors = (torch.tensor(FEATURES[f"{case}/{name}"]) for name in ("train_x", "train_y", "test_x", "test_y"))
    accuracy, bound = accuracy_and_bound(*tensors, EXPECTED[case]["epsilons"])
    for found, name in ((accuracy, "accuracy"), (bound, "bound")):
        torch.testing.assert_close(found, torch.tensor(EXPECTED[case][name], dtype=torch.float64), rtol=5e-3, atol=0)


@pytest.mark.parametrize("delta", [0.5, 1.5])
def test_isotropic_classes_reach_the_optimum_of_input_space(delta):
    accuracy, bound = accuracy_and_bound(*sample(200_000, 3, delta, 0), *sample(200_000, 3, delta, 1), [0.0, 0.5])
    # With equal variances every epsilon gives the same rule.
    assert accuracy.numpy() == pytest.approx(optimal_accuracy(delta).item(), abs=3e-3)
    assert bound.numpy() == pytest.approx(optimal_bound(delta).item(), abs=1e-2)


@pytest.mark.parametrize("epsilon", [0.05, 0.3, 0.8])
def test_the_closed_form_is_the_minimum_that_a_constrained_solver_finds(epsilon):
    rng = np.random.default_rng(0)
    root, mu = rng.standard_normal((6, 6)), rng.standard_normal(6)
    covariance = root @ root.T + 0.1 * np.eye(6)
    precision = np.linalg.inv(covariance)
    found = minimize(
        lambda z: (mu - z) @ precision @ (mu - z),
        np.zeros(6),
        jac=lambda z: -2 * precision @ (mu - z),
        constraints={"type": "ineq", "fun": lambda z: epsilon**2 * mu @ mu - z @ z, "jac": lambda z: -2 * z},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 500},
    )
    expected = precision @ (mu - found.x)
    weights = robust_weights(covariance_spectrum(torch.tensor(covariance), 1e-6), torch.tensor(mu), [epsilon])
    np.testing.assert_allclose(weights[0].numpy(), expected / (expected @ mu), rtol=1e-4)


def test_an_orthogonal_transformation_and_a_shift_of_the_features_change_nothing():
    train, test = sample(400, 8, 0.7, 0), sample(400, 8, 0.7, 1)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2))).Q
    before = accuracy_and_bound(*train, *test, [0.0, 0.2])
    after = accuracy_and_bound(train[0] @ rotation + 3, train[1], test[0] @ rotation + 3, test[1], [0.0, 0.2])
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)


def test_more_dimensions_than_samples_are_allowed():
    accuracy, bound = accuracy_and_bound(*sample(50, 200, 3.0, 0), *sample(500, 200, 3.0, 1), [0.0, 0.2])
    assert (accuracy > 0.6).all()
    assert torch.isfinite(bound).all()


def test_constant_features_are_chance_with_no_bound():
    labels = torch.arange(100) % 2
    accuracy, bound = accuracy_and_bound(torch.ones(100, 4), labels, torch.ones(100, 4), labels, [0.0, 0.2])
    assert accuracy.tolist() == [0.5, 0.5]
    assert bound.tolist() == [0.0, 0.0]


def test_equal_class_means_have_no_rule():
    features = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    accuracy, bound = accuracy_and_bound(features, labels, features, labels, [0.0])
    assert (accuracy.item(), bound.item()) == (0.5, 0.0)


def test_half_precision_features_are_decided_in_float64():
    (train, labels), (test, test_labels) = sample(500, 4, 1.0, 0), sample(500, 4, 1.0, 1)
    exact = accuracy_and_bound(train.bfloat16().double(), labels, test.bfloat16().double(), test_labels, [0.1])
    torch.testing.assert_close(
        accuracy_and_bound(train.bfloat16(), labels, test.bfloat16(), test_labels, [0.1]), exact, rtol=0, atol=0
    )


X, Y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X, torch.zeros(20), X, Y), "`train_labels` must hold both classes.*20 of class 0 and 0 of class 1"),
        ((X[:2], Y[:2], X, Y), "at least three samples"),
        ((X, Y * 2 - 1, X, Y), "`train_labels` must be 0 or 1, got"),
        ((X, Y[:5], X, Y), r"`train_labels` must be a tensor of shape \(20,\)"),
        ((X, Y, X[:, :2], Y), "same dimension, got 3 and 2"),
        ((X.long(), Y, X, Y), r"`train_features` must be a floating-point tensor.*int64"),
        ((X[:, :, None], Y, X, Y), r"`train_features` must be .* of shape \(20, 3, 1\)"),
        ((X.where(X < 1, torch.nan), Y, X, Y), "`train_features` must be finite, got NaN or infinity in"),
        ((X, Y, X.where(X < 1, torch.inf), Y), "`test_features` must be finite"),
        ((X, Y, X[:0], Y[:0]), r"`test_features` must be .* of shape \(0, 3\)"),
    ],
)
def test_wrong_features_and_labels_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        accuracy_and_bound(*arguments, [0.0])


@pytest.mark.parametrize("epsilons", [[1.0], [-0.1], [], [float("nan")], [0.1, 0.1]])
def test_epsilons_outside_their_range_are_refused(epsilons):
    with pytest.raises(ValueError, match=r"`epsilons` must be different numbers in \[0, 1\)"):
        accuracy_and_bound(X, Y, X, Y, epsilons)


def test_margins_are_summed_up_over_their_last_dimension():
    margins = torch.tensor([[[1.0, 3.0, -1.0, 0.0], [-1.0, -2.0, -3.0, -4.0]], [[0.0] * 4, [2.0] * 4]])
    accuracy, bound = summarise_margins(margins)
    assert accuracy.tolist() == [[0.5, 0.0], [0.5, 1.0]]
    assert bound.tolist() == [[2.0, 0.0], [0.0, 2.0]]
