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

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL
from tests.encoders import Autoencoder

ROOT = Path(__file__).parents[2]


def run(folder, processes=2, **variables):
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    found = subprocess.run(
        [sys.executable, *command, str(ROOT / "tests/distributed/ddp_worker.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)], found.stderr


def test_every_process_gets_the_same_result_and_one_point_is_logged(tmp_path):
    (first, second), _ = run(tmp_path)
    assert first["history"] == second["history"]
    probed = [
        {key: value for key, value in found["monitored"].items() if key != "train_loss"} for found in (first, second)
    ]
    assert probed[0] == probed[1]
    assert [result["step"] for result in first["history"]] == [0, 5, 10, 15]
    events = EventAccumulator(first["log_dir"])
    events.Reload()
    assert [event.step for event in events.Scalars("synbench/score")] == [0, 5, 10, 15]


def test_the_shared_probe_equals_that_of_one_process_for_equal_weights(tmp_path):
    # BatchNorm statistics are each process's own: before the first step they are equal.
    (first, second), _ = run(tmp_path)
    seed_everything(0)
    alone = evaluate(Autoencoder().encoder, (1, 8, 8), tasks="default", plan=SMALL)
    for name in ("accuracy", "bound"):
        shared = torch.tensor(first["history"][0][name])
        torch.testing.assert_close(shared, torch.tensor(getattr(alone, name)), rtol=1e-5, atol=1e-5)
    assert first["encoder"]["2.running_mean"] != second["encoder"]["2.running_mean"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_on_one_process_costs_that_probe_on_all_and_hangs_nobody(tmp_path, rank):
    (first, second), log = run(tmp_path, FAILS_ON=str(rank))
    assert [result["step"] for result in first["history"]] == [0, 5, 15]
    assert first["history"] == second["history"]
    assert "probe after step 10 failed and is left out" in log
