import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from synbench_lightning import ProbePlan, SynBenchScore, evaluate
from tests.probe.examples_of_a_plan import SHAPE, encoded, encoder

ROOT = Path(__file__).parents[1]
FAST = ProbePlan(forwards=1024, num_scales=4)
PLANS = [FAST, ProbePlan.official()]


def updated(plan, **arguments):
    metric = SynBenchScore(plan=plan, **arguments)
    for batch in encoded(plan):
        metric.update(*batch)
    return metric


@pytest.mark.parametrize("plan", PLANS, ids=["fast", "official"])
def test_the_metric_agrees_with_evaluate(plan):
    result = evaluate(encoder(), SHAPE, plan=plan)
    metric = updated(plan)
    for epsilon, threshold in ((0.0, 0.7), (0.2, 0.7), (0.0, 0.9)):
        metric.epsilon, metric.threshold, metric._computed = epsilon, threshold, None
        assert metric.compute().item() == pytest.approx(result.score(epsilon=epsilon, threshold=threshold), abs=1e-6)


@pytest.mark.parametrize("protocol", ["fast", pytest.param("official", marks=pytest.mark.slow)])
def test_processes_that_share_the_examples_find_the_score_of_one(tmp_path, protocol):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = subprocess.run(
        [sys.executable, *command, str(ROOT / "tests/distributed/metric_worker.py"), str(tmp_path), protocol],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-3000:]
    alone = updated(FAST if protocol == "fast" else ProbePlan.official(), epsilon=0.2).compute().item()
    scores = [json.loads((tmp_path / f"rank{rank}.json").read_text())["score"] for rank in (0, 1)]
    assert scores[0] == scores[1]
    # The processes put the examples in another order: other pairs, and other halves to fit to and to hold out.
    assert scores[0] == pytest.approx(alone, abs=0.05)


def test_unpaired_examples_give_the_same_score_within_its_noise():
    paired, shuffled = updated(plan := ProbePlan(forwards=8192, num_scales=8)), SynBenchScore(plan=plan)
    generator = torch.Generator().manual_seed(0)
    for features, labels, scale in encoded(plan):
        order = torch.randperm(len(labels), generator=generator)
        shuffled.update(features[order], labels[order], scale)
    assert shuffled.compute().item() == pytest.approx(paired.compute().item(), abs=0.03)


def test_batches_of_several_scales_and_half_precision():
    batches = list(encoded(FAST))
    features, labels = (torch.cat(parts) for parts in list(zip(*batches, strict=True))[:2])
    scales = torch.cat([torch.full((len(batch[1]),), batch[2]) for batch in batches])
    metric = SynBenchScore(plan=FAST)
    metric.update(features.half(), labels, scales)
    assert metric.compute().item() == pytest.approx(updated(FAST).compute().item(), abs=0.01)


def test_a_metric_is_pickled_cloned_reset_and_collected():
    metric = updated(FAST)
    score = metric.compute()
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.clone().compute() == score
    other = SynBenchScore(plan=FAST, epsilon=0.2)
    both = MetricCollection({"score": metric.clone(), "robust": other})
    both.reset()
    for batch in encoded(FAST):
        both.update(*batch)
    assert both.compute()["score"] == score
    assert both.compute()["robust"] == updated(FAST, epsilon=0.2).compute()
    metric.reset()
    with pytest.raises(ValueError, match="missing are"), pytest.warns(UserWarning, match="before the ``update``"):
        metric.compute()


def test_a_plot_shows_the_values():
    _, axes = updated(FAST).plot()
    assert axes.get_ylim()[0] <= 0
    _, axes = SynBenchScore().plot([torch.tensor(0.1), torch.tensor(0.6)])
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.1, 0.6])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plan": "slow"}, "`plan` must be"),
        ({"epsilon": 1.0}, "`epsilons` must be different numbers in"),
        ({"epsilon": "a"}, "`epsilon` must be a number"),
        ({"threshold": 1.0}, "`thresholds` must be accuracies"),
        ({"threshold": 0.5, "plan": "official"}, "`grid` of the plan starts at 0.6"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SynBenchScore(**arguments)


def test_wrong_updates_are_refused():
    metric = SynBenchScore(plan=FAST)
    features, labels, scale = next(encoded(FAST))
    for wrong, message in (
        ((features[0], labels, scale), "`features` must be a floating-point tensor"),
        ((features, labels[1:], scale), "`labels` must be 0 or 1, one for each of the"),
        ((features, labels * 2, scale), "`labels` must be 0 or 1"),
        ((features, labels, 0.123), "`scale` must be one of the plan's scales, 0.3472, .*, got 0.123"),
        ((features, labels, torch.ones(3)), "`scale` must be a number or of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            metric.update(*wrong)
    metric.update(features, labels, scale)
    with pytest.raises(ValueError, match=r"examples of both classes at every scale of its plan; missing are 1\.65"):
        metric.compute()
    for batch in encoded(FAST):
        metric.update(*batch)
    with pytest.raises(ValueError, match="every class and scale needs the same number of examples, got between 128"):
        metric.compute()


def test_scales_are_those_of_the_plan_up_to_rounding():
    features, labels, scale = next(encoded(FAST))
    metric = SynBenchScore(plan=FAST)
    metric.update(features, labels, scale + 0.9e-6)
    metric.update(features, labels, torch.tensor(scale, dtype=torch.float64).expand(len(labels)))
    with pytest.raises(ValueError, match="`scale` must be one of the plan's scales"):
        metric.update(features, labels, scale + 1.5e-6)
    mixed = torch.full((len(labels),), scale)
    mixed[3] = 0.5
    with pytest.raises(ValueError, match=r"`scale` must be one of the plan's scales, .* got 0\.5"):
        metric.update(features, labels, mixed)
    with pytest.raises(ValueError, match=r"`features` must be a floating-point tensor .* got torch\.int64"):
        metric.update(features.long(), labels, scale)


def test_one_class_of_a_scale_is_not_enough_and_the_defaults_are_those_of_the_fast_plan():
    metric = SynBenchScore(plan=FAST)
    for features, labels, scale in encoded(FAST):
        metric.update(features[labels == 1], labels[labels == 1], scale)
    with pytest.raises(ValueError, match=r"missing are 0\.3472, 1\.65, 3\.35, 4\.653\. Update with all"):
        metric.compute()
    default = SynBenchScore()
    assert (default.plan, default.epsilon, default.threshold) == (ProbePlan.fast(), 0.0, 0.7)
    assert (default.higher_is_better, default.is_differentiable, default.full_state_update) == (True, False, False)
    assert (default.plot_lower_bound, default.plot_upper_bound) == (0.0, 1.0)


def test_double_precision_is_kept_and_the_score_is_a_scalar_in_float64():
    metric = SynBenchScore(plan=FAST)
    for features, labels, scale in encoded(FAST):
        metric.update(features.double(), labels, scale)
    assert {one.dtype for one in metric.features} == {torch.float64}
    score = metric.compute()
    assert (score.dtype, score.shape) == (torch.float64, ())
    assert score.item() == pytest.approx(updated(FAST).compute().item(), abs=1e-4)
