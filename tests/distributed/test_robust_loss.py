"""Real processes: two that share the examples learn what one learns from all of them."""

import json
import os
import subprocess
import sys

import pytest
import torch

from tests.distributed.robust_worker import train
from tests.distributed.test_processes import ROOT, needs_fsdp


def two_processes(folder, **settings):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    found = subprocess.run(
        [sys.executable, *command, str(ROOT / "tests/distributed/robust_worker.py"),
         json.dumps({"world": 2, "folder": str(folder), **settings})],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-4000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "softmax"},
        pytest.param({"mode": "exponentiated_gradient", "step_size": 0.3, "accumulate": 3}, marks=pytest.mark.slow),
        {"mode": "softmax", "floor": 0.2, "trivial": [2.0, 1.0, 3.0, 9.0], "proxy": True},
        pytest.param({"mode": "softmax", "sharded": True}, marks=needs_fsdp),
    ],
    ids=["softmax", "exponentiated gradient, accumulated", "shares over a proxy", "sharded"],
)
def test_two_processes_with_uneven_shares_learn_what_one_learns(tmp_path, settings):
    first, second = two_processes(tmp_path, **settings)
    alone, close = train(1, str(tmp_path), **{**settings, "sharded": False}), torch.testing.assert_close
    assert first["values"] == second["values"]
    assert first["values"] == pytest.approx(alone["values"], rel=1e-4)
    for key in ("state", "logged"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, equal_nan=True)
        for name, value in alone[key].items():
            close(torch.tensor(first[key][name]), torch.tensor(value), rtol=1e-4, atol=1e-5, equal_nan=True)
