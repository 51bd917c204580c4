"""Real processes: the examples of a benchmark are shared among them, and each of them gets the same result."""

import pytest
from lightning.pytorch import seed_everything

from synbench_lightning import BenchmarkCallback
from tests.callbacks.runs import trainer
from tests.distributed.test_processes import assert_same_on_every_process, needs_fsdp, run
from tests.distributed.worker import labelled
from tests.encoders import Autoencoder

POINTS = [146, 146, 73, 73]  # two complete evaluations, then 44 and an audit of 29
SUPPORT = 80


def values_of_one_process():
    """Before the first step, when the weights are those of every process."""
    seed_everything(0)
    callback = BenchmarkCallback(labelled(), support=40)
    trainer(callback, max_steps=1).fit(Autoencoder())
    return callback.history[0].task_values


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ddp_shares_the_examples_and_agrees_on_the_result(tmp_path, world):
    found, _ = run(tmp_path, world, benchmark=True)
    assert_same_on_every_process(found)
    history = found[0]["history"]
    assert [(result["step"], result["num_points"]) for result in history] == list(
        zip([0, 5, 10, 15], POINTS, strict=True)
    )
    assert history[0]["task_values"] == pytest.approx(values_of_one_process(), abs=1e-4)
    shown = [one["shown"] for one in found]
    assert sum(shown) == sum(POINTS) + 4 * SUPPORT
    assert max(shown) <= 1.6 * min(shown)


def test_ddp_training_is_the_same_to_the_bit(tmp_path):
    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    plain.mkdir()
    evaluated.mkdir()
    for one, other in zip(run(plain, probes=False)[0], run(evaluated, benchmark=True)[0], strict=True):
        assert one["weights"] == other["weights"]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_failure_on_one_process_costs_that_evaluation_on_all_and_hangs_nobody(tmp_path, rank):
    found, log = run(tmp_path, fails_on=rank, benchmark=True)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 15]
    assert_same_on_every_process(found)
    assert "benchmark evaluation after step 10 failed and is skipped" in log


@needs_fsdp
def test_fsdp2_is_evaluated_through_its_root_and_trains_undisturbed(tmp_path):
    plain, evaluated = tmp_path / "plain", tmp_path / "evaluated"
    plain.mkdir()
    evaluated.mkdir()
    found, _ = run(evaluated, sharded="all", benchmark=True)
    assert_same_on_every_process(found)
    assert [result["num_points"] for result in found[0]["history"]] == POINTS
    assert found[0]["history"][0]["task_values"] == pytest.approx(values_of_one_process(), abs=1e-4)
    for one, other in zip(run(plain, sharded="all", probes=False)[0], found, strict=True):
        assert one["weights"] == other["weights"]
