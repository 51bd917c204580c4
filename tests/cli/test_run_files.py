import json
import re
import xml.etree.ElementTree as ET

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import TensorDataset

from synbench_lightning import BenchmarkCallback, rank, save_views
from synbench_lightning.cli import main
from synbench_lightning.cli.run_files import runs_in
from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder

LOGGERS = {"tensorboard": TensorBoardLogger, "csv": CSVLogger}


def trained(folder, logger="tensorboard", checkpoints=True, max_steps=20, **arguments):
    callback = probing(every=5, **arguments)
    callbacks = [callback, ModelCheckpoint(every_n_train_steps=5, save_top_k=-1)] if checkpoints else [callback]
    kind = LOGGERS.get(logger)
    trainer(
        *callbacks, max_steps=max_steps, logger=kind(folder, name="run") if kind else False, default_root_dir=folder,
        enable_checkpointing=checkpoints,
    ).fit(Autoencoder())  # fmt: skip
    return callback.history


def run(capsys, *arguments):
    try:
        code = main(arguments)
    except SystemExit as exit:
        code = exit.code
    found = capsys.readouterr()
    return code, found.out, found.err


@pytest.mark.parametrize("logger", ["tensorboard", "csv"])
@pytest.mark.parametrize("checkpoints", [True, False])
def test_the_points_are_those_of_the_callback_whatever_has_kept_them(tmp_path, logger, checkpoints):
    history = trained(tmp_path, logger, checkpoints)
    (found,) = runs_in(tmp_path)
    assert list(found.points) == [0, 5, 10, 15, 20]
    for result in history:
        assert found.points[result.step]["score"] == pytest.approx(result.score(), rel=1e-6)
        assert found.points[result.step]["task/cos_1"] == pytest.approx(result.score("cos_1"), rel=1e-6)
        assert 0 < found.points[result.step]["overhead"] < 1
    assert found.source == (
        "the history in a checkpoint" if checkpoints else {"csv": "a CSV log"}.get(logger, "event files")
    )
    assert len(found.history) == (5 if checkpoints else 0)


def test_a_folder_of_checkpoints_is_enough(tmp_path):
    history = trained(tmp_path, logger=None)
    (found,) = runs_in(tmp_path)
    assert found.history == tuple(history)
    assert sorted(found.checkpoints) == [5, 10, 15, 20]
    best = max(history[1:], key=lambda result: result.score())
    step, path = found.best_checkpoint
    assert step == best.step
    assert torch.load(path, weights_only=True)["global_step"] == step


def test_a_log_that_goes_on_after_the_last_checkpoint_is_preferred(tmp_path):
    trained(tmp_path)
    for path in tmp_path.rglob("*step=20.ckpt"):
        path.unlink()
    (found,) = runs_in(tmp_path)
    assert (found.source, found.last_step, len(found.history)) == ("event files", 20, 4)


def test_runs_beside_each_other_are_kept_apart(tmp_path):
    trained(tmp_path), trained(tmp_path, max_steps=10)
    assert [(run.name.rsplit("/", 1)[1], run.last_step) for run in runs_in(tmp_path)] == [
        ("version_0", 20), ("version_1", 10)
    ]  # fmt: skip


def test_another_prefix_is_found_where_it_is_named(tmp_path, capsys):
    trained(tmp_path, prefix="deep")
    assert run(capsys, "history", str(tmp_path), "--prefix", "deep")[0] == 0
    code, _, err = run(capsys, "history", str(tmp_path))
    assert code == 1
    assert "no value of `synbench/score` was found in 5 checkpoints, event files and CSV logs" in err


def test_history_prints_each_probe_and_the_best_checkpoint(tmp_path, capsys):
    history = trained(tmp_path)
    code, out, err = run(capsys, "history", str(tmp_path), "--figure", "curve.svg")
    assert (code, err) == (0, "")
    for result in history:
        assert re.search(
            rf"^ *{result.step} +{result.score():.3f} ± {result.standard_error():.3f} +█", out, re.MULTILINE
        )
    best = max(history, key=lambda result: result.score())
    assert f"Best score {best.score():.3f} ± {best.standard_error():.3f} after {best.step} steps." in out
    assert ET.parse(tmp_path / "curve.svg").getroot().tag.endswith("svg")
    code, out, _ = run(capsys, "history", str(tmp_path), "--json")
    assert json.loads(out)["runs"][0]["points"]["10"]["score"] == history[2].score()


def test_where_information_was_measured_it_says_which_checkpoint_is_best(tmp_path, capsys):
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    history = trained(tmp_path, inputs=x)
    best = max(history, key=lambda result: result.information)
    (found,) = runs_in(tmp_path)
    assert (found.monitored, found.best_step) == ("information", best.step)
    code, out, _ = run(capsys, "history", str(tmp_path), "--figure", "new/folder/curve.svg")
    assert code == 0
    for result in history:
        assert f"{result.information:.2f} ± {result.information_error:.2f}" in out
    value = f"{best.information:.2f} ± {best.information_error:.2f}"
    assert f"Best information {value} after {best.step} steps." in out
    assert ET.parse(tmp_path / "new/folder/curve.svg").getroot().tag.endswith("svg")
    run(capsys, "report", str(tmp_path), "--output", "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f"information {best.information:.3f} ± {best.information_error:.3f} at step {best.step}" in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["history"], 2, "the following arguments are required: RUN_DIR"),
        (["history", "nowhere"], 2, "argument RUN_DIR: 'nowhere' is not a folder"),
        (["history", "."], 1, "contains no checkpoint, event file or CSV log"),
        (["history", ".", "--figure", "curve.bmp"], 2, "--figure: must end in .svg, .pdf, .png, got 'curve.bmp'"),
        (["history", ".", "--prefix", "a/b"], 2, "argument --prefix: must be a non-empty string without '/'"),
        (["report"], 2, "the following arguments are required: RUN_DIR"),
        (["report", "nowhere"], 2, "argument RUN_DIR: 'nowhere' is not a folder"),
        (["report", "."], 1, "contains no checkpoint"),
        (["repot", "."], 2, "invalid choice: 'repot'"),
        ([], 2, "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_use_is_told_in_one_line(capsys, arguments, code, message):
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_checkpoint_that_could_run_code_is_left_out_with_a_note(tmp_path, capsys):
    trained(tmp_path)
    for path in tmp_path.rglob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        torch.save({**saved, "hyper_parameters": {"path": tmp_path}}, path)
    code, out, _ = run(capsys, "history", str(tmp_path))
    assert code == 0
    assert "from event files" in out
    assert "could not be read (if you trust its origin, add --weights-only false)" in " ".join(out.split())
    assert "from the history in a checkpoint" in run(capsys, "history", str(tmp_path), "--weights-only", "false")[1]


def test_files_that_are_damaged_are_notes_too(tmp_path, capsys):
    trained(tmp_path)
    (tmp_path / "broken.ckpt").write_bytes(b"no checkpoint")
    assert "Note: broken.ckpt could not be read" in run(capsys, "history", str(tmp_path))[1]


def page_of(tmp_path, capsys, *folders):
    output = tmp_path / "out" / "report.html"
    code, out, err = run(capsys, "report", *map(str, folders), "--output", str(output))
    assert (code, err) == (0, "")
    assert str(output) in out
    return output.read_text()


def test_the_report_is_one_page_that_asks_nothing_of_others(tmp_path, capsys):
    trained(tmp_path / "one")
    trained(tmp_path / "two", "csv", checkpoints=False)
    page = page_of(tmp_path, capsys, tmp_path / "one", tmp_path / "two")
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!--.*?-->', "", page, flags=re.DOTALL)
    assert not re.search(r'https?://|src=|href="(?!#|data:)|@import|<script|<link', without_names)
    assert page.count("<h2>") == 2
    assert "prefers-color-scheme: dark" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_the_report_says_what_the_runs_have_come_to(tmp_path, capsys):
    history = trained(tmp_path / "one")
    page = page_of(tmp_path, capsys, tmp_path / "one")
    best = max(history, key=lambda result: result.score())
    assert f"{history[-1].score():.3f} ± {history[-1].standard_error():.3f} at step 20" in page
    assert f"{best.score():.3f} ± {best.standard_error():.3f} at step {best.step}" in page
    assert "forwards=768" in page  # the plan
    assert "of the time" in page  # the cost
    assert "Robustness-accuracy curve, task dc" in page


def test_the_report_says_what_a_benchmark_is_worth_for_decisions(tmp_path, capsys):
    x = torch.rand(300, 2, generator=torch.Generator().manual_seed(0))
    tasks = {"rising": TensorDataset(x, torch.zeros(300)), "restless": TensorDataset(x, torch.ones(300))}

    def answered(module, batch):
        (level, _), restless, step = batch[0].T, batch[1], module.trainer.global_step
        return -2 - level + torch.where(restless > 0, torch.tensor(step // 2 * 37 % 101 / 101), 0.02 * step)

    benchmark = BenchmarkCallback(tasks, 0.1, log_likelihood=answered, warmup=9, every_n_train_steps=2)
    saving = ModelCheckpoint(every_n_train_steps=10, save_top_k=-1)
    trainer(
        probing(every=10), benchmark, saving, max_steps=20, logger=False, default_root_dir=tmp_path,
        enable_checkpointing=True,
    ).fit(Autoencoder())  # fmt: skip
    page, last = page_of(tmp_path, capsys, tmp_path), benchmark.history[-1]
    assert "benchmark: the last evaluation, at step 20" in page
    assert "The task restless is uninformative so far" in page
    assert "The task rising is uninformative so far" not in page
    assert f">{last.signal / last.noise:.1f}</td>" in page
    assert f">{last.decision_accuracy:.0%}</td>" in page


def test_the_report_warns_of_what_a_curve_does_not_show(tmp_path, capsys):
    trained(tmp_path / "one", seed=0)
    trained(tmp_path / "two", seed=1)
    trained(tmp_path / "blind", encoder=without_mean)
    page = page_of(tmp_path, capsys, tmp_path / "one", tmp_path / "two", tmp_path / "blind")
    assert "This does not rank representations: the score can be misleading." in page
    assert "(a different seed)." in page
    assert "The task dc is 0 throughout" in page


SHAPE = (1, 8, 8)


def shifted(batch):
    return batch + torch.randn(len(batch), 1, 1, 1)


def test_runs_under_one_set_of_views_are_ranked_by_report_and_history(tmp_path, capsys):
    save_views("views.pt", torch.randn(40, *SHAPE, generator=torch.Generator().manual_seed(0)), shifted)
    histories = {}
    for name, more in {"one": {}, "two": {}, "other": {"seed": 1}}.items():
        torch.manual_seed(len(histories))
        histories[f"{name}"] = trained(tmp_path / name, views="views.pt", inputs="auto", **more)
    trained(tmp_path / "log", checkpoints=False)
    expected = rank(histories)
    folders = [str(tmp_path / name) for name in (*histories, "log")]
    code, out, _ = run(capsys, "history", *folders, "--json")
    assert code == 0
    (ranking,) = json.loads(out)["rankings"]
    assert [one["name"].split("/")[-1] for one in ranking["ranked"]] == [one.name for one in expected.ranked]
    assert [one["behind"] for one in ranking["ranked"]] == pytest.approx([one.behind for one in expected.ranked])
    assert [one["behind_error"] for one in ranking["ranked"]] == pytest.approx(
        [one.behind_error for one in expected.ranked]
    )
    assert list(ranking["excluded"].values()) == ["a different seed"]
    text = " ".join(run(capsys, "history", *folders)[1].split())
    verdict = "cannot be distinguished" if expected.rivals else "all others are worse by at least two standard errors"
    page = page_of(tmp_path, capsys, *folders)
    for found in (text, page):
        assert f"{expected.best}, by information under the same views, in nats: " in found
        assert verdict in found
        assert "(a different seed)." in found
        assert "none of their checkpoints contains the" in found


def without_mean(module, x):
    flat = x.flatten(1)
    return module.encoder((flat - flat.mean(1, keepdim=True)).reshape(x.shape))


def test_names_are_shown_as_they_are_and_not_as_html(tmp_path, capsys):
    trained(tmp_path / "<b>bold", "csv", checkpoints=False)
    page = page_of(tmp_path, capsys, tmp_path / "<b>bold")
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_a_text_in_a_log_is_a_note_and_its_row_keeps_its_other_values(tmp_path, capsys):
    trained(tmp_path, "csv", checkpoints=False)
    (path,) = tmp_path.rglob("metrics.csv")
    rows = [row.split(",") for row in path.read_text().splitlines()]
    score, worst = (rows[0].index(f"synbench/{key}") for key in ("score", "worst"))
    rows[1][score], rows[2][worst] = "n/a", "<b>"
    path.write_text("\n".join(map(",".join, rows)))
    (found,) = runs_in(tmp_path)
    assert list(found.points) == [5, 10, 15, 20]
    assert "worst" not in found.points[5]
    code, out, _ = run(capsys, "history", str(tmp_path))
    assert code == 0
    assert "metrics.csv: the column 'synbench/score' contains 'n/a', which is not a number" in " ".join(out.split())


@pytest.mark.parametrize("change", [{"format": 99}, {"history": [{"colour": "red"}]}, {"history": "long"}])
def test_a_history_of_another_version_is_a_note_and_the_log_is_read(tmp_path, change):
    trained(tmp_path)
    for path in tmp_path.rglob("*.ckpt"):
        saved = torch.load(path, weights_only=True)
        (key,) = [key for key in saved["callbacks"] if key.startswith("SynBench")]
        saved["callbacks"][key] |= change
        torch.save(saved, path)
    (found,) = runs_in(tmp_path)
    assert list(found.points) == [0, 5, 10, 15, 20]
    assert (found.source, found.history, len(found.checkpoints)) == ("event files", (), 4)
    assert sum("its history cannot be read" in note for note in found.warnings) == 4


def test_the_number_to_watch_comes_first_and_a_run_has_a_short_name(tmp_path, capsys):
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    history = trained(tmp_path / "one", inputs=x)
    page = page_of(tmp_path, capsys, tmp_path / "one")
    best = max(history, key=lambda result: result.information)
    first = page.index(f"<b>information {best.information:.3f} ± {best.information_error:.3f}</b>")
    assert first < page.index("<table")
    (title,) = re.findall(r"<h2>(.*?)</h2>", page)
    assert str(tmp_path) not in title
    assert title.endswith("one")
    assert "<wbr>" in page  # a path in a table breaks behind a slash
