"""What is read from checkpoints and event files that are written by hand, and how it is ranked."""

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from synbench_lightning import BenchmarkCallback, SynBenchCallback
from synbench_lightning.callbacks.metric_keys import logged_values
from synbench_lightning.cli.errors import CommandError
from synbench_lightning.cli.run_files import runs_in, runs_in_folders
from synbench_lightning.cli.run_ranking import rankings, run_rankings
from tests.cli.test_written_logs import evaluation, run_of, written
from tests.results import written_result


def probes(*steps, **more):
    return [written_result(step=step, **more) for step in steps]


def keep(path, step, history=(), benchmarks=None, prefix="synbench", **more):
    """A checkpoint of a run with probes, and with evaluations of a benchmark by prefix."""
    found = {prefix: (f"SynBenchCallback{{'prefix': '{prefix}'}}", history)}
    found |= {name: (f"BenchmarkCallback{{'prefix': '{name}'}}", kept) for name, kept in (benchmarks or {}).items()}
    states = {key: {"format": 1, "history": [one.to_dict() for one in kept]} for key, kept in found.values()}
    torch.save({"global_step": step, "callbacks": states, **more}, path)


def test_the_keys_of_states_are_those_that_lightning_writes():
    assert SynBenchCallback(prefix="a").state_key == "SynBenchCallback{'prefix': 'a'}"
    assert BenchmarkCallback.__qualname__ == "BenchmarkCallback"


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize(
    ("longer", "shorter"),
    [((0, 10, 20), (0, 12, 15)), ((0,), ()), ((0, 1), (0,)), ((0, 10), (0,)), ((5,), (0,)), ((0, 10), (None,))],
)
def test_the_history_that_reaches_further_is_read(tmp_path, names, longer, shorter):
    for name, steps in zip(names, (longer, shorter), strict=True):
        results = [evaluation(step=step or 0) for step in steps]
        keep(tmp_path / f"{name}.ckpt", len(steps), probes(*steps), {"benchmark": results, "mine": results})
    (run,) = runs_in(tmp_path)
    assert run.history == tuple(probes(*longer))
    assert run.source == "the history in a checkpoint"
    assert list(run.points) == list(longer)
    assert run.points[longer[-1]] == logged_values(run.history[-1], 0.7)
    assert {name: [one.step for one in kept] for name, kept in run.benchmarks.items()} == {
        "benchmark": list(longer), "mine": list(longer)
    }  # fmt: skip
    assert sorted(run.checkpoints) == sorted({len(longer), len(shorter)})
    assert run.warnings == ()


def test_a_probe_without_a_step_is_the_first(tmp_path):
    keep(tmp_path / "a.ckpt", 0, probes(None))
    (run,) = runs_in(tmp_path)
    assert (list(run.points), list(run.checkpoints)) == ([0], [0])


@pytest.mark.parametrize(
    ("saved", "logged", "source"),
    [
        ((0, 10, 20), (0, 12, 15), "the history in a checkpoint"), ((0, 12, 15), (0, 10, 20), "a CSV log"),
        ((), (0,), "a CSV log"), ((0, 5), (0, 5), "the history in a checkpoint"),
    ],
)  # fmt: skip
def test_the_values_are_of_what_reaches_further_with_all_that_is_known_of_them(tmp_path, saved, logged, source):
    keep(tmp_path / "a.ckpt", 20, probes(*saved))
    written(tmp_path, [f"{step},0.5,0.25" for step in logged], "step,synbench/score,synbench_details/overhead")
    (run,) = runs_in(tmp_path)
    assert (run.source, list(run.points)) == (source, list(saved if source.startswith("the") else logged))
    assert [run.points[step].get("overhead") for step in run.points] == [
        0.25 if step in logged else None for step in run.points
    ]
    own = probes(0)[0].score()
    assert run.points[0]["score"] == (own if source.startswith("the") else 0.5)


def test_every_value_of_a_probe_is_read_from_event_files(tmp_path):
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(4):
            writer.add_scalar("loss", 9.0, step)
            writer.add_scalar("synbench/score", step / 4, step)
            writer.add_scalar("synbench_tasks/dc", 0.5, step)
        writer.add_scalar("synbench/worst", 0.5, 9)  # without a score
    (run,) = runs_in(tmp_path)
    assert run.points == {step: {"score": step / 4, "task/dc": 0.5} for step in range(4)}
    assert (run.source, run.history, run.checkpoints) == ("event files", (), {})


def test_files_that_hold_no_probe_are_counted_and_a_folder_without_files_is_empty(tmp_path):
    with pytest.raises(CommandError, match="contains no checkpoint, event file or CSV log"):
        runs_in(tmp_path)
    keep(tmp_path / "a.ckpt", 5, prefix="other")
    torch.save({"global_step": -1}, tmp_path / "b.ckpt")
    torch.save({"global_step": 3, "callbacks": None}, tmp_path / "c.ckpt")
    with pytest.raises(CommandError) as caught:
        runs_in(tmp_path)
    assert "no value of `synbench/score` was found in 3 checkpoints, event files and CSV logs. b.ckpt could not" in str(
        caught.value
    )
    assert str(caught.value).count("could not be read") == 1


def test_checkpoints_that_could_run_code_are_not_read_unless_asked(tmp_path):
    keep(tmp_path / "a.ckpt", 5, probes(0), folder=tmp_path)
    for read in (runs_in, lambda folder, **more: runs_in_folders([folder], **more)):
        with pytest.raises(CommandError, match="add --weights-only false"):
            read(tmp_path)
        assert [list(run.points) for run in read(tmp_path, weights_only=False)] == [[0]]


def test_a_history_that_cannot_be_read_is_a_note(tmp_path):
    keep(tmp_path / "a.ckpt", 5, probes(0))
    state = {"format": 2, "history": []}
    states = {"SynBenchCallback{'prefix': 'synbench'}": state, "BenchmarkCallback{'prefix': 'mine'}": state, "Other": 3}
    torch.save({"global_step": 9, "callbacks": states}, tmp_path / "b.ckpt")
    (run,) = runs_in(tmp_path)
    assert (len(run.history), run.benchmarks, list(run.checkpoints)) == (1, {}, [5, 9])
    assert [note[:54] for note in run.warnings] == ["b.ckpt: its history cannot be read: it has the format "] * 2


def test_groups_of_at_least_two_have_a_ranking():
    results = {name: written_result(seed=int(name[0])) for name in ("0a", "0b", "0c", "1a", "1b", "2a")}
    found = rankings(results)
    assert [sorted(one.name for one in ranking.ranked) for ranking in found] == [["0a", "0b", "0c"], ["1a", "1b"]]
    assert [sorted(ranking.excluded) for ranking in found] == [["1a", "1b", "2a"], []]
    assert rankings({}) == []


def test_one_run_is_not_ranked_and_of_two_those_with_a_history_are():
    one, two = (run_of(name, written_result(step=1)) for name in ("a/one", "a/two"))
    assert run_rankings([one]) == ([], [])
    (ranking,), notes = run_rankings([one, two])
    assert ([each.name for each in ranking.ranked], notes) == (["a/one", "a/two"], [])
