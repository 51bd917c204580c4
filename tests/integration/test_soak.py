"""A long run leaves nothing behind, and may be killed and resumed as often as it takes. `pytest -m slow`: minutes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.soak_run import FILES, STEPS

ROOT = Path(__file__).parents[2]
PROCESSES = (1, 1, 2, 2, 1, 1)
"""Of the run from its beginning, and after each of the times that it is killed."""


def start(folder, processes):
    """The processes of the run, which go on from the latest checkpoint in the folder."""
    (folder / "step").unlink(missing_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(torchrun if processes > 1 else []), str(ROOT / "tests/integration/soak_run.py")]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(folder), str(processes)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def step(folder):
    text = (folder / "step").read_text() if (folder / "step").exists() else ""
    return int(text or 0)


def kill(folder, run, processes, after, chance):
    """Kill all processes, a random moment after a step."""
    while step(folder) < after:
        assert run.poll() is None, (folder / "log").read_text()[-4000:]
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.2))
    if processes > 1:
        run.kill()
    for rank in range(processes):
        os.kill(int((folder / f"pid{rank}").read_text()), signal.SIGKILL)
    run.wait(60)


def finish(folder, run):
    assert run.wait(1500) == 0, (folder / "log").read_text()[-4000:]
    return json.loads((folder / "found.json").read_text())


def values(found, path=""):
    """What a result holds by its place in it, but for the time that it took."""
    if isinstance(found, (dict, list)):
        inner = found.items() if isinstance(found, dict) else enumerate(found)
        return {place: value for key, one in inner for place, value in values(one, f"{path}/{key}").items()}
    return {} if path.endswith("/seconds") else {path: found}


@pytest.mark.slow
@pytest.mark.skipif(not FILES.is_dir(), reason="counts open files the way Linux shows them")
def test_a_run_that_is_killed_five_times_ends_as_one_that_is_not(tmp_path):
    chance = random.Random(0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    alone = finish(whole, start(whole, 1))

    moments = sorted(chance.sample(range(1, STEPS), len(PROCESSES) - 1))
    print("killed after the steps", moments)
    for processes, moment in zip(PROCESSES, moments, strict=False):
        kill(killed, start(killed, processes), processes, moment, chance)
    resumed = finish(killed, start(killed, PROCESSES[-1]))

    assert resumed["weights"] == alone["weights"]
    for name, every in (("probes", STEPS // 400), ("benchmark", STEPS // 40)):
        assert [result["step"] for result in resumed[name]] == [*range(0, STEPS + 1, every)]
        found, expected = values(resumed[name]), values(alone[name])
        assert found.keys() == expected.keys()
        for place, value in expected.items():  # sums over two processes are those of one but for rounding
            number = isinstance(value, float)
            assert found[place] == (pytest.approx(value, rel=1e-4, abs=1e-6, nan_ok=True) if number else value), place

    print("MiB", alone["memory"], "files", alone["files"])
    later = [size for at, size in alone["memory"].items() if int(at) >= STEPS // 5]
    assert max(later) - later[0] < 24  # the history itself is some kilobytes a probe
    assert alone["files"][str(STEPS)] <= alone["files"][str(STEPS // 5)]
