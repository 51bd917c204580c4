import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from synbench_lightning.functional.representation.information import replicates_error
from synbench_lightning.functional.representation.readout import GROUPS, PENALTIES, few_label_readout


def examples(n=40, dim=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    return torch.randn(n, dim, generator=generator).double() + 2 * torch.eye(dim).double()[labels], labels


def test_it_is_a_loop_over_left_out_examples():
    features, labels = examples()
    one_hot = np.eye(4)[labels]
    total = float((features - features.mean(0)).square().sum())
    found = {}
    for penalty in PENALTIES:
        ridge = Ridge(alpha=penalty * total)
        told = cross_val_predict(ridge, features.numpy(), one_hot, cv=LeaveOneOut())
        found[float(np.square(one_hot - told).sum())] = told
    others = (one_hot.sum(0) - one_hot) / (len(one_hot) - 1)
    readout = few_label_readout(features, labels)
    assert readout.value == pytest.approx(1 - min(found) / np.square(one_hot - others).sum(), rel=1e-6)
    assert readout.right.tolist() == (found[min(found)].argmax(1) == labels.numpy()).tolist()


def test_it_does_not_depend_on_rotation_scale_shift_or_the_names_of_classes():
    features, labels = examples()
    turn = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(1)).double()).Q
    expected = few_label_readout(features, labels)
    found = few_label_readout(5 * features @ turn + 2, 10 - 3 * labels)
    assert found.value == pytest.approx(expected.value)
    assert found.error == pytest.approx(expected.error)


def test_features_that_know_nothing_tell_nothing_and_constant_ones_neither():
    labels = torch.arange(200) % 5
    noise = torch.randn(200, 20, generator=torch.Generator().manual_seed(0))
    assert abs(few_label_readout(noise, labels).value) < 0.05
    assert few_label_readout(torch.full((200, 20), 0.1), labels).value == 0
    assert few_label_readout(torch.eye(5)[labels], labels).value == pytest.approx(1, abs=1e-4)


def test_the_standard_error_is_the_scatter_over_examples():
    found = [few_label_readout(*examples(100, 10, seed)) for seed in range(60)]
    scatter = float(np.std([readout.value for readout in found]))
    assert np.mean([readout.error for readout in found]) == pytest.approx(scatter, rel=0.3)


def test_features_that_are_zero_have_no_readout():
    found = few_label_readout(torch.zeros(6, 2), torch.tensor([0, 0, 0, 0, 1, 1]))
    assert (found.value, found.error) == (0.0, 0.0)
    assert found.right.tolist() == [True] * 4 + [False] * 2  # the most frequent class is answered


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_which_ridge_is_best_does_not_depend_on_the_scale(scale):
    x, y = examples()
    assert few_label_readout(scale * x, y).value == pytest.approx(few_label_readout(x, y).value, abs=1e-6)


def test_replicates_are_the_value_without_each_group_of_examples():
    features, labels = examples(100, 10)
    found = few_label_readout(features, labels)
    assert found.replicates.shape == (1, GROUPS)
    (replicates,) = found.replicates
    assert float(replicates_error(found.replicates)) == pytest.approx(found.error, rel=0.4)
    assert float(replicates.mean()) == pytest.approx(found.value, abs=1e-3)


def test_the_error_of_a_difference_is_its_scatter_over_examples():
    differences, errors, single = [], [], []
    for seed in range(60):
        features, labels = examples(100, 10, seed)
        one, worse = few_label_readout(features, labels), few_label_readout(features[:, :8], labels)
        differences.append(one.value - worse.value)
        errors.append(float(replicates_error(one.replicates - worse.replicates)))
        single.append(float(np.hypot(one.error, worse.error)))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.3)
    assert np.mean(errors) < np.mean(single)
