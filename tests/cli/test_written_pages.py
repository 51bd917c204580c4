"""Parts of a report and figures of runs, for values that are written down."""

import re
from dataclasses import FrozenInstanceError

import pytest

from synbench_lightning.cli.report import _layers, _settings, report
from synbench_lightning.cli.run_files import Run, runs_in
from synbench_lightning.probe.layers import LayerResult
from tests.cli.test_written_logs import SHORT, printed, run_of, written
from tests.results import written_result


def two_logs(folder):
    """The last probe of the first has no information, so that its score is watched."""
    one = written(folder / "one", ["0,0.5,1", "9,0.75,"], SHORT + "information")
    return one, written(folder / "two", ["0,0.5,1", "9,0.625,2"], SHORT + "information")


def score_comes_first(figure):
    return figure.index("SynBench score</text>") < figure.index("information (nats)</text>")


def test_two_runs_are_compared_in_a_figure_by_what_the_first_one_watches(tmp_path, capsys):
    one, two = two_logs(tmp_path)
    path = tmp_path / "new" / "folder" / "curves.svg"
    for folders, first in [((one, two), True), ((two, one), False)]:  # the second time, the folder exists
        printed(capsys, "history", *folders, "--figure", path)
        assert score_comes_first(path.read_text()) == first
    page = report([run for folder in (one, two) for run in runs_in(folder)])
    figures = re.findall("<figure>(.*?)</figure>", page, re.DOTALL)
    assert len(figures) == 3  # of both, and of each
    assert score_comes_first(figures[0])
    assert "<p class=first>" not in page
    assert page.index("Not ranked: ") < page.index("<table>")


def test_settings_of_probes_are_a_table_and_what_was_not_given_is_a_dash():
    found = _settings(run_of("a/b", written_result(step=1, seed=3, epsilons=(0.0,))))
    assert list(found.items())[:5] == [
        ("values from", "the history in a checkpoint"), ("tasks", "dc"), ("plan", written_result().plan),
        ("epsilons", "0"), ("seed of the examples", 3),
    ]  # fmt: skip
    assert [found[key] for key in ("information with", "inputs", "labels")] == ["-"] * 3
    more = {"information": 1.0, "information_kind": "views", "inputs": "40 of x.pt", "labels": "20 of y.pt"}
    found = _settings(run_of("a/b", written_result(step=0), written_result(step=1, readout=0.5, **more)))
    assert [found[key] for key in ("information with", "inputs", "labels")] == ["views", "40 of x.pt", "20 of y.pt"]
    assert (found["forwards of a probe"], found["dimensions of the features"]) == ("8,192", 64)
    assert _settings(Run("a", {0: {}}, (), {}, {}, {"lr": 1}, "a CSV log", ())) == {"values from": "a CSV log", "lr": 1}


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (8, "<p>of 2 layers at 1 probe, one at step 7 has the highest readout, 0.5 (10.0 standard errors) above the"),
        (1, "<p>The widths of the layers differ too much to compare them: compare each with itself over time.</p>"),
    ],
)
def test_which_layer_to_use_is_a_line_of_the_report(width, words):
    layers = tuple(
        LayerResult(name, size, readout=value, readout_error=error)
        for name, size, value, error in [("one", width, 0.75, 0.03), ("out", 8, 0.25, 0.04)]
    )
    assert _layers([written_result(layers=layers, readout=0.25, step=7)]).startswith(words)


def test_a_run_is_as_it_was_read(tmp_path):
    (run,) = runs_in(two_logs(tmp_path)[0])
    with pytest.raises(FrozenInstanceError):
        run.points = {}
