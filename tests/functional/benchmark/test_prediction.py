import pytest
import torch

from synbench_lightning.functional.benchmark.confidence_intervals import mean_of_tasks
from synbench_lightning.functional.benchmark.prediction import (
    change_of_benchmark,
    choose_points,
    forecast,
    predict_tasks,
)

TASKS = torch.tensor([0] * 120 + [1] * 60)
GENERATOR = torch.Generator().manual_seed(0)
SHAPES = torch.randn(14, 6, generator=GENERATOR).cumsum(0)
KIND = torch.randint(6, (180,), generator=GENERATOR)
CURVES = -(SHAPES[:, KIND] - 5 + 0.01 * torch.randn(14, 180, generator=GENERATOR)).abs()
EARLIER, LATER = CURVES[:10], CURVES[10:]
METHODS = ["clusters", "residual", "random"]


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


@pytest.mark.parametrize("method", ["residual", "random"])
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
    with pytest.raises(ValueError, match="`method` must be 'residual', 'clusters' or 'random', got 'best'"):
        choose_points(EARLIER, TASKS, 20, "best")


def responses(evaluations, points, kind, seed=0):
    """Answers to points of different difficulty: of models in no order, right or wrong (0 or -1), or of one run."""
    generator = torch.Generator().manual_seed(seed)
    difficulty = 2 * torch.randn(points, generator=generator)
    if kind == "models":
        ability = torch.randn(evaluations, 1, generator=generator)
        right = torch.rand(evaluations, points, generator=generator) < torch.sigmoid(ability - difficulty)
        return right.float() - 1
    ability = torch.linspace(-2, 2, evaluations)[:, None]
    drift = 0.3 * torch.randn(evaluations, points, generator=generator).cumsum(0)
    return torch.nn.functional.logsigmoid(ability - difficulty + drift)


def test_checkpoints_are_forecast_by_the_latest_and_models_by_all():
    tasks = torch.zeros(500, dtype=torch.long)
    run, models = responses(40, 500, "run"), responses(40, 500, "models")
    torch.testing.assert_close(forecast(run, tasks).values, run[-1].double())
    torch.testing.assert_close(forecast(models, tasks).values, models.double().mean(0))


def test_what_all_points_of_a_task_share_is_no_residual():
    curves, tasks = responses(12, 180, "run"), TASKS
    shared = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))[:, TASKS]
    torch.testing.assert_close(forecast(curves + shared, tasks).residual, forecast(curves, tasks).residual)


def test_a_point_that_was_never_off_is_not_out_of_reach():
    curves, tasks = torch.zeros(8, 40), torch.zeros(40, dtype=torch.long)
    curves[:, 0] = torch.arange(8) % 2 - 1.0
    residual = forecast(curves, tasks).residual
    assert bool((residual[1:] > 0).all())
    assert bool((residual[0] > 3 * residual[1:]).all())


@pytest.mark.parametrize("kind", ["models", "run"])
def test_drawing_by_residual_is_not_worse_than_drawing_at_random(kind):
    tasks = torch.zeros(600, dtype=torch.long)
    curves = responses(40, 600, kind, seed=2)
    before, after = curves[:20], curves[20:]
    errors = {}
    for method in ("residual", "random"):
        found = []
        for seed in range(300):
            selection = choose_points(before, tasks, 60, method, seed)
            found.append(predict_tasks(after[:, selection.indices], selection, before, tasks)[0].value)
        errors[method] = (torch.stack(found) - after.double().mean(1)).square().mean().sqrt()
    assert errors["residual"] < 1.02 * errors["random"]  # the precision of so many draws


def test_a_single_evaluation_is_its_own_forecast_and_nothing_is_known_of_its_error():
    found = forecast(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([0, 0, 1]))
    assert found.values.tolist() == [1.0, 5.0, 2.0]
    assert found.residual.tolist() == [1.0, 1.0, 1.0]
