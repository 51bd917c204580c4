import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone, is_classifier
from sklearn.datasets import load_digits, load_iris
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from synbench_lightning import RobustLinearProbe
from synbench_lightning.functional.gaussian.discriminant import accuracy_and_bound


def gaussians(classes=2, n=400, dim=6, seed=0):
    generator = np.random.default_rng(seed)
    means, mixing = generator.standard_normal((classes, dim)), generator.standard_normal((dim, dim))
    labels = np.arange(n) % classes
    return means[labels] + generator.standard_normal((n, dim)) @ mixing, labels


@pytest.mark.parametrize("epsilon", [0.0, 0.2, 0.7])
def test_for_two_classes_it_is_the_discriminant_that_synbench_scores(epsilon):
    features, labels = gaussians()
    train, test = slice(0, 200), slice(200, None)
    x, y = torch.tensor(features), torch.tensor(labels)
    accuracy, bound = accuracy_and_bound(x[train], y[train], x[test], y[test], [epsilon])
    probe = RobustLinearProbe(epsilon).fit(features[train], labels[train])
    assert probe.score(features[test], labels[test]) == accuracy.item()
    margins = probe.decision_function(features[test]) * (2 * labels[test] - 1)
    assert margins[margins > 0].mean() == pytest.approx(bound.item())


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_at_epsilon_zero_it_is_linear_discriminant_analysis(classes):
    features, labels = gaussians(classes)
    reference = LinearDiscriminantAnalysis(priors=np.full(classes, 1 / classes)).fit(features, labels)
    probe = RobustLinearProbe().fit(features, labels)
    others = gaussians(classes, seed=1)[0]
    assert (probe.predict(others) == reference.predict(others)).all()


def test_a_larger_epsilon_turns_the_weights_towards_the_difference_of_the_means():
    features, labels = gaussians()
    difference = features[labels == 1].mean(0) - features[labels == 0].mean(0)
    cosines = []
    for epsilon in (0.0, 0.1, 0.3, 0.6, 0.9, 0.999):
        weight = RobustLinearProbe(epsilon).fit(features, labels).coef_[0]
        cosines.append(weight @ difference / np.linalg.norm(weight) / np.linalg.norm(difference))
    assert cosines == sorted(cosines)
    assert cosines[-1] == pytest.approx(1, abs=1e-3)


def test_the_rule_has_the_largest_accuracy_under_the_shift_that_it_is_for():
    # Shifts of length epsilon |mu| against the classes cost w'mu the amount |w| epsilon |mu|: exact, for Gaussians.
    features, labels = gaussians(n=4000, dim=4)
    centred = features - np.stack([features[labels == label].mean(0) for label in (0, 1)])[labels]
    covariance = centred.T @ centred / (len(features) - 2)
    mu = (features[labels == 1].mean(0) - features[labels == 0].mean(0)) / 2
    epsilons = np.array([0.0, 0.2, 0.4, 0.6, 0.8])
    weights = np.stack([RobustLinearProbe(epsilon).fit(features, labels).coef_[0] for epsilon in epsilons])
    reach = weights @ mu - epsilons[:, None] * np.linalg.norm(weights, axis=1) * np.linalg.norm(mu)
    reach /= np.sqrt(np.einsum("pi,ij,pj->p", weights, covariance, weights))  # rows: shifts, columns: rules
    assert (reach.argmax(1) == np.arange(5)).all()


def test_scaling_and_rotating_the_features_changes_no_prediction():
    features, labels = gaussians(4)
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    plain = RobustLinearProbe(0.3).fit(features, labels).predict(features)
    for factor in (1e-4, 1e4):
        moved = factor * features @ rotation + 3
        assert (RobustLinearProbe(0.3).fit(moved, labels).predict(moved) == plain).all()


def test_classes_count_the_same_however_often_they_are_seen():
    features, labels = gaussians(n=4000)
    keep = (labels == 0) | (np.arange(4000) % 20 == 1)
    rare, even = (RobustLinearProbe().fit(x, y) for x, y in ((features[keep], labels[keep]), (features, labels)))
    assert np.mean(rare.predict(features) == even.predict(features)) > 0.95


def test_it_works_in_scikit_learns_tools():
    features, names = load_iris(return_X_y=True)
    labels = np.array(["setosa", "versicolor", "virginica"])[names]
    assert is_classifier(RobustLinearProbe())
    assert clone(RobustLinearProbe(0.3)).epsilon == 0.3
    assert cross_val_score(RobustLinearProbe(0.1), features, labels).mean() > 0.9
    search = GridSearchCV(
        make_pipeline(StandardScaler(), RobustLinearProbe()), {"robustlinearprobe__epsilon": [0.0, 0.2, 0.5]}
    ).fit(features, labels)
    assert search.best_score_ > 0.9
    assert search.predict(features[:2]).tolist() == ["setosa", "setosa"]


def test_constant_dimensions_are_left_out():
    features, labels = load_digits(return_X_y=True)  # some pixels are 0 in all images
    probe = RobustLinearProbe(0.2).fit(features[:1000], labels[:1000])
    assert probe.score(features[1000:], labels[1000:]) > 0.88
    assert np.isfinite(probe.coef_).all()


def test_tensors_are_accepted_and_a_fitted_probe_is_pickled():
    features, labels = gaussians(3)
    probe = RobustLinearProbe().fit(torch.tensor(features, requires_grad=True), torch.tensor(labels))
    copied = pickle.loads(pickle.dumps(probe))
    assert (copied.predict(torch.tensor(features)) == probe.predict(features)).all()
    assert repr(copied) == "RobustLinearProbe(epsilon=0.0)"


@pytest.mark.parametrize(
    ("epsilon", "features", "labels", "message"),
    [
        (1.0, *gaussians(), r"`epsilon` must be a number in \[0, 1\), got 1.0"),
        (0.0, np.ones(4), [0, 1, 0, 1], r"`X` must be features of shape \(samples, dimensions\), got \(4,\)"),
        (0.0, np.full((4, 2), np.nan), [0, 1, 0, 1], "`X` must be finite, got NaN or infinity in 4 of 4 rows"),
        (0.0, np.ones((4, 2)), [0, 1], r"`y` must hold one label for each of the 4 rows of `X`, got shape \(2,\)"),
        (0.0, np.ones((4, 2)), [5, 5, 5, 5], r"`y` must hold at least two classes, got only \[5\]"),
        (0.0, np.ones((4, 2)), [0, 1, 0, 1], "`X` must vary within the classes"),
        (0.0, np.eye(2), ["a", "b"], "2 samples of 2 classes"),
        (0.0, [[0.0], [1.0], [0.0], [1.0]], ["a", "a", "b", "b"], "does not separate the classes 'a' and 'b'"),
    ],
)
def test_what_cannot_be_fitted_is_refused(epsilon, features, labels, message):
    with pytest.raises(ValueError, match=message):
        RobustLinearProbe(epsilon).fit(features, labels)


def test_wrong_use_is_refused():
    features, labels = gaussians()
    with pytest.raises(ValueError, match="not fitted yet"):
        RobustLinearProbe().predict(features)
    with pytest.raises(ValueError, match="`X` must have the 6 dimensions that were fitted, got 2"):
        RobustLinearProbe().fit(features, labels).predict(features[:, :2])
    with pytest.raises(ValueError, match="has the parameter `epsilon`, got alpha"):
        RobustLinearProbe().set_params(alpha=1)


def test_scikit_learn_is_not_needed():
    code = """
import sys
sys.modules["sklearn"] = None
import torch
from synbench_lightning import RobustLinearProbe
x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
print(RobustLinearProbe(0.1).fit(x, x[:, 0] > 0).score(x, x[:, 0] > 0))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert float(found.stdout) > 0.9, found.stderr


def test_margins_of_several_classes_are_the_smallest_over_the_others():
    features, labels = gaussians(4, n=200)
    probe = RobustLinearProbe(0.2).fit(features, labels)
    assert probe.pairs_.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert (probe.coef_.shape, probe.intercept_.shape, probe.n_features_in_) == ((6, 6), (6,), 6)
    found = probe.decision_function(features[:5])
    of_pairs = features[:5] @ probe.coef_.T + probe.intercept_
    for label in range(4):
        own = [
            of_pairs[:, row] * (1 if second == label else -1)
            for row, (first, second) in enumerate(probe.pairs_.tolist())
            if label in (first, second)
        ]
        np.testing.assert_allclose(found[:, label], np.min(own, axis=0))
    means = np.stack([features[labels == label].mean(0) for label in range(4)])
    for row, (first, second) in enumerate(probe.pairs_.tolist()):
        margins = means[[first, second]] @ probe.coef_[row] + probe.intercept_[row]
        np.testing.assert_allclose(margins, [-1, 1], atol=1e-9)


def test_a_point_on_the_boundary_is_of_the_first_class():
    probe = RobustLinearProbe().fit([[-1.5], [-0.5], [0.5], [1.5]], ["a", "a", "b", "b"])
    assert probe.predict([[0.0], [1e-9], [-1e-9]]).tolist() == ["a", "b", "a"]


def test_parameters_are_read_and_set():
    probe = RobustLinearProbe(0.3)
    assert probe.get_params() == {"epsilon": 0.3}
    assert probe.set_params() is probe
    assert probe.set_params(epsilon=0.4).epsilon == 0.4
    assert RobustLinearProbe().epsilon == 0.0


def test_one_sample_more_than_classes_is_enough_and_labels_of_two_kinds_are_refused():
    probe = RobustLinearProbe().fit([[0.0, 0.0], [1.0, 0.5], [5.0, 5.0]], [0, 0, 1])
    assert probe.predict([[5.0, 5.0], [0.0, 0.0]]).tolist() == [1, 0]
    for labels in ([0, None, 1], [[0], [1, 2], [3]]):
        with pytest.raises(ValueError, match="`y` must hold one label for each of the 3 rows of `X`"):
            RobustLinearProbe().fit([[0.0], [1.0], [5.0]], labels)
    with pytest.raises(ValueError, match=r"`X` must be features of shape \(samples, dimensions\), got \(0, 2\)"):
        RobustLinearProbe().fit(np.ones((0, 2)), [])
    with pytest.raises(ValueError, match="got NaN or infinity in 1 of 3 rows"):
        RobustLinearProbe().fit([[0.0, np.nan], [1.0, 1.0], [5.0, 2.0]], [0, 0, 1])
