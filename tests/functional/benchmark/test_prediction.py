import pytest
import torch

from synbench_lightning.functional.benchmark.estimation import mean_of_tasks
from synbench_lightning.functional.benchmark.prediction import change_of_benchmark, choose_points, predict_tasks

TASKS = torch.tensor([0] * 120 + [1] * 60)
GENERATOR = torch.Generator().manual_seed(0)
SHAPES = torch.randn(14, 6, generator=GENERATOR).cumsum(0)
KIND = torch.randint(6, (180,), generator=GENERATOR)
CURVES = -(SHAPES[:, KIND] - 5 + 0.01 * torch.randn(14, 180, generator=GENERATOR)).abs()
EARLIER, LATER = CURVES[:10], CURVES[10:]
METHODS = ["clusters", "loss", "random"]


def truth(values):
    return torch.stack([values[..., task == TASKS].double().mean(-1) for task in (0, 1)])


def predicted(method, budget, seed=0):
    selection = choose_points(EARLIER, TASKS, budget, method, seed)
    return predict_tasks(LATER[:, selection.indices], selection, EARLIER, TASKS)


@pytest.mark.parametrize("method", METHODS)
def test_all_points_give_the_exact_values(method):
    found = predicted(method, 180)
    torch.testing.assert_close(torch.stack([estimate.value for estimate in found]), truth(LATER))
    assert all(bool((estimate.standard_error == 0).all()) for estimate in found)


def test_points_that_come_in_kinds_are_predicted_from_one_of_each():
    found = torch.stack([estimate.value for estimate in predicted("clusters", 12)])
    drawn = torch.stack([estimate.value for estimate in predicted("random", 12)])
    assert (found - truth(LATER)).abs().max() < 0.05
    assert (found - truth(LATER)).abs().mean() < 0.2 * (drawn - truth(LATER)).abs().mean()


@pytest.mark.parametrize("method", ["loss", "random"])
def test_drawn_points_predict_without_bias(method):
    found = torch.stack(
        [torch.stack([estimate.value[0] for estimate in predicted(method, 20, seed)]) for seed in range(600)]
    )
    scatter = found.std(0) / 600**0.5
    assert bool(((found.mean(0) - truth(LATER)[:, 0]).abs() < 4 * scatter).all())


@pytest.mark.parametrize("method", METHODS)
def test_the_change_is_the_difference_of_the_predictions(method):
    selection = choose_points(EARLIER, TASKS, 20, method)
    value = mean_of_tasks(predicted(method, 20)).value
    seen = LATER[:, selection.indices]
    change = change_of_benchmark(seen[1:] - seen[:-1], selection, TASKS)
    torch.testing.assert_close(change.value, value.diff(), rtol=0, atol=1e-6)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="`method` must be 'loss', 'clusters' or 'random', got 'best'"):
        choose_points(EARLIER, TASKS, 20, "best")
