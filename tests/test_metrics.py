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
