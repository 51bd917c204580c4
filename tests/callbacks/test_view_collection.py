import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy

from synbench_lightning.callbacks.view_collection import ViewCollection

ALONE = SingleDeviceStrategy("cpu")


def batch(first, examples, shape=(4,)):
    """Three views of examples that are numbered from ``first`` on."""
    numbers = torch.arange(first, first + examples).view(-1, *[1] * len(shape)).expand(-1, *shape).float()
    return [numbers, numbers + 0.25, numbers + 0.5]


def test_two_views_of_1024_examples_are_taken_from_as_many_batches_as_that_takes():
    first = ViewCollection()
    first.begin(ALONE, batch(0, 400), (4,), pairs=True)
    assert first.collecting
    assert first.kept is None
    assert not first.add(ALONE, batch(400, 400))
    assert first.add(ALONE, batch(800, 400))
    assert not first.collecting
    assert first.kept.shape == (1024, 2, 4)
    assert first.kept[:, 0, 0].tolist() == list(range(1024))
    assert (first.kept[:, 1] - first.kept[:, 0] == 0.25).float().mean() > 0.2  # half precision rounds larger numbers


def test_a_batch_without_views_adds_nothing_and_is_counted():
    first = ViewCollection()
    first.begin(ALONE, batch(0, 20), (4,), pairs=True)
    assert not first.add(ALONE, torch.ones(8, 4))
    with pytest.warns(UserWarning, match="first 2 batches hold views of 20 examples, at least 32 are needed"):
        assert not first.end(ALONE)
    assert not first.collecting
    assert first.kept is None


def test_views_of_one_epoch_suffice_where_there_are_32():
    first = ViewCollection()
    first.begin(ALONE, batch(0, 40), (4,), pairs=True)
    assert first.end(ALONE)
    assert first.kept.shape == (40, 2, 4)


@pytest.mark.parametrize(("budget", "expected"), [(4096, 256), (160, 32)])
def test_pairs_fit_the_budget_or_are_as_many_as_are_needed(monkeypatch, budget, expected):
    monkeypatch.setattr("synbench_lightning.callbacks.view_collection.NOISE_BUDGET_BYTES", budget)
    first = ViewCollection()
    first.begin(ALONE, batch(0, 400), (4,), pairs=True)
    assert first.kept.shape == (expected, 2, 4)
    assert first.kept.nbytes <= budget or expected == 32


def test_what_was_kept_stays():
    first = ViewCollection()
    first.begin(ALONE, torch.ones(40, 4), (4,), pairs=True)
    first.begin(ALONE, torch.zeros(40, 4), (4,), pairs=True)
    assert first.kept.all()


def test_the_first_inputs_are_taken_where_views_are_not_looked_for():
    first = ViewCollection()
    first.begin(ALONE, batch(0, 200), (4,), pairs=False)
    assert first.kept[:, 0].tolist() == list(range(128))
