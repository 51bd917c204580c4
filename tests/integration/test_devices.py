"""A device without float64, and with tensors and generators of its own: see ``pretended_device``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from synbench_lightning.runtime.devices import default_device, is_memory_error, seed_accelerator, statistics_device

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def found():
    command = [sys.executable, "-m", "tests.integration.training_on_a_pretended_device"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_device_without_float64_gives_the_results_of_the_cpu(found):
    there, cpu = found["without_dropout"], found["cpu"]
    assert (there["device"], cpu["device"]) == ("pretended", "cpu")
    assert len(cpu["scores"]) == len(cpu["benchmark"]) == 3
    for name in ("scores", "information", "benchmark"):
        assert there[name] == pytest.approx(cpu[name], rel=1e-5)


def test_training_there_is_what_it_is_without_the_callbacks_dropout_included(found):
    assert found["probed"]["device"] == found["alone"]["device"] == "pretended"
    assert found["probed"]["weights"] == found["alone"]["weights"]
    assert found["probed"]["generator"] == found["alone"]["generator"]


def test_a_probe_waits_for_the_device_as_often_whatever_the_number_of_batches(found):
    few, many = found["transfers"]
    assert few == many


def test_metric_and_loss_run_there(found):
    assert found["metric"]["device"] == "pretended"
    assert found["metric"]["value"] == pytest.approx(found["metric_on_cpu"]["value"], rel=1e-6)
    assert found["loss"] == pytest.approx(found["loss_on_cpu"])


def test_the_memory_of_any_device_may_not_suffice():
    assert is_memory_error(RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"))
    assert is_memory_error(torch.OutOfMemoryError("XPU out of memory."))
    assert not is_memory_error(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")
def test_without_an_accelerator_everything_is_on_the_cpu():
    assert default_device() == statistics_device(torch.device("cpu")) == torch.device("cpu")
    state = torch.get_rng_state()
    seed_accelerator(7)()
    assert torch.equal(torch.get_rng_state(), state)
