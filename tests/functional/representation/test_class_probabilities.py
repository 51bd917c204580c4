import math

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from sklearn.datasets import load_digits
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from synbench_lightning.functional.representation.class_probabilities import class_log_probabilities, shrunk_covariance


def gaussians(n, dim, distance, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    return torch.randn(n, dim, generator=generator) + distance * torch.eye(dim)[labels], labels


def test_the_shrunk_covariance_is_that_of_scikit_learn():
    features = torch.randn(30, 12, generator=torch.Generator().manual_seed(0)).double() @ torch.rand(12, 12).double()
    centred = features - features.mean(0)
    expected = OAS(assume_centered=True).fit(centred.numpy()).covariance_
    np.testing.assert_allclose(shrunk_covariance(centred).numpy(), expected)


def test_with_many_examples_the_probabilities_are_those_of_the_gaussian_model():
    support, labels = gaussians(30_000, 4, 2.0, 0)
    features, _ = gaussians(200, 4, 2.0, 1)
    found = class_log_probabilities(support, labels, features)
    means = 2.0 * torch.eye(4)[:3]
    truth = torch.log_softmax(-0.5 * torch.cdist(features, means).square(), 1).double()
    torch.testing.assert_close(found.exp(), truth.exp(), rtol=0, atol=0.03)


def test_a_rare_class_is_as_likely_as_the_gaussian_model_says():
    labels = (torch.arange(20_000) % 10 == 0).long()
    generator = torch.Generator().manual_seed(0)
    means = 1.5 * torch.eye(4)[:2]
    support = torch.randn(20_000, 4, generator=generator) + means[labels]
    features = torch.randn(200, 4, generator=generator) + means.mean(0)
    found = class_log_probabilities(support, labels, features)
    prior = torch.tensor([0.9, 0.1]).log()
    truth = torch.log_softmax(-0.5 * torch.cdist(features, means).square() + prior, 1).double()
    torch.testing.assert_close(found.exp(), truth.exp(), rtol=0, atol=0.05)


def test_far_from_everything_the_answer_is_the_prior_once_in_n_plus_1_times():
    support = torch.tensor([-1.1, -0.9, -1.0, -1.05, -0.95, -1.0, 0.9, 1.1])[:, None]
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    found = class_log_probabilities(support, labels, torch.tensor([[-1e6], [1e6]])).exp()
    assert found[0, 1].item() == pytest.approx(0.25 / 9)
    assert found[1, 0].item() == pytest.approx(0.75 / 9)


@pytest.mark.parametrize("n", [8, 20, 100])
def test_classes_far_apart_are_certain_at_their_examples_and_doubtful_between_them(n):
    labels = torch.arange(n) % 2
    support = (2 * labels[:, None] - 1) + 0.05 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    at_mean, between = class_log_probabilities(support, labels, torch.tensor([[1.0], [0.1]])).exp()[:, 1].tolist()
    assert 1 - at_mean == pytest.approx(1 / (n + 1), rel=0.1)  # half of it from the search, half from the result
    assert 0.5 < between < 0.7


def test_the_classes_are_those_that_scikit_learn_finds():
    support, labels = gaussians(300, 10, 2.5, 0)
    features, _ = gaussians(500, 10, 2.5, 1)
    expected = LinearDiscriminantAnalysis(solver="lsqr").fit(support.numpy(), labels.numpy()).predict(features.numpy())
    found = class_log_probabilities(support, labels, features).argmax(1).numpy()
    assert (found == expected).mean() > 0.97


def test_probabilities_from_few_examples_are_calibrated():
    digits = load_digits()
    features, labels = torch.tensor(digits.data).float(), torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    support, rest = order[:300], order[300:]
    found = class_log_probabilities(features[support], labels[support], features[rest])
    torch.testing.assert_close(found.exp().sum(1), torch.ones(len(rest)).double())
    confidence, predicted = found.exp().max(1)
    right = (predicted == labels[rest]).double()
    assert right.mean() > 0.9
    assert abs(confidence.mean() - right.mean()) < 0.04
    likelihood = found.gather(1, labels[rest, None]).mean()
    raw = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(features[support], labels[support])
    theirs = raw.predict_log_proba(features[rest].numpy())[np.arange(len(rest)), labels[rest]].mean()
    assert likelihood > theirs + 0.02


def test_scale_rotation_and_shift_of_the_features_change_nothing():
    support, labels = gaussians(60, 6, 1.5, 0)
    features, _ = gaussians(40, 6, 1.5, 1)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2))).Q

    def moved(x):
        return 7 * x @ rotation + 3

    torch.testing.assert_close(
        class_log_probabilities(moved(support), labels, moved(features)),
        class_log_probabilities(support, labels, features),
        rtol=1e-3,
        atol=1e-4,
    )


def test_features_without_information_give_the_shares_of_the_classes():
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    found = class_log_probabilities(torch.ones(8, 3), labels, torch.randn(4, 3))
    torch.testing.assert_close(found.exp(), torch.tensor([0.75, 0.25]).double().expand(4, 2))
    noise = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))
    found = class_log_probabilities(noise, torch.arange(80) % 2, noise + 10)
    assert bool(((found.exp() - 0.5).abs() < 0.25).all())


def test_a_support_set_without_an_error_does_not_make_it_infinitely_sure():
    support, labels = gaussians(100, 8, 40.0, 0, classes=2)
    strange = 200 * torch.randn(500, 8, generator=torch.Generator().manual_seed(3))
    found = class_log_probabilities(support, labels, strange)
    assert found.min() >= math.log(0.5 / 101) - 1e-9
    assert found.exp().max() < 1 - 0.4 / 101
    nearly = support + 0.5
    assert bool((class_log_probabilities(support, labels, nearly).gather(1, labels[:, None]) > -0.05).all())


def test_more_dimensions_than_examples_are_no_obstacle():
    support, labels = gaussians(40, 200, 8.0, 0)
    features, truth = gaussians(300, 200, 8.0, 1)
    assert (class_log_probabilities(support, labels, features).argmax(1) == truth).double().mean() > 0.9


@pytest.mark.parametrize(
    ("support", "labels", "features", "message"),
    [
        (torch.ones(4), torch.tensor([0, 0, 1, 1]), torch.ones(2, 1), "`support` must be a floating-point tensor"),
        (torch.full((4, 1), torch.nan), torch.tensor([0, 0, 1, 1]), torch.ones(2, 1), "`support` must be finite"),
        (torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), torch.ones(2, 1), "must have the same dimension, got 2 and 1"),
        (
            torch.ones(4, 1),
            torch.tensor([0.0, 0, 1, 1]),
            torch.ones(2, 1),
            "`support_labels` must be a tensor",
        ),
        (
            torch.ones(4, 1),
            torch.tensor([-1, 0, 1, 1]),
            torch.ones(2, 1),
            "`support_labels` must be integers of at least 0",
        ),
        (torch.ones(4, 1), torch.tensor([0, 0, 0, 1]), torch.ones(2, 1), r"two examples of each.* are \[3, 1\]"),
        (torch.ones(4, 1), torch.tensor([0, 0, 2, 2]), torch.ones(2, 1), r"without gaps.* are \[2, 0, 2\]"),
    ],
)
def test_bad_input_is_refused_by_name(support, labels, features, message):
    with pytest.raises(ValueError, match=message):
        class_log_probabilities(support, labels, features)


def test_a_covariance_that_is_a_multiple_of_the_identity_stays_as_it_is():
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    torch.testing.assert_close(shrunk_covariance(axes), torch.eye(3).double() / 3)
    torch.testing.assert_close(shrunk_covariance(axes[:, :1], 3), torch.ones(1, 1).double() * 2 / 3)
