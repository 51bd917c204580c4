import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, logit

from synbench_lightning.functional.benchmark.item_response import (
    ABILITY_SPREAD,
    EASINESS_SPREAD,
    SLOPE,
    SLOPE_SPREAD,
    ItemResponse,
    abilities,
    chances,
    chances_from_other_tasks,
    fit_item_response,
)
from synbench_lightning.functional.benchmark.prediction import choose_points, forecast, predict_tasks

TASKS = torch.arange(4).repeat_interleave(150)


def simulated(models, seed=0, correlation=0.8, steep=1.0):
    """Answers of models with known abilities, which correlate over the tasks, to items with known parameters."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(models, 1, generator=generator)
    own = torch.randn(models, 4, generator=generator)
    ability = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own
    slope = 0.5 + torch.rand(len(TASKS), generator=generator) * 1.5
    easiness = 1.5 * torch.randn(len(TASKS), generator=generator)
    chance = torch.sigmoid(steep * (slope * ability[:, TASKS] + easiness))
    return ability, slope, easiness, (torch.rand(chance.shape, generator=generator) < chance).long()


def correlated(first, second):
    return float(torch.corrcoef(torch.stack([first.double().flatten(), second.double().flatten()]))[0, 1])


def test_items_are_recovered_from_models_of_known_ability():
    _, slope, easiness, right = simulated(400)
    found = fit_item_response(right, TASKS)
    assert correlated(found.easiness, easiness) > 0.97
    assert correlated(found.slope, slope) > 0.85


def test_abilities_are_recovered_from_a_tenth_of_the_items():
    ability, _, _, right = simulated(200)
    model = fit_item_response(right[:100], TASKS)
    chosen = torch.arange(0, len(TASKS), 10)
    found = abilities(model, right[100:, chosen], chosen, TASKS)
    assert correlated(found, ability[100:]) > 0.85


def test_the_correlation_of_abilities_is_that_of_the_models():
    _, _, _, right = simulated(400, correlation=0.6)
    covariance = fit_item_response(right, TASKS).covariance / ABILITY_SPREAD
    between = covariance[~torch.eye(4, dtype=torch.bool)]
    assert between.mean() == pytest.approx(0.6, abs=0.1)


def test_an_item_is_the_most_probable_one_by_a_general_optimizer():
    _, _, _, right = simulated(30)
    found = fit_item_response(right, TASKS)
    own = right[:, TASKS == 1].double().numpy()
    score = logit((own.sum(1) + 0.5) / 151)
    score = (score - score.mean()) / score.std(ddof=1)
    usual = logit((own.sum() + 0.5) / (own.size + 1))

    def improbable(item, answers):
        chance = expit(item[0] * score + item[1])
        likelihood = (answers * chance + (1 - answers) * (1 - chance)).clip(1e-300)
        prior = ((item[0] - SLOPE) / SLOPE_SPREAD) ** 2 + ((item[1] - usual) / EASINESS_SPREAD) ** 2
        return prior / 2 - sum(map(float, torch.from_numpy(likelihood).log()))

    for place in (0, 5, 11):
        best = minimize(improbable, [1.0, 0.0], args=(own[:, place],)).x
        assert found.slope[150 + place] == pytest.approx(best[0], abs=1e-3)
        assert found.easiness[150 + place] == pytest.approx(best[1], abs=1e-3)


def test_without_answers_abilities_are_average_and_chances_those_of_an_average_model():
    model = ItemResponse(torch.ones(3), torch.tensor([-1.0, 0.0, 1.0]), torch.eye(1))
    tasks, none = torch.zeros(3, dtype=torch.long), torch.zeros(0, dtype=torch.long)
    assert abilities(model, none, none, tasks).tolist() == [0.0]
    expected = torch.sigmoid(torch.tensor([-1.0, 0.0, 1.0]))
    assert torch.allclose(chances(model, torch.zeros(1), tasks), expected)
    alone = chances_from_other_tasks(model, torch.ones(3), torch.arange(3), tasks)
    assert torch.allclose(alone, expected.double())


def test_no_answer_has_a_part_in_the_chances_of_its_own_task():
    _, _, _, right = simulated(40)
    model, chosen = fit_item_response(right[:30], TASKS), torch.arange(0, 600, 7)
    found = chances_from_other_tasks(model, right[30:, chosen], chosen, TASKS)
    other = right[30:, chosen].clone()
    other[:, TASKS[chosen] == 2] = 1 - other[:, TASKS[chosen] == 2]
    changed = chances_from_other_tasks(model, other, chosen, TASKS)
    assert torch.equal(found[:, TASKS == 2], changed[:, TASKS == 2])
    assert not torch.allclose(found[:, TASKS == 1], changed[:, TASKS == 1])


def test_known_models_make_the_estimates_of_right_and_wrong_answers_more_precise_than_their_means_do():
    _, _, _, right = simulated(60, correlation=0.95, steep=5.0)
    known, new = right[:40].double() - 1, right[40:].double() - 1
    truth = torch.stack([new[:, task == TASKS].mean(1) for task in range(4)])
    errors = {"items": [], "means": []}
    for seed in range(10):
        selection = choose_points(known, TASKS, 60, seed=seed)
        found = predict_tasks(new[:, selection.indices], selection, known, TASKS)
        errors["items"].append(torch.stack([task.value for task in found]) - truth)
        # One value that is neither right nor wrong: these are no answers, and no item response model applies.
        odd = torch.cat([known, torch.full_like(known[:1], -0.3)])
        mixed = predict_tasks(new[:, selection.indices], selection, odd, TASKS)
        errors["means"].append(torch.stack([task.value for task in mixed]) - truth)
    items, means = (torch.stack(errors[name]) for name in ("items", "means"))
    assert items.square().mean().sqrt() < 0.9 * means.square().mean().sqrt()
    assert abs(float(items.mean())) < 0.01


def test_answers_that_have_no_model_are_forecast_by_their_means():
    generator = torch.Generator().manual_seed(0)
    own = (torch.rand(600, generator=generator) < 0.5).double()  # all evaluations are alike but for one point
    known = own.repeat(10, 1)
    known[4, 3] = 1 - known[4, 3]
    selection = choose_points(known, TASKS, 40)
    found = predict_tasks(own[selection.indices], selection, known, TASKS)
    for task, estimate in enumerate(found):
        assert float(estimate.value) == pytest.approx(float(own[task == TASKS].mean()), abs=0.01)
    assert float(forecast(known, TASKS).values[3]) != own[3]


@pytest.mark.parametrize("right", [torch.rand(4, 600), torch.ones(1, 600), torch.ones(600)])
def test_what_is_no_matrix_of_answers_is_refused(right):
    with pytest.raises(ValueError, match=r"`right` must be 0 or 1 in shape \(models, items\) with at least two"):
        fit_item_response(right, TASKS)


def test_the_items_and_the_abilities_are_where_the_slope_of_their_probability_vanishes():
    _, _, _, right = simulated(12)
    tasks = TASKS[::30]  # few items, so that the priors count
    right = right[:, ::30]
    model = fit_item_response(right, tasks)
    own = torch.zeros(12, 4).double().index_add(1, tasks, right.double())
    score = torch.logit((own + 0.5) / 6)
    score = ((score - score.mean(0)) / score.std(0))[:, tasks]
    usual = torch.logit((own.sum(0) + 0.5) / (12 * 5 + 1))[tasks]
    slope, easiness = model.slope.clone().requires_grad_(), model.easiness.clone().requires_grad_()
    logits = slope * score + easiness
    likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(logits, right.double(), reduction="sum")
    prior = ((slope - SLOPE) / SLOPE_SPREAD).square() + ((easiness - usual) / EASINESS_SPREAD).square()
    gradients = torch.autograd.grad(likelihood - prior.sum() / 2, [slope, easiness])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-9

    indices, answers = torch.tensor([0, 1, 5, 6, 12]), torch.tensor([[1.0, 0, 1, 1, 0], [0.0, 0, 1, 0, 1]])
    found = abilities(model, answers, indices, tasks).requires_grad_()
    logits = model.slope[indices] * found[:, tasks[indices]] + model.easiness[indices]
    likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(logits, answers.double(), reduction="sum")
    prior = (found @ torch.linalg.inv(model.covariance) * found).sum()
    (gradient,) = torch.autograd.grad(likelihood - prior / 2, found)
    assert float(gradient.abs().max()) < 1e-9
