"""The items of a benchmark and the log-likelihoods of their labels, whatever the batches and the processes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from synbench_lightning.benchmark.tasks import Benchmark, check_log_likelihood
from synbench_lightning.functional.representation.class_probabilities import class_log_probabilities
from synbench_lightning.runtime.collectives import SingleProcess
from synbench_lightning.runtime.features import FeatureReader
from tests.threaded_processes import on_processes

CPU = torch.device("cpu")
G = torch.Generator().manual_seed(0)
X = torch.randn(90, 3, generator=G)
Y = (X[:, 0] > 0).long()
NUMBERS = {"one": TensorDataset(torch.arange(30.0)), "other": TensorDataset(torch.arange(100.0, 117.0))}
PICTURES = {"sign": TensorDataset(X[:60], Y[:60]), "third": TensorDataset(X[60:], torch.arange(30) % 3)}


def made(tasks=NUMBERS, support=0, batch_size=7, seed=0):
    return Benchmark(tasks, support=support, batch_size=batch_size, seed=seed)


def evaluated(benchmark, answer, places=None, processes=None, progress=None):
    places = torch.arange(len(benchmark.tasks)) if places is None else places
    return benchmark.log_likelihoods(answer, places, processes or SingleProcess(), progress, CPU, FeatureReader(None))


def minus(batch):
    return -batch[0]


@pytest.mark.parametrize("batch_size", [1, 7, 30, 1000])
def test_values_stand_where_their_items_do(batch_size):
    sizes, done = [], []

    def answer(batch):
        sizes.append(len(batch[0]))
        return minus(batch)

    benchmark = made(batch_size=batch_size)
    found = evaluated(benchmark, answer, progress=lambda *told: done.append(told))
    assert found.dtype == torch.float64
    assert found.tolist() == [-value for dataset in NUMBERS.values() for value in dataset.tensors[0].tolist()]
    assert benchmark.tasks.tolist() == [0] * 30 + [1] * 17
    assert benchmark.settings == {"one": 30, "other": 17}
    assert max(sizes) <= batch_size
    assert len(sizes) == -(-30 // batch_size) + -(-17 // batch_size)
    assert done[-1] == (47, 47)
    assert [examples for examples, _ in done] == torch.tensor(sizes).cumsum(0).tolist()
    places = torch.tensor([40, 3, 29, 30, 0])
    assert torch.equal(evaluated(benchmark, minus, places), found[places])
    assert evaluated(benchmark, minus, torch.tensor([31])).tolist() == [-101.0]


@pytest.mark.parametrize("lockstep", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_find_the_values_of_one_and_make_as_many_forwards_where_these_are_collective(size, lockstep):
    def work(processes):
        calls, done = [], []

        def answer(batch):
            calls.append(len(batch[0]))
            return minus(batch)

        found = evaluated(made(), answer, processes=processes, progress=lambda *told: done.append(told))
        return found, len(calls), done

    found = on_processes(size, work, lockstep)
    alone = evaluated(made(), minus)
    for values, _, done in found:
        assert torch.equal(values, alone)
        assert {total for _, total in done} <= {-(-47 // size)}
        assert all(examples <= total for examples, total in done)
    if lockstep:
        assert len({calls for _, calls, _ in found}) == 1


def test_the_readout_is_fitted_to_random_support_examples_and_judges_all_others():
    benchmark = made(PICTURES, support=20, batch_size=16, seed=3)
    assert benchmark.settings == {"sign": 40, "third": 10}
    found = evaluated(benchmark, lambda x: 2 * x)
    for index, (name, dataset) in enumerate(PICTURES.items()):
        x, y = dataset.tensors
        items = benchmark.indices[name]
        rest = np.setdiff1d(np.arange(len(x)), items.numpy())
        assert len(rest) == 20
        assert items.tolist() == sorted(items.tolist())
        expected = class_log_probabilities(2 * x[rest], y[rest], 2 * x[items]).gather(1, y[items, None])[:, 0]
        torch.testing.assert_close(found[benchmark.tasks == index], expected, rtol=0.2, atol=0.2)
    again, other = (made(PICTURES, support=20, seed=seed).indices["sign"].tolist() for seed in (3, 4))
    assert again == benchmark.indices["sign"].tolist() != other
    twice = made({"a": PICTURES["sign"], "b": PICTURES["sign"]}, support=20).indices
    assert twice["a"].tolist() != twice["b"].tolist()


@pytest.mark.parametrize(("share", "points"), [(0.1, 5), (0.01, 4), (0.5, 24), (1.0, 47), (0.08, 4), (0.12, 6)])
def test_a_fraction_of_the_items_is_at_least_two_of_each_task(share, points):
    assert made().points(share) == points
    small = {"a": TensorDataset(torch.arange(2.0)), "b": TensorDataset(torch.arange(2.0))}
    assert made(small).points(0.1) == 4
    assert made({"a": TensorDataset(torch.arange(3.0))}).points(1.0) == 3


@pytest.mark.parametrize(
    ("tasks", "support", "message"),
    [
        ([], 0, "`tasks` must be a non-empty mapping of names to datasets"),
        ({"a": iter([1])}, 0, "`tasks`: 'a' must be a dataset with a length and items by index, got a list_iterator"),
        ({"a": {1, 2, 3}}, 0, "`tasks`: 'a' must be a dataset with a length and items by index, got a set"),
        ({"a": [1.0]}, 0, "`tasks`: 'a' has 1 examples; at least 2 are needed, 0 to"),
        (PICTURES, 29, "`tasks`: 'third' has 30 examples; at least 31 are needed, 29 to"),
    ],
)
def test_tasks_that_are_none_are_refused(tasks, support, message):
    with pytest.raises(ValueError, match=message):
        made(tasks, support)
    made({"a": [1.0, 2.0]})
    made(PICTURES, 28)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda batch: 3.0, r"must return a floating-point tensor of shape \(10,\) .* 'one', .* got float"),
        (lambda batch: batch[0].long(), r"must return a floating-point tensor of shape .* got \(10,\)"),
        (lambda batch: -batch[0][:, None], r"got \(10, 1\)"),
        (lambda batch: batch[0] - 110, "for the task 'other' they are not"),
        (lambda batch: -batch[0] / (batch[0] - 100).abs().sign(), "for the task 'other' they are not"),
        (lambda batch: -batch[0] + 1.5e-6, "for the task 'one' they are not"),
    ],
)
def test_answers_that_are_no_log_likelihoods_are_refused(answer, message):
    with pytest.raises(ValueError, match=message):
        evaluated(made(batch_size=10), answer)


def test_answers_are_log_likelihoods_up_to_rounding_or_right_and_wrong():
    assert evaluated(made(), lambda batch: -batch[0] + 0.9e-6)[0] > 0
    graded = evaluated(made(), lambda batch: (batch[0] > 20).float())
    assert graded.unique().tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="must be finite and at most 0"):
        evaluated(made(), lambda batch: (batch[0] > 20).float() / 2)


@pytest.mark.parametrize(
    ("data", "answer", "message"),
    [
        (TensorDataset(X), None, r"examples of the task 'a' must be pairs \(input, label\) for the built-in readout"),
        (TensorDataset(X, Y.float()), None, "labels of the task 'a' must be integers, .* got torch.float32 of shape"),
        (TensorDataset(X, Y[:, None]), None, r"labels of the task 'a' must be integers, .* of shape \(\d+, 1\) for"),
        (TensorDataset(X, Y), lambda x: x / (X[0] != x).any(1, keepdim=True), "infinite for 1 of 90 examples of the"),
        (TensorDataset(X, 0 * Y), None, "The readout of the task 'a', of 20 examples: .*at least two classes"),
    ],
)
def test_features_and_labels_that_cannot_be_read_out_are_refused(data, answer, message):
    with pytest.raises(ValueError, match=message):
        evaluated(made({"a": data}, support=20, batch_size=100), answer or (lambda x: x))


def test_a_label_that_no_support_example_has_is_refused():
    benchmark = made({"a": TensorDataset(X, Y)}, support=20)
    labels = Y.clone()
    labels[benchmark.indices["a"][5]] = 2
    with pytest.raises(ValueError, match="The task 'a' has the label 2, of which no example is among the 20"):
        evaluated(made({"a": TensorDataset(X, labels)}, support=20), lambda x: x)


class Changing(Dataset):
    """Examples of which some are others each time they are read."""

    def __init__(self, example, changed):
        self.example, self.changed, self.reads = example, changed, 0

    def __len__(self):
        return 40

    def __getitem__(self, index):
        self.reads += 1
        return self.example(index + (self.reads / 1000 if index in self.changed else 0))


KINDS = {
    "tensors": lambda value: (torch.tensor([float(value)]), 1),
    "arrays": lambda value: {"x": np.array([float(value)]), "y": torch.tensor([0.0])},
    "numbers": lambda value: [torch.ones(1), float(value)],
    "nested": lambda value: {"a": (torch.ones(1), [torch.tensor([float(value)])])},
}


@pytest.mark.parametrize("name", KINDS)
def test_an_example_that_changes_is_named_whatever_its_structure(name):
    benchmark = made({"a": Changing(KINDS[name], {5, 6})}, batch_size=10)
    with pytest.raises(ValueError, match="`tasks`: the example 5 of 'a' is another one each time it is read"):
        evaluated(benchmark, lambda batch: torch.zeros(10))
    same = Changing(KINDS[name], set())
    benchmark = made({"a": same}, batch_size=10)
    for _ in range(2):
        evaluated(benchmark, lambda batch: torch.zeros(10))
    assert same.reads == 40 + 8 + 40  # eight examples are read twice, once


def test_examples_with_nan_are_the_same_and_those_of_another_length_are_not():
    empty = Changing(lambda value: (torch.tensor([torch.nan]), np.array([np.nan]), float("nan")), {0})
    evaluated(made({"a": empty}, batch_size=10), lambda batch: torch.zeros(10))
    for grows in (lambda value: torch.zeros(int(1000 * value) % 1000 + 1), lambda value: [0.0] * int(1000 * value + 1)):
        with pytest.raises(ValueError, match="the example 0 of 'a' is another one"):
            evaluated(made({"a": Changing(grows, {0})}, batch_size=1), lambda batch: torch.zeros(1))


def test_a_data_loader_collates():
    loader = DataLoader(NUMBERS["one"], collate_fn=lambda rows: [torch.stack([x for (x,) in rows]) + 1000])
    assert evaluated(made({"a": loader}), minus)[3] == -1003


def test_log_likelihoods_are_functions():
    check_log_likelihood(None)
    check_log_likelihood(minus)
    for wrong in (3, nn.Linear(1, 1), nn.Linear):
        with pytest.raises(ValueError, match=r"`log_likelihood` must be a callable \(module, batch\)"):
            check_log_likelihood(wrong)
