"""Real processes: the probe is shared among them, and each of them gets the same result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import seed_everything
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL, probing, trainer
from tests.distributed.worker import HAS_FSDP, Lengths, Noised
from tests.encoders import Autoencoder

ROOT = Path(__file__).parents[2]

needs_fsdp = pytest.mark.skipif(not HAS_FSDP, reason="FSDP on CPUs: since Lightning 2.3")


def run(folder, world=2, timeout=150, **arguments):
    """What each process wrote down, and what all of them printed."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    settings = json.dumps({"folder": str(folder), "world": world, **arguments})
    found = subprocess.run(
        [sys.executable, *command, str(ROOT / "tests/distributed/worker.py"), settings],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)], found.stderr


def result_of_one_process():
    seed_everything(0)
    return evaluate(Autoencoder().encoder, (1, 8, 8), tasks="default", plan=SMALL)


def assert_like_one_process(result, alone):
    for name in ("accuracy", "bound"):
        shared = torch.tensor(result[name])
        torch.testing.assert_close(shared, torch.tensor(getattr(alone, name)), rtol=1e-5, atol=1e-5)


def assert_same_on_every_process(found):
    for other in found[1:]:
        assert other["history"] == found[0]["history"]
        probed = [
            {k: v for k, v in one["monitored"].items() if "synbench" in k or "benchmark" in k}
            for one in (found[0], other)
        ]
        assert probed[0] == probed[1]


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ddp_shares_the_examples_and_agrees_on_the_result(tmp_path, world):
    found, _ = run(tmp_path, world)
    assert_same_on_every_process(found)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 10, 15]
    events = EventAccumulator(found[0]["log_dir"])
    events.Reload()
    assert [event.step for event in events.Scalars("synbench/score")] == [0, 5, 10, 15]
    # BatchNorm statistics are each process's own, and features of all of them are used: before the first step they
    # are equal, and so is the result.
    assert_like_one_process(found[0]["history"][0], result_of_one_process())
    assert found[0]["weights"]["encoder.2.running_mean"] != found[1]["weights"]["encoder.2.running_mean"]
    shown = [one["shown"] for one in found]
    assert sum(shown) == 4 * SMALL.num_forwards(3)
    assert max(shown) <= 1.1 * min(shown)  # whole blocks of examples


def test_ddp_has_the_same_views_on_every_process_and_those_of_one_process(tmp_path):
    found, _ = run(tmp_path, inputs=True)
    assert_same_on_every_process(found)
    seed_everything(0)
    callback = probing(inputs="auto")
    model = Noised()
    trainer(callback, max_steps=1).fit(model, DataLoader(model.train_dataloader().dataset, batch_size=40))
    first, alone = found[0]["history"][0], callback.history[0]
    assert (first["inputs"], first["information_kind"]) == (alone.inputs, "views")
    assert first["information"] == pytest.approx(alone.information, rel=1e-5)
    assert [layer["information"] for layer in first["layers"]] == pytest.approx(
        [layer.information for layer in alone.layers], rel=1e-5
    )


def test_ddp_takes_the_shape_that_training_gives_the_encoder_on_the_first_process(tmp_path):
    found, log = run(tmp_path, lengths_differ=True)
    assert_same_on_every_process(found)
    assert {tuple(result["input_shape"]) for result in found[0]["history"]} == {(4, 16)}
    assert "with inputs of shape (4, 16)" in log
    seed_everything(0)
    alone = evaluate(Lengths().encoder, (4, 16), tasks="default", plan=SMALL)
    assert_like_one_process(found[0]["history"][0], alone)


@pytest.mark.parametrize(
    ("user", "shape", "name"),
    [
        ("Text", [6, 16], "`text`, a Of, with"),
        ("ForwardIsTheTeacher", [1, 8, 8], "`backbone.forward_student`, a method, with"),
    ],
)
def test_ddp_makes_the_call_that_training_makes(tmp_path, user, shape, name):
    found, log = run(tmp_path, user=user)
    assert_same_on_every_process(found)
    assert {tuple(result["input_shape"]) for result in found[0]["history"]} == {tuple(shape)}
    assert log.count(f"SynBench probes {name}") == 1


@pytest.mark.parametrize(
    "user", [None, *(pytest.param(user, marks=pytest.mark.slow) for user in ("Text", "ForwardIsTheTeacher"))]
)
def test_ddp_training_is_the_same_to_the_bit(tmp_path, user):
    plain, probed = tmp_path / "plain", tmp_path / "probed"
    plain.mkdir()
    probed.mkdir()
    for one, other in zip(run(plain, probes=False, user=user)[0], run(probed, user=user)[0], strict=True):
        assert one["weights"] == other["weights"]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_failure_on_one_process_costs_that_probe_on_all_and_hangs_nobody(tmp_path, rank):
    found, log = run(tmp_path, fails_on=rank)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 15]
    assert_same_on_every_process(found)
    assert "probe after step 10 failed and is skipped" in log


def test_an_error_that_is_to_be_raised_ends_all_processes_within_seconds(tmp_path):
    found, _ = run(tmp_path, fails_on=1, on_error="raise")
    assert "RuntimeError: Another process failed" in found[0]["error"]
    assert "RuntimeError: The encoder failed" in found[1]["error"]
    assert max(one["seconds"] for one in found) < 60


def test_a_first_probe_that_fails_on_one_process_ends_all(tmp_path):
    found, _ = run(tmp_path, fails_on=1, fails_at=0)
    assert all(one["error"] for one in found)


def test_more_processes_than_blocks_of_examples(tmp_path):
    found, _ = run(tmp_path, world=4, forwards=192, num_scales=1)  # three blocks, one for each task
    assert_same_on_every_process(found)
    assert len(found[0]["history"]) == 4


def test_a_step_that_only_some_processes_reach_hangs_nobody(tmp_path):
    found, _ = run(tmp_path, skipping=True)
    assert_same_on_every_process(found)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 10, 15]


def run_and_compare_weights(tmp_path, **arguments):
    """What each process wrote down of a run with probes, whose weights are those of a run without."""
    plain, probed = tmp_path / "plain", tmp_path / "probed"
    plain.mkdir()
    probed.mkdir()
    found, _ = run(probed, **arguments)
    for one, other in zip(run(plain, probes=False, **arguments)[0], found, strict=True):
        assert one["weights"] == other["weights"]
    return found


@needs_fsdp
@pytest.mark.parametrize(
    "parts",
    ["all", *(pytest.param(one, marks=pytest.mark.slow) for one in ("children", "root", "fsdp1", "fsdp1, layers"))],
)
def test_fsdp_is_probed_through_its_root_and_trains_undisturbed(tmp_path, parts):
    found = run_and_compare_weights(tmp_path, sharded=parts)
    assert_same_on_every_process(found)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 10, 15]
    assert_like_one_process(found[0]["history"][0], result_of_one_process())


@needs_fsdp
@pytest.mark.parametrize("parts", ["all", pytest.param("fsdp1, layers", marks=pytest.mark.slow)])
def test_layers_of_sharded_modules_are_read_on_every_process_and_training_is_undisturbed(tmp_path, parts):
    found = run_and_compare_weights(tmp_path, sharded=parts, inputs=True)
    assert_same_on_every_process(found)
    assert all(result["layers"] for result in found[0]["history"])


@needs_fsdp
@pytest.mark.slow
@pytest.mark.parametrize("parts", ["all", "children", "root"])
def test_state_beside_sharded_weights_is_as_without_probes(tmp_path, parts):
    found = run_and_compare_weights(tmp_path, sharded=parts, counting=True)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 10, 15]


@needs_fsdp
@pytest.mark.slow
@pytest.mark.parametrize("parts", ["all", "fsdp1, layers"])
def test_a_layer_within_several_sharded_modules_is_probed_and_training_is_undisturbed(tmp_path, parts):
    found = run_and_compare_weights(tmp_path, sharded=parts, inner=True)
    assert_same_on_every_process(found)
    seed_everything(0)
    assert_like_one_process(
        found[0]["history"][0], evaluate(Autoencoder().encoder[1], (64,), tasks="default", plan=SMALL)
    )


@needs_fsdp
def test_fsdp2_with_uneven_shares_makes_as_many_forwards_on_every_process(tmp_path):
    found, _ = run(tmp_path, sharded="all", forwards=480, num_scales=5)  # fifteen blocks
    assert_same_on_every_process(found)
    assert len(found[0]["history"]) == 4
