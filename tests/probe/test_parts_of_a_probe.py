"""The parts of a probe, each alone and together: groups of tasks, errors, budgets, layers, and what is said once."""

import math
import re
import time
import warnings

import pytest
import torch
from torch import nn

from synbench_lightning import GaussianTask, LabelledTask, ProbePlan, evaluate, task_family
from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.gaussian.pooled_covariance import expected_seconds
from synbench_lightning.functional.gaussian.score import synbench_score
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.functional.representation.spectrum import alpha_req, effective_rank, feature_std
from synbench_lightning.probe.evaluate import _first_batch
from synbench_lightning.probe.families import StationaryColour
from synbench_lightning.probe.probe import LONG, UNCLEAR, Probe, _without_tasks
from synbench_lightning.probe.proxy_samples import ProxySamples
from tests.probe.test_noisy_inputs import CPU, SMALL
from tests.threaded_processes import on_processes

G = torch.Generator().manual_seed(0)
X = torch.randn(64, 6, generator=G)
Y = (X[:, 0] > 0).long()


def probe(plan=SMALL, shape=(6,), tasks="dc", **arguments):
    given = {
        "epsilons": (0.0,), "thresholds": (0.7,), "batch_size": 64, "normalize": None, "inputs": None, "seed": 0,
        "device": CPU,
    }  # fmt: skip
    return Probe(tasks, plan, shape, **given | arguments)


def recorded(work):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    return [str(one.message) for one in caught]


def test_tasks_of_one_color_share_a_covariance_and_no_others_do():
    colour = StationaryColour.power_law((6,))
    one, other = GaussianTask("one", torch.eye(6)[0]), GaussianTask("other", torch.eye(6)[1])
    red = GaussianTask("red", torch.ones(6), colour)
    encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    together = evaluate(encoder, (6,), tasks=[one, red, other], plan=ProbePlan(forwards=3 * 1024))
    white = evaluate(encoder, (6,), tasks=[one, other], plan=ProbePlan(forwards=2 * 1024))
    alone = evaluate(encoder, (6,), tasks=[red], plan=ProbePlan(forwards=1024))
    for name in ("accuracy", "bound", "standard_errors"):
        expected = (getattr(white, name)[0], getattr(alone, name)[0], getattr(white, name)[1])
        for found, its in zip(getattr(together, name), expected, strict=True):
            torch.testing.assert_close(torch.tensor(found), torch.tensor(its), rtol=1e-4, atol=1e-5)
    assert together.effective_rank == pytest.approx(white.effective_rank, rel=1e-4)  # that of the first task's color


def test_the_error_of_a_score_is_that_of_the_noise_and_of_the_correction():
    tasks, plan = task_family("default", (40,)), ProbePlan(forwards=1536)
    encoder = nn.Linear(40, 30)
    found = evaluate(encoder, (40,), tasks=tasks, plan=plan, epsilons=(0.0, 0.3), thresholds=(0.6, 0.8))
    samples = ProxySamples(tasks, plan, normalize=None, seed=0, device=CPU)
    x = torch.empty(3, 16, samples.vectors, 2, 40)
    for block in samples.examples(samples.cells).blocks:
        out = torch.empty(2 * block.vectors, 40)
        samples.write(block, out)
        rows = slice(block.first, block.first + block.vectors)
        x[block.task, block.scale, rows] = out.unflatten(0, (2, -1)).transpose(0, 1)
    with torch.no_grad():
        limit = estimate_limit(encoder(x), plan.scales, (0.0, 0.3))

    def scores(accuracy, bound):
        return synbench_score(accuracy, bound, plan.scales, (0.6, 0.8), plan.weights)

    value = scores(limit.accuracy, limit.bound)
    noise = jackknife_error(value, scores(limit.jackknife_accuracy, limit.jackknife_bound))
    off = limit.correction_error * (value - scores(limit.uncorrected_accuracy, limit.uncorrected_bound)).abs()
    torch.testing.assert_close(torch.tensor(found.scores).double(), value, rtol=1e-4, atol=1e-5)
    expected = (noise.square() + off.square()).sqrt()
    assert (off > 0.3 * noise).any()
    torch.testing.assert_close(torch.tensor(found.standard_errors).double(), expected, rtol=1e-3, atol=1e-5)


def test_all_examples_are_counted():
    labelled = LabelledTask("real", torch.randn(20, 6, generator=G), torch.arange(20) % 2)
    family, few = [*task_family("dc", (6,)), labelled], (torch.randn(30, 6, generator=G), torch.arange(30) % 2)
    found = evaluate(nn.Identity(), (6,), tasks=family, plan=SMALL, inputs=X, labels=few)
    assert found.num_forwards == 768 + 20 + 64 * 32 + 30
    assert found.tasks == ("dc", "real")


def test_labelled_tasks_stand_where_they_were_given():
    generator = torch.Generator().manual_seed(1)

    def real(name, axis):
        x = torch.randn(400, 6, generator=generator)
        return LabelledTask(name, x, (x[:, axis] > 0).long())

    white = GaussianTask("white", torch.eye(6)[1])
    lost = lambda x: x[:, 1:]  # noqa: E731
    found = evaluate(lost, (6,), tasks=[real("lost", 0), white, real("kept", 2)], plan=ProbePlan(forwards=1024))
    accuracy = torch.tensor(found.accuracy)[:, 0].mean(1)
    assert accuracy[0] < 0.6
    assert accuracy[2] > 0.9
    assert found.score("white") == pytest.approx(1, abs=0.05)
    assert found.labelled == ("lost", "kept")
    errors = torch.tensor(found.standard_errors)[2, 0]
    share, number = found.accuracy[2][0][0], len(real("kept", 2).labels)
    limits = 1 - torch.tensor(found.thresholds)
    torch.testing.assert_close(errors, (share * (1 - share) / number) ** 0.5 / limits, rtol=0.05, atol=0)


def test_a_probe_of_token_ids_alone_has_the_statistics_of_their_features():
    ids, table = torch.randint(0, 50, (64, 6), generator=G), torch.randn(50, 4, generator=G) + 3
    encoder = lambda ids: table[ids].mean(1)  # noqa: E731
    found = evaluate(encoder, None, plan=SMALL, labels=(ids, (ids[:, 0] > 25).long()), inputs=ids, views=lambda x: (
        torch.where(torch.rand(x.shape) < 0.3, 0, x)))  # fmt: skip
    features = table[ids].mean(1)
    assert (found.tasks, found.accuracy, found.bound, found.standard_errors) == ((), (), (), ())
    assert found.input_shape is None
    assert found.feature_dim == 4
    centered = features - features.mean(0)
    assert found.effective_rank == pytest.approx(effective_rank(centered).item(), rel=1e-5)
    assert found.alpha_req == pytest.approx(alpha_req(features).item(), rel=1e-5)
    assert found.feature_std == pytest.approx(feature_std(features).item(), rel=1e-5)
    assert found.num_forwards == 2048 + 64


def test_a_plan_whose_scales_end_below_the_threshold_is_refused():
    with pytest.raises(ValueError, match=r"at its largest scale, 0\.4\d*, the best possible accuracy is 0\.6"):
        evaluate(nn.Identity(), (6,), plan=ProbePlan(forwards=1024, num_scales=4, max_scale=0.5), thresholds=(0.6, 0.7))
    plan = ProbePlan(forwards=1024, num_scales=4, max_scale=1.0)  # Phi(.93) = .82
    assert 0 < evaluate(nn.Identity(), (6,), plan=plan, thresholds=(0.8,)).score(threshold=0.8) < 2
    with pytest.raises(ValueError, match=r"below the threshold 0\.83: the score is undefined"):
        evaluate(nn.Identity(), (6,), plan=plan, thresholds=(0.83,))


@pytest.mark.parametrize(("dim", "tasks"), [(200, "dc"), (400, "default")])
def test_the_budget_that_is_recommended_is_enough_and_not_far_too_large(dim, tasks):
    def told(forwards):
        return recorded(lambda: evaluate(nn.Identity(), (dim,), tasks=tasks, plan=ProbePlan(forwards=forwards)))

    (words,) = told(512)
    enough = int(re.search(r"forwards=(\d+)", words)[1])
    assert enough % 256 == 0
    assert told(enough) == []
    assert len(told(max(enough // 8, 384))) == 1


def test_where_the_pairs_do_not_resolve_the_features_the_rank_and_the_forwards_are_named():
    (words,) = recorded(lambda: evaluate(nn.Identity(), (200,), tasks="default", plan=ProbePlan(forwards=512)))
    assert " of its 200 dimensions, more than 480 forwards resolve: the discriminants are ridge-regularized" in words
    (words,) = recorded(
        lambda: evaluate(nn.Identity(), (200,), tasks=[
            GaussianTask("a", torch.ones(200)), GaussianTask("b", torch.ones(200), StationaryColour.power_law((200,))),
        ], plan=ProbePlan(forwards=512))
    )  # fmt: skip
    # Each color has its own covariance, and half of the forwards: at least 4 x 200 for each
    assert int(re.search(r"forwards=(\d+)", words)[1]) >= 1600


def test_what_concerns_a_budget_is_said_once_and_by_the_first_process(monkeypatch):
    monkeypatch.setattr("synbench_lightning.probe.probe.LONG", 0.0)
    made = probe(ProbePlan(forwards=512), (400,))
    words = recorded(lambda: [made(nn.Identity()) for _ in range(2)])
    assert [one.split(" of ")[0].split(" in ")[0] for one in words] == ["The statistics", "The representation varies"]

    def work(processes):
        return probe(ProbePlan(forwards=512), (400,))(nn.Identity(), processes)

    found = []
    words = recorded(lambda: found.extend(on_processes(2, work)))
    assert len(words) == 2
    assert found[0] == found[1]


def test_views_that_destroy_labels_are_told_once_and_by_the_first_process():
    views = torch.stack([torch.randn(64, 6, generator=G) for _ in range(4)], 1)
    far = views.clone()
    far[:, 0, 0] = 5 * (2.0 * Y - 1)

    def destroyed(processes=None):
        made = probe(inputs=far, labels=Y)
        return [made(lambda x: x[:, :1] * (x[:, :1].abs() > 3), processes) for _ in range(2)][-1]

    assert [words[:24] for words in recorded(destroyed)] == ["A readout of the labels "]
    found = []
    assert len(recorded(lambda: found.extend(on_processes(2, destroyed)))) == 1
    assert found[0].readout == found[1].readout


def test_processes_find_the_result_of_one():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 5), nn.ReLU())
    made = lambda: probe(inputs=X, labels=Y, tasks="default", plan=ProbePlan(forwards=1024))  # noqa: E731
    with torch.no_grad():
        alone = made()(encoder)
        several = on_processes(3, lambda processes: torch.no_grad()(made())(encoder, processes))
    assert several[0] == several[1] == several[2]
    assert several[0].scores[0][0] == pytest.approx(alone.scores[0][0], abs=1e-5)
    assert several[0].information == pytest.approx(alone.information, rel=1e-5)
    assert several[0].readout == pytest.approx(alone.readout, rel=1e-5)
    assert several[0].num_forwards == alone.num_forwards


def test_the_batch_size_that_fits_into_memory_is_kept_for_the_next_probe():
    made, seen = probe(), []

    def encoder(x):
        seen.append(len(x))
        if len(x) > 20:
            raise torch.OutOfMemoryError("out of memory")
        return x

    assert len(recorded(lambda: made(encoder))) == 2
    assert made.batch_size == 16
    seen.clear()
    made(encoder)
    assert set(seen) == {16}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"progress": 3}, ValueError, "`progress` must be a function of two numbers or None, got 3"),
        ({"encoder": 3}, ValueError, "`encoder` must be a module or a function from a batch to features, got 3"),
        ({"encoder": nn.Linear}, ValueError, "`encoder` must be a module or a function"),
        ({"input_shape": None}, ValueError, "`input_shape` must be the shape of one example, .* if no `inputs` are"),
        ({"device": "nowhere"}, ValueError, "`device` must be a torch.device or its name"),
        ({"layers": "auto", "encoder": nn.Linear(6, 6)}, ValueError, "`layers` needs `inputs` .* or `labels`"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        evaluate(**{"encoder": nn.Identity(), "input_shape": (6,), "plan": SMALL} | arguments)


def test_features_are_computed_in_the_precision_of_the_module_and_scored_alike():
    torch.manual_seed(0)
    encoder = nn.Linear(6, 4)
    plain = evaluate(encoder, plan=SMALL, inputs=X, labels=Y)
    half = evaluate(encoder.bfloat16(), plan=SMALL, inputs=X, labels=Y)
    assert half.score() == pytest.approx(plain.score(), abs=0.05)
    assert half.readout == pytest.approx(plain.readout, abs=0.05)


def test_a_single_layer_is_not_compared_with_itself():
    found = evaluate(nn.Sequential(nn.Linear(6, 6)), (6,), plan=SMALL, inputs=X, layers="auto")
    assert found.layers == ()
    assert math.isfinite(found.information)


def test_without_tasks_the_eigenvalues_are_those_of_the_covariance_of_the_features():
    features = torch.randn(50, 6, generator=G) * torch.arange(1.0, 7.0)
    expected = torch.linalg.eigvalsh(torch.cov(features.double().T)).flip(0)
    found = _without_tasks(features)
    torch.testing.assert_close(found.eigenvalues, expected)
    torch.testing.assert_close(found.variances, features.double().var(0))
    assert (found.accuracy.shape, found.feature_dim) == ((0, 0, 0), 6)


@pytest.mark.parametrize(("times", "forwards"), [(4, 4), (32, 16)])
def test_the_forwards_that_would_be_enough_grow_with_the_error_to_two_thirds(times, forwards):
    said = rf"off by {times * UNCLEAR:.2f}.*`plan=ProbePlan\(forwards={768 * forwards}\)`"
    with pytest.warns(UserWarning, match=said):
        probe(ProbePlan(forwards=768))._warn_too_few(6, [], times * UNCLEAR)


def test_the_seconds_of_a_probe_are_those_between_its_start_and_its_end(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: 100.0)
    assert evaluate(nn.Identity(), (6,), plan=ProbePlan(forwards=128, num_scales=2)).seconds == 0


def test_the_first_of_several_batches_shows_how_the_encoder_takes_them():
    one, other = object(), object()
    assert _first_batch([one, other], 8) is one
    assert _first_batch(one, 8) is one
    assert _first_batch(torch.arange(50), 8).tolist() == list(range(8))
    assert len(_first_batch(torch.arange(50), 256)) == 32


def test_statistics_that_take_long_are_announced_with_their_time_for_all_rows_of_the_tasks():
    plan, dim = ProbePlan(forwards=2**16), 8192
    expected = expected_seconds(plan.num_forwards(1), dim)
    assert expected > LONG
    one = probe(plan)
    with pytest.warns(UserWarning, match=f"of 8,192 features will take about {expected:.0f} s on two CPU cores"):
        one._announce(dim)
    one._announce(dim)  # once


def test_two_layers_are_compared_and_one_alone_is_not():
    x = torch.randn(64, 6)
    two, one = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), nn.Sequential(nn.Linear(6, 6))
    found = [evaluate(net, (6,), plan=SMALL, inputs=x, layers="auto").layers for net in (two, one)]
    assert [len(layers) for layers in found] == [2, 0]
