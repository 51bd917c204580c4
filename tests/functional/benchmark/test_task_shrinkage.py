import numpy as np
import pytest
import torch

from synbench_lightning.functional.benchmark.confidence_intervals import Estimate
from synbench_lightning.functional.benchmark.task_shrinkage import correlations, related_tasks

NONE = torch.zeros(5, dtype=torch.bool)
MIX = torch.tensor([1.0, 0.8, 1.2, 0.9, 1.1])


def evaluations(count, seed=0):
    """Values of five tasks with a common factor, mean (0, 1, 2, 3, 4) and a deviation of .3 each."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(count, 1, generator=generator)
    return torch.arange(5) + MIX * factor + 0.3 * torch.randn(count, 5, generator=generator)


def estimated(values, errors, seed=1, freedom=8.0):
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(seed)) * errors
    each = (values + noise).T
    return [Estimate(value, torch.full_like(value, errors), torch.full_like(value, freedom)) for value in each]


def test_related_tasks_are_known_better_from_each_other_and_their_intervals_cover():
    known, new = evaluations(20), evaluations(400, seed=2)
    given = estimated(new, 1.0)
    found = related_tasks(given, known, NONE)
    value = torch.stack([task.value for task in found], 1)
    assert (value - new).square().mean().sqrt() < 0.6
    low, high = (torch.stack(ends, 1) for ends in zip(*(task.interval() for task in found), strict=True))
    assert 0.93 < float(((low <= new) & (new <= high)).double().mean()) < 0.99


def test_with_many_evaluations_and_a_known_error_it_is_the_best_linear_prediction():
    known = evaluations(20000)
    new = evaluations(3, seed=2)
    found = related_tasks(estimated(new, 0.5), known, NONE)
    covariance = MIX[:, None] * MIX + 0.09 * torch.eye(5)
    spread = covariance.diagonal().sqrt()
    common = (covariance / spread / spread[:, None])[~torch.eye(5, dtype=torch.bool)].mean()
    covariance = covariance + 100 * common * spread * spread[:, None]  # the shared shift is free
    given = torch.stack([task.value for task in estimated(new, 0.5)], 1)
    gain = covariance @ torch.linalg.inv(covariance + 0.25 * torch.eye(5))
    expected = torch.arange(5) + (given - torch.arange(5)) @ gain.T
    assert torch.allclose(torch.stack([task.value for task in found], 1), expected.double(), atol=0.05)


def test_a_shift_that_all_tasks_share_is_left_to_the_points():
    known = evaluations(10)
    given = [Estimate(*torch.tensor([task + 30.0 * MIX[task], 1.0, 9.0])) for task in range(5)]
    moved = torch.stack([task.value for task in related_tasks(given, known, NONE)])
    assert float((moved - torch.arange(5)).mean()) == pytest.approx(30.0, rel=0.03)


def test_exact_and_certain_tasks_stay_as_they_are():
    known, new = evaluations(10), evaluations(4, seed=2)
    exact = torch.tensor([True, False, False, False, False])
    found = related_tasks(estimated(new, 1.0), known, exact)
    assert torch.equal(found[0].value, estimated(new, 1.0)[0].value.double())
    assert found[0].standard_error.tolist() == [0.0] * 4
    certain = related_tasks(estimated(new, 1e-4), known, NONE)
    assert torch.allclose(torch.stack([task.value for task in certain], 1), new.double(), atol=1e-3)


@pytest.mark.parametrize("known", [evaluations(3), evaluations(8)[:, :1]])
def test_too_few_evaluations_or_a_single_task_change_nothing(known):
    given = estimated(evaluations(2, seed=2)[:, : known.shape[1]], 1.0)
    found = related_tasks(given, known, NONE[: known.shape[1]])
    assert all(torch.equal(one.value, other.value) for one, other in zip(found, given, strict=True))


def test_a_task_with_a_single_point_takes_the_error_of_the_others():
    known, new = evaluations(10), evaluations(2, seed=2)
    given = estimated(new, 0.5)
    given[1] = Estimate(given[1].value, torch.full((2,), torch.inf), torch.zeros(2))
    found = related_tasks(given, known, NONE)
    assert all(bool(torch.isfinite(task.value).all() & torch.isfinite(task.standard_error).all()) for task in found)
    silent = [task._replace(standard_error=torch.full((2,), torch.inf)) for task in given]
    assert related_tasks(silent, known, NONE)[0].standard_error.tolist() == [torch.inf] * 2


def test_the_error_of_a_task_without_one_is_the_mean_of_the_others():
    known, new = evaluations(10), evaluations(2, seed=2)
    given = [
        task._replace(standard_error=task.standard_error * (1 + at)) for at, task in enumerate(estimated(new, 0.5))
    ]
    others = torch.stack([task.standard_error.square() for task in given[1:]]).mean(0).sqrt()
    none, mean = (given[0]._replace(standard_error=one, degrees_of_freedom=torch.zeros(2)) for one in (
        torch.full((2,), torch.inf), others))  # fmt: skip
    found, expected = (related_tasks([first, *given[1:]], known, NONE) for first in (none, mean))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_correlations_are_shrunk_to_their_mean_by_the_tasks_among_tasks_and_evaluations():
    known = evaluations(15)
    raw = np.corrcoef(known.double().numpy(), rowvar=False)
    mean = raw[~np.eye(5, dtype=bool)].mean()
    expected = 0.75 * raw + 0.25 * mean
    np.fill_diagonal(expected, 1.0)
    np.testing.assert_allclose(correlations(known).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("turns", [2, 3, 50])
def test_correlations_are_positive_definite_even_for_tasks_that_never_move(turns):
    known = torch.stack([torch.arange(turns).double()] * 6 + [torch.ones(turns)], 1)
    assert torch.linalg.eigvalsh(correlations(known)).min() > 0.01
    assert torch.allclose(correlations(known).diagonal(), torch.ones(7, dtype=torch.float64))


def test_four_complete_evaluations_are_needed():
    given = estimated(evaluations(4, seed=2), 1.0)
    assert related_tasks(given, evaluations(3), NONE) == given
    drawn = related_tasks(given, evaluations(4), NONE)
    assert all(bool((one.value != other.value).any()) for one, other in zip(given, drawn, strict=True))


def test_intervals_from_few_complete_evaluations_are_as_wide_as_those_of_the_next_draw():
    # Without any points of its own a task is a further draw: its error is that of a normal mean of T and one more.
    found = [
        related_tasks(estimated(evaluations(1, seed=2), 1e6), evaluations(turns), NONE)[0].standard_error.item()
        / evaluations(turns).double().std(0)[0].item()
        for turns in (5, 9)
    ]
    few, more = ((1 + 1 / turns) * (turns - 1) / (turns - 3) for turns in (5, 9))
    assert found[0] / found[1] == pytest.approx((few / more) ** 0.5, rel=0.1)
