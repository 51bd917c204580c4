"""What `history` and `report` print about logs that are written by hand, so that every character is known."""

import html
import json
import re
from pathlib import Path

import pytest
import torch

from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.callbacks.metric_keys import logged_values
from synbench_lightning.cli import main
from synbench_lightning.cli.report import report
from synbench_lightning.cli.run_files import Run, runs_in
from tests.results import written_result

HEAD = "step,loss,synbench/score,synbench/score_se,synbench/worst,synbench/information,synbench/information_se"
HEAD += ",synbench_details/probe_seconds,synbench_details/overhead,synbench_tasks/dc,synbench_details/effective_rank"
SHORT = "step,synbench/score,synbench/"
ROWS = [
    ",9,,,,,,,,,",  # of no step, and of no probe
    ",,0.5,0.01,0.4,1,0.05,1.25,,0,7.25",
    "500,1,,,,,,,,,",
    "1000,,0.75,0.02,,2.5,,,0.002,0,7.75",
    "1500,,0.625,,0.5,2,0.25,2.5,0.004,0,6",
    "inf,,0.9,,,9,,,,0,",
]


def written(folder, rows=ROWS, head=HEAD):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder


def printed(capsys, *arguments):
    assert main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_history_is_a_table_with_bars(tmp_path, capsys):
    folder = written(tmp_path / "one")
    assert printed(capsys, "history", folder) == (
        f"{folder}, from a CSV log\n"
        "\n"
        " step  information                          score  worst task\n"
        "    0  1.00 ± 0.05  █████▋          0.500 ± 0.010       0.400\n"
        "1,000         2.50  ██████████████  0.750 ± 0.020           -\n"
        "1,500  2.00 ± 0.25  ███████████▎            0.625       0.500\n"
        "\n"
        "Best information 2.50 after 1,000 steps.\n"
    )


def test_bars_of_the_score_are_out_of_one_and_end_at_five_quarters(tmp_path, capsys):
    head = "step,synbench/score"
    folder = written(tmp_path / "one", ["0,-0.5", "1,0.5", "2,1", "3,1.25", "4,7"], head)
    rows = printed(capsys, "history", folder).splitlines()[3:8]
    assert [row.split()[2:-1] for row in rows] == [[], ["█" * 7], ["█" * 14], ["█" * 17 + "▌"], ["█" * 17 + "▌"]]


def test_history_without_positive_values_has_no_bars(tmp_path, capsys):
    folder = written(
        tmp_path / "one", ["0,.5,0,", "1,.5,0,.25"], "step,synbench/score,synbench/information,synbench/worst"
    )
    assert [row.split() for row in printed(capsys, "history", folder).splitlines()[3:5]] == [
        ["0", "0.00", "0.500", "-"], ["1", "0.00", "0.500", "0.250"]
    ]  # fmt: skip


def test_history_as_json_has_all_values_by_step(tmp_path, capsys):
    one, two = written(tmp_path / "one"), written(tmp_path / "two", ["5,,0.25,,,,,,,,"])
    text = printed(capsys, "history", one, two, one, "--json")
    found = json.loads(text)
    assert text == json.dumps(found, indent=2) + "\n"
    assert found["runs"][1] == {"run": str(two), "source": "a CSV log", "points": {"5": {"score": 0.25}}}
    assert found["runs"][0]["points"]["1000"] == {
        "score": 0.75, "score_se": 0.02, "information": 2.5, "overhead": 0.002, "task/dc": 0.0, "effective_rank": 7.75
    }  # fmt: skip
    assert [run["run"] for run in found["runs"]] == [str(one), str(two)]  # named twice, read once
    assert found["rankings"] == []


def test_several_runs_are_printed_one_after_the_other_and_those_without_a_history_are_not_ranked(tmp_path, capsys):
    text = printed(capsys, "history", written(tmp_path / "one"), written(tmp_path / "two"))
    assert "\n\n\n" not in text
    assert text.endswith("probes).\n")
    assert text.count("from a CSV log\n\n") == 2
    assert " ".join(text[text.rindex("Not ranked") :].split()) == (
        f"Not ranked: {tmp_path.name}/one, {tmp_path.name}/two (none of their checkpoints contains the callback's "
        "history, and a log does not record the inputs and views of the probes)."
    )
    assert all(len(line) <= 80 for line in text[text.rindex("Not ranked") :].splitlines())


def test_of_equal_values_the_first_is_the_best_and_the_last_probe_says_what_is_watched(tmp_path):
    (run,) = runs_in(written(tmp_path / "one", ["9,1,3", "3,1,3", "5,2,", "12,2,1"], SHORT + "readout"))
    assert (run.monitored, run.best_step, run.last_step) == ("readout", 3, 12)
    assert run.series("readout") == ([3, 9, 12], [3, 3, 1])
    (run,) = runs_in(written(tmp_path / "two", ["3,1,3", "5,2,", "7,2,"], SHORT + "readout"))
    assert (run.monitored, run.best_step) == ("score", 5)


def test_a_log_in_several_files_is_one_run_and_folders_beside_each_other_are_several(tmp_path):
    written(tmp_path / "all" / "run", ["1,2"], "step,synbench/score")
    written(tmp_path / "all" / "run" / "charts", ["2,3"], "step,synbench/score")
    (run,) = runs_in(tmp_path / "all")
    assert (run.name, run.points) == (str(tmp_path / "all"), {1: {"score": 2}, 2: {"score": 3}})
    written(tmp_path / "all" / "more", ["2,3"], "step,synbench/score")
    assert [run.name for run in runs_in(tmp_path / "all")] == [str(tmp_path / "all" / name) for name in ("more", "run")]


def test_of_a_column_that_holds_no_number_the_first_text_is_named(tmp_path):
    (run,) = runs_in(written(tmp_path, ["1,2,1", "2,2,none", f"3,2,{'x' * 50}", "y,4,1"], SHORT + "worst"))
    assert run.points == {1: {"worst": 1, "score": 2}, 2: {"score": 2}, 3: {"score": 2}}
    assert set(run.warnings) == {
        "metrics.csv: the column 'synbench/worst' contains 'none', which is not a number",
        "metrics.csv: the column 'step' contains 'y', which is not a number",
    }


def tables(page):
    """The rows of each table of a page, as a reader sees them."""
    found = []
    for table in re.findall("<table>(.*?)</table>", page, re.DOTALL):
        rows = re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        found.append([[html.unescape(cell.replace("<wbr>", "")) for cell in row] for row in cells])
    return found


def test_the_report_of_a_log_has_its_numbers(tmp_path, capsys):
    folder = written(tmp_path / "runs" / "one")
    (folder / "hparams.yaml").write_text("lr: 0.1\nnet: {width: 8, kind: {deep: true}}\n")
    out = printed(capsys, "report", folder, "--output", tmp_path / "a" / "new" / "page.html")
    page = (tmp_path / "a" / "new" / "page.html").read_text()
    assert out == f"{tmp_path}/a/new/page.html: 1 run, {len(page) / 1024:,.0f} KiB\n"
    assert "<p class=first><b>information 2.500</b> at its best, after 1,000 steps, now 2.000 ± 0.250</p>" in page
    summary, settings, values = tables(page)
    assert summary == [
        ["run", "best", "best checkpoint", "last score", "worst task", "effective rank", "probes", "time in probes"],
        ["runs/one", "information 2.500 at step 1,000", "none at the step of a probe", "0.625 at step 1,500", "0.500",
         "6.0", "3", "3.8 s, 0.4% of the time"],
    ]  # fmt: skip
    assert settings == [
        ["setting", "value"], ["values from", "a CSV log"], ["folder", str(folder)], ["lr", "0.1"], ["net.width", "8"],
        ["net.kind.deep", "True"],
    ]  # fmt: skip
    assert values[0][:2] == ["step", "score"]
    by_step = {row[0]: dict(zip(values[0], row, strict=True)) for row in values[1:]}
    assert list(by_step) == ["0", "1,000", "1,500"]
    assert (by_step["0"]["effective_rank"], by_step["1,000"]["worst"]) == ("7.25", "-")
    assert "The task dc is 0 throughout" in page
    assert page.count("<figure>") == 1
    assert "of the last" not in page


def warnings_of(page):
    return [html.unescape(one) for one in re.findall("<p class=warning>(.*?)</p>", page)]


@pytest.mark.parametrize(("last", "warned"), [(0.86, False), (0.84, True)])
def test_a_fall_is_reported_beyond_two_standard_errors_of_the_difference(tmp_path, last, warned):
    rows = ["0,0.5,0.01,0", "10,0.95,0.03,0.2", f"20,{last},0.04,0"]  # sqrt(.03² + .04²) = .05
    (run,) = runs_in(written(tmp_path, rows, "step,synbench/score,synbench/score_se,synbench_tasks/dc"))
    page = report([run])
    expected = f"The last score is {0.95 - last:.3f} below the best one, at step 10: more than noise."
    assert warnings_of(page) == ([expected] if warned else [])


def test_without_standard_errors_no_fall_is_reported_and_at_its_best_nothing_is_now(tmp_path):
    (falling,) = runs_in(written(tmp_path / "a", ["0,0.9", "10,0.1"], "step,synbench/score"))
    assert warnings_of(report([falling])) == []
    (rising,) = runs_in(written(tmp_path / "b", ["0,0.1", "10,0.9"], "step,synbench/score"))
    page = report([rising])
    assert "<b>score 0.900</b> at its best, after 10 steps</p>" in page
    assert tables(page)[0][1][4:] == ["-", "-", "2", "-"]


def test_a_checkpoint_beside_the_best_step_has_its_value(tmp_path):
    found = Run(
        "a/b", {0: {"score": 0.5}, 10: {"score": 0.75}, 20: {"score": 0.625}, 30: {"score": 0.5}}, (), {},
        {20: tmp_path / "late.ckpt", 30: tmp_path / "later.ckpt", 40: tmp_path / "never.ckpt"}, {}, "event files", (),
    )  # fmt: skip
    assert found.best_checkpoint == (20, tmp_path / "late.ckpt")
    assert tables(report([found]))[0][1][2] == "late.ckpt (0.625, step 20)"


def test_a_difference_of_just_two_standard_errors_is_no_fall(tmp_path):
    rows = ["10,0.75,0.15", "20,0.25,0.2"]  # sqrt(.15² + .2²) = .25
    (run,) = runs_in(written(tmp_path, rows, SHORT + "score_se"))
    assert warnings_of(report([run])) == []


def probed(step, information=2.0, **more):
    """A probe under views that are the same for all."""
    more = {"information_kind": "views", "inputs": "40", "information_error": 0.1, "input_shape": (3,), **more}
    return written_result(step=step, information=information, **more)


def run_of(name, *history):
    points = {result.step: logged_values(result, 0.7) for result in history}
    return Run(name, points, history, {}, {}, {}, "the history in a checkpoint", ())


def test_a_collapse_and_other_arguments_are_dated():
    gone = {"accuracy": (((0.5, 0.5),),), "bound": (((0.0, 0.0),),)}
    history = [probed(0), probed(10, **gone), probed(20, **gone), probed(30), probed(40, seed=1)]
    collapse = "At step 10 the representation had collapsed: the features were constant."
    change = "From step 40 on the probes had other arguments: scores across it are not comparable."
    assert warnings_of(report([run_of("a/b", *history)])) == [collapse, change]


def test_the_ranking_comes_first_and_what_is_not_in_it_is_a_warning():
    runs = [
        run_of("x/one", probed(10, 5.0)),
        run_of("x/two", probed(10, 4.0)),
        run_of("x/three", probed(10, 3.0, seed=1)),
    ]
    page = report(runs)
    (first,) = re.findall("<p class=first>(.*?)</p>", page)
    assert first.startswith("Best is x/one, by information under the same views, in nats: ")
    assert warnings_of(page)[0] == "Not comparable: x/three (a different seed)."
    assert [row[1] for row in tables(page)[0]] == ["run", "x/one", "x/two"]
    assert page.index("<p class=first>") < page.index("<table>") < page.index("Not comparable")
    plain = [run_of("x/one", written_result(step=1)), run_of("x/two", written_result(step=1))]
    page = report(plain)
    assert "<p class=first>" not in page
    assert warnings_of(page)[0].startswith("This does not rank representations: the score can be misleading.")


@pytest.mark.parametrize("command", ["history", "report"])
def test_checkpoints_with_other_objects_are_read_where_asked(tmp_path, capsys, command):
    folder = written(tmp_path / "run")
    torch.save({"global_step": 1000, "callbacks": {}, "folder": tmp_path}, folder / "last.ckpt")

    def text(*more):
        out = printed(capsys, command, folder, *more, *(["--output", "page.html"] if command == "report" else []))
        return " ".join((out if command == "history" else Path("page.html").read_text()).split())

    refused = "last.ckpt could not be read (if you trust its origin, add --weights-only false)"
    assert refused in text()
    assert refused in text("--weights-only", "true")
    assert "could not be read" not in text("--weights-only", "false")


def evaluation(**more):
    values = {
        "tasks": ("easy", "hard"), "value": -0.5, "standard_error": 0.01, "interval": (-0.52, -0.48),
        "task_values": (-0.25, -0.75), "task_intervals": ((-0.26, -0.24), (-0.8, -0.7)), "complete": False,
        "num_points": 50, "detectable_difference": 0.03, "audit_error": None, "audit_standard_error": None,
        "seconds": 0.1, "step": 1000,
    }  # fmt: skip
    return BenchmarkResult(**{**values, **more})


@pytest.mark.parametrize(
    ("more", "rows"),
    [
        (
            {"signal": 0.04, "noise": 0.01, "task_signals": (0.06, 0.02), "task_noises": (0.0, 0.04),
             "decision_accuracy": 0.75, "task_decision_accuracies": (0.5, None)},
            [["all tasks", "-0.5000", "[-0.5200, -0.4800]", "0.04", "0.01", "4.0", "75%"],
             ["easy", "-0.2500", "[-0.2600, -0.2400]", "0.06", "0", "-", "50%"],
             ["hard", "-0.7500", "[-0.8000, -0.7000]", "0.02", "0.04", "0.5", "-"]],
        ),
        (
            {"complete": True},
            [["all tasks", "-0.5000", "all items", "-", "-", "-", "-"], ["easy", "-0.2500", "all items", *"----"],
             ["hard", "-0.7500", "all items", "-", "-", "-", "-"]],
        ),
    ],
)  # fmt: skip
def test_the_last_evaluation_of_a_benchmark_is_a_table(more, rows):
    benchmarks = {"skills": (*[evaluation(step=500, value=0.0)] * 2, evaluation(**more)), "none": ()}
    run = Run("a/b", {0: {"score": 0.5}}, (), benchmarks, {}, {}, "event files", ())
    page = report([run])
    assert re.findall("<h3>(.*?)</h3>", page) == ["skills: the last evaluation, at step 1,000"]
    assert tables(page)[1][0] == ["task", "value", "95% interval", "signal", "noise", "signal / noise", "order"]
    assert tables(page)[1][1:] == rows
