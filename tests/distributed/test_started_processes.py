"""Where the trainer starts its processes itself, the main process has the results when they have ended."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.callbacks.runs import probing, steps, trainer
from tests.encoders import Autoencoder

ROOT = Path(__file__).parents[2]


def run(folder, *arguments):
    found = subprocess.run(
        [sys.executable, str(ROOT / "tests/distributed/start_worker.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr[-4000:]
    return json.loads(found.stdout.splitlines()[-1])


@pytest.mark.parametrize("strategy", ["ddp_fork", "ddp_spawn"])
def test_the_main_process_has_the_history_of_the_processes_that_it_has_started(tmp_path, strategy):
    found = run(tmp_path, strategy)
    assert found["steps"] == [[0, 5, 10], [0, 5, 10]]
    of_lightning = [found["monitored"][key] for key in ("synbench/score", "benchmark/value")]
    assert found["values"] == pytest.approx(of_lightning, rel=1e-6)
    assert found["another"] == [0, 5]


def test_what_was_probed_before_a_process_failed_is_known(tmp_path):
    assert run(tmp_path, "ddp_fork", "failing")["steps"] == [[0, 5], [0, 5]]


def test_a_copy_or_a_pickled_callback_has_the_history_and_fetches_none_of_others():
    callback = probing()
    trainer(callback, max_steps=5).fit(Autoencoder())
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert steps(other) == [0, 5]
        trainer(other, max_steps=10).fit(Autoencoder())
        assert steps(other) == [0, 5, 10]
        assert steps(callback) == [0, 5]


@pytest.mark.parametrize("name", ["encoder", "views"])
def test_a_function_that_cannot_be_sent_to_spawned_processes_is_refused_by_name(name):
    given = {"encoder": lambda module, x: module.encoder(x), "views": lambda batch: batch + torch.randn_like(batch)}
    callback = probing(inputs=torch.randn(32, 1, 8, 8), **{name: given[name]})
    assert pickle_error(callback) is not None
    run = trainer(callback, max_steps=5, strategy="ddp_spawn", devices=2)
    with pytest.raises(ValueError, match=f"`{name}` cannot be sent to the processes that this trainer spawns.*`def`"):
        run.fit(Autoencoder())
    os.environ.pop("MASTER_PORT", None)  # which Lightning sets


def pickle_error(callback):
    """Copies of the same callback in this process are made as ever; pickled to a file it fails in its own words."""
    assert copy.deepcopy(callback).inputs.shape == (32, 1, 8, 8)
    try:
        pickle.dumps(callback)
    except (AttributeError, pickle.PicklingError) as error:
        return error
    return None
