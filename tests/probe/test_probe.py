import json
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import nn

from synbench_lightning import GaussianTask, LabelledTask, ProbePlan, ProbeResult, evaluate, task_family
from tests.encoders import DATA, encoder_a

REFERENCE = json.loads((DATA / "encoder_a.json").read_text())
SMALL = ProbePlan(forwards=1024)


def test_fast_plan_is_near_the_many_sample_limit_of_the_reference_encoder():
    result = evaluate(encoder_a(), (3, 32, 32))
    for epsilon, row in zip((0.0, 0.2), REFERENCE["population"]["score"], strict=True):
        limit = dict(zip(REFERENCE["population"]["thresholds"], row, strict=True))
        for threshold in (0.6, 0.7, 0.8):
            assert result.score(epsilon=epsilon, threshold=threshold) == pytest.approx(limit[threshold], abs=0.05)


@pytest.mark.slow
def test_official_plan_is_within_the_spread_of_the_official_runs():
    found = torch.tensor(evaluate(encoder_a(), (3, 32, 32), plan="official").scores[0])
    runs = torch.tensor([run["score"] for run in REFERENCE["official_runs"]], dtype=torch.float64)
    spread = runs.std(0).clamp_min(2e-3)
    assert ((found - runs.mean(0)).abs() < 3 * spread * (1 + 1 / len(runs)) ** 0.5).all()


def test_the_batch_size_changes_nothing():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU())
    results = [evaluate(encoder, (1, 4, 4), plan=SMALL, batch_size=size).scores for size in (1, 7, 256, 4096)]
    for scores in results[1:]:
        torch.testing.assert_close(torch.tensor(scores), torch.tensor(results[0]), rtol=0, atol=1e-6)


def test_an_orthogonal_transformation_of_the_features_changes_nothing():
    first = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU())
    rotation = nn.utils.parametrizations.orthogonal(nn.Linear(8, 8))
    plain, rotated = (evaluate(e, (1, 4, 4), plan=SMALL) for e in (first, nn.Sequential(first, rotation)))
    torch.testing.assert_close(torch.tensor(plain.scores), torch.tensor(rotated.scores), rtol=0, atol=2e-3)


def test_the_seed_decides_the_examples():
    encoder = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    one, again, other = (evaluate(encoder, (8,), plan=SMALL, seed=seed) for seed in (0, 0, 1))
    assert one.scores == again.scores != other.scores


def test_an_encoder_that_loses_nothing_scores_one_around_any_mean_in_any_noise():
    turn = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    around = GaussianTask("around", torch.ones(4), partial(torch.mul, other=0.2), mean=torch.tensor([3.0, 0, -1, 9]))
    assert evaluate(lambda x: x @ turn + 3, (4,), tasks=[around]).score() == pytest.approx(1, abs=0.03)


def test_an_encoder_that_rectifies_sees_the_mean():
    # Where ReLU cuts nothing off, it loses nothing; around zero it does.
    direction, plan = torch.tensor([1.0, 0, 0, 0]), ProbePlan(forwards=4096)
    high = evaluate(torch.relu, (4,), tasks=[GaussianTask("high", direction, mean=torch.full((4,), 50.0))], plan=plan)
    zero = evaluate(torch.relu, (4,), tasks=[GaussianTask("zero", direction)], plan=plan)
    assert high.score() == pytest.approx(1, abs=0.03)
    assert zero.score() < 0.95


def test_the_examples_have_the_mean_and_variance_of_the_task():
    seen = []
    task = GaussianTask("ramp", torch.arange(1.0, 5.0))

    def encoder(x):
        seen.append(x.clone())
        return x

    evaluate(encoder, (4,), tasks=[task], plan=ProbePlan(forwards=8192, num_scales=1), batch_size=128)
    x = torch.cat(seen).unflatten(0, (-1, 2, 64))  # batches of one block: 64 of the plus sign, 64 of the minus sign
    scale = 2.5
    torch.testing.assert_close(x[:, 0] - x[:, 1], (2 * scale * task.direction).expand(64, 64, 4), rtol=0, atol=1e-5)
    noise = (x[:, 0] + x[:, 1]).flatten(0, 1) / 2
    torch.testing.assert_close(torch.cov(noise.T), torch.eye(4), rtol=0, atol=0.1)


def test_normalize_reproduces_the_papers_input():
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    column = torch.tensor([mean, std]).reshape(2, 1, 3, 1, 1)
    plain, normalised = [], []
    evaluate(lambda x: plain.append(x) or x.flatten(1), (3, 2, 2), plan=SMALL)
    evaluate(lambda x: normalised.append(x) or x.flatten(1), (3, 2, 2), plan=SMALL, normalize=(mean, std))
    torch.testing.assert_close(torch.cat(normalised), (torch.cat(plain) + 0.5 - column[0]) / column[1])


def test_noise_that_does_not_fit_the_budget_is_drawn_again_and_the_same(monkeypatch):
    encoder = nn.Sequential(nn.Linear(8, 4), nn.ReLU())
    kept = evaluate(encoder, (8,), plan=SMALL)
    monkeypatch.setattr("synbench_lightning.probe.proxy_samples.NOISE_BUDGET_BYTES", 0)
    assert evaluate(encoder, (8,), plan=SMALL).scores == kept.scores


def test_a_collapsed_encoder_scores_zero():
    assert evaluate(lambda x: torch.ones(len(x), 5), (8,), plan=SMALL).score() == 0


def test_a_double_precision_encoder_gets_double_precision_inputs():
    encoder = nn.Linear(8, 4)
    double = nn.Linear(8, 4).double()
    double.load_state_dict(encoder.state_dict())
    one, two = (evaluate(e, (8,), plan=SMALL) for e in (encoder, double))
    torch.testing.assert_close(torch.tensor(one.scores), torch.tensor(two.scores), rtol=0, atol=1e-3)


def test_a_module_is_left_as_it_was():
    encoder = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout())
    encoder[1].eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    evaluate(encoder, (8,), plan=SMALL)
    assert [m.training for m in encoder.modules()] == [True, True, False, True]
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in encoder.parameters())


def test_a_module_that_a_function_calls_is_evaluated_like_the_module():
    encoder = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Dropout())
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = evaluate(lambda x: encoder(x), (8,), plan=SMALL)
    assert found.scores == evaluate(encoder, (8,), plan=SMALL).scores
    assert all(m.training for m in encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"epsilons": [1.0]}, "`epsilons`"),
        ({"thresholds": [0.4]}, "`thresholds`"),
        ({"plan": "official", "thresholds": [0.55]}, "`grid` of the plan starts at 0.6"),
        ({"plan": "quick"}, "`plan`"),
        ({"tasks": "all"}, "`tasks`"),
        ({"normalize": (0.5, 0.0)}, "`normalize`: std must be positive"),
        ({"normalize": ((0.5, 0.5), 1.0)}, "`normalize`: mean must be a number or 8 numbers"),
        ({"normalize": 3}, r"`normalize` must be a pair \(mean, std\)"),
        ({"device": "meta"}, "`device` is meta, but the encoder's parameters are on cpu"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Linear(8, 4), (8,), **arguments)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"features are NaN or infinite for .* of 1024 examples"):
        evaluate(lambda x: x / (x[:, :1] > 0), (8,), plan=SMALL)


def test_a_budget_that_does_not_resolve_the_features_is_told_with_the_one_that_does():
    encoder = nn.Linear(400, 400)
    with pytest.warns(
        UserWarning, match=r"varies in .* of its 400 dimensions.*`plan=ProbePlan\(forwards=(1792|[2-9]...)\)` or more"
    ):
        evaluate(encoder, (400,), plan=ProbePlan(forwards=512))


@pytest.mark.parametrize("reference", [False, True], ids=["lossless", "reference"])
def test_the_standard_errors_of_a_budget_that_is_too_small_reach_the_limit(reference):
    encoder, shape, limit = (encoder_a(), (3, 32, 32), 0.453) if reference else (nn.Identity(), (128,), 1.0)
    results, told = [], []
    for seed in range(6):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(evaluate(encoder, shape, tasks="default", plan=ProbePlan(forwards=512), seed=seed))
        told += [str(warning.message) for warning in caught]
    if reference:
        assert all(re.match(r"480 forwards are too few for 3 tasks.*`plan=ProbePlan\(forwards=", text) for text in told)
        assert told
    off = torch.tensor([result.score() - limit for result in results])
    errors = torch.tensor([result.standard_error() for result in results])
    assert (off.abs() <= 2 * errors).sum() >= 5
    assert max(result.score() for result in results) < 1.1


@pytest.mark.parametrize("forwards", [512, 2048, 8192])
@pytest.mark.parametrize("input_shape", [(1, 6, 6), (256,)])
def test_an_encoder_that_takes_the_classes_for_one_another_scores_zero(forwards, input_shape):
    def spectrum(x):  # of an example and its negative it is the same, so that the classes are one
        return torch.fft.rfft(x, dim=-1).abs().flatten(1)

    for seed in range(4):
        result = evaluate(spectrum, input_shape, tasks="dc", plan=ProbePlan(forwards=forwards), seed=seed)
        assert result.score() < 0.05
        assert not result.collapsed


def test_a_budget_that_is_enough_has_errors_of_the_noise_alone():
    results = [evaluate(nn.Identity(), (64,), seed=seed) for seed in range(8)]
    spread = torch.tensor([result.score() for result in results]).std()
    assert torch.tensor([result.standard_error() for result in results]).mean() < 2 * spread


def test_the_result_carries_the_standard_error_of_each_score():
    result = evaluate(nn.Flatten(), (1, 4, 4), tasks="default", plan=SMALL)
    assert 0 < result.standard_error() < 0.2
    assert result.standard_error("cos_1", 0.2, 0.8) != result.standard_error()
    with pytest.raises(ValueError, match="`threshold` must be one that was probed"):
        result.standard_error(threshold=0.71)


def test_a_labelled_task_is_scored_by_a_discriminant_that_scikit_learn_agrees_with():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 1, 4, 4, generator=generator)
    y = (x.flatten(1)[:, :3].sum(1) + torch.randn(300, generator=generator) > 0.3).long()
    task = LabelledTask("sum", x, y)
    family = [task, *task_family("dc", (1, 4, 4))]
    result = evaluate(torch.nn.Flatten(), (1, 4, 4), tasks=family, plan=ProbePlan(forwards=1024), epsilons=(0.0,))
    z, fold = task.examples.flatten(1).numpy(), task.fold.numpy()
    labels = task.labels.numpy()
    judged = []
    for train in (fold, ~fold):
        fitted = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.5, 0.5]).fit(z[train], labels[train])
        judged.append(fitted.score(z[~train], labels[~train]))
    accuracy = np.mean(judged)
    assert result.tasks == ("sum", "dc")
    assert result.accuracy[0][0] == pytest.approx([accuracy] * 16, abs=1e-9)
    assert result.score() == pytest.approx((accuracy - 0.7) / 0.3, abs=1e-6)
    assert result.standard_error() == pytest.approx((accuracy * (1 - accuracy) / task.num_examples) ** 0.5 / 0.3)
    assert result.num_forwards == 1024 + task.num_examples
    assert (
        result.score("dc")
        == evaluate(torch.nn.Flatten(), (1, 4, 4), plan=ProbePlan(forwards=1024), epsilons=(0.0,)).score()
    )
    assert ProbeResult.from_dict(result.to_dict()) == result


@pytest.mark.parametrize("plan", [ProbePlan(forwards=4096), "official"])
def test_the_label_free_statistics_are_those_of_the_noise_alone(plan):
    # A linear encoder moves the classes apart and leaves the covariance within them, A A', as it is.
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None] ** -1.0
    result = evaluate(lambda x: x @ weight.T + 30.0, (12,), plan=plan)
    values = torch.linalg.svdvals(weight.double())
    shares = values / values.sum()
    assert result.effective_rank == pytest.approx((-(shares * shares.log()).sum()).exp().item(), rel=0.02)
    eigenvalues, rank = values.square().log().numpy(), np.log(np.arange(1, 7))
    slope = np.polyfit(rank, eigenvalues, 1, w=np.exp(rank / -2))[0]
    assert result.alpha_req == pytest.approx(-slope, rel=0.05)
    assert result.feature_std == pytest.approx(weight.norm(dim=1).mean().item(), rel=0.02)


@pytest.mark.parametrize("plan", [ProbePlan(forwards=768), "official"])
def test_constant_features_have_no_direction_and_no_exponent(plan):
    result = evaluate(lambda x: torch.full((len(x), 3), 7.0), (4,), plan=plan)
    assert (result.effective_rank, result.alpha_req, result.feature_std) == (0.0, None, 0.0)


def test_progress_is_told_up_to_the_last_example():
    told = []
    result = evaluate(nn.Flatten(), (4,), plan=SMALL, progress=lambda done, total: told.append((done, total)))
    done = [examples for examples, _ in told]
    assert done == sorted(set(done))
    assert told[-1] == (result.num_forwards, result.num_forwards)
    assert {total for _, total in told} == {result.num_forwards}


def test_statistics_that_take_long_are_announced(monkeypatch):
    monkeypatch.setattr("synbench_lightning.probe.probe.LONG", 0.0)
    with pytest.warns(UserWarning, match=r"The statistics of 16 features will take about"):
        evaluate(torch.nn.Flatten(), (1, 4, 4), plan=ProbePlan(forwards=1024))
