"""Every example runs, shortened, from a folder that is not its own."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import sklearn.datasets  # noqa: F401  # which sets environment variables when it is imported first
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def rows(text):
    return [line.split() for line in text.splitlines() if re.match(r" +\d+ +", line)]


@pytest.mark.parametrize("name", ["audio_waveforms.py", "text_embeddings.py", "list_of_views.py"])
def test_an_example_prints_the_score_of_every_probe(monkeypatch, capsys, name):
    run(monkeypatch, name, "--steps", "4")
    found = rows(capsys.readouterr().out)
    assert [int(row[0]) for row in found] == [0, 1, 2, 3, 4]
    assert all(0 <= float(row[1]) < 1.1 for row in found)


def test_the_first_example_judges_what_was_chosen_by_labels(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "pretrain_digits.py", "--steps", "6", "--every", "2", "--quiet", "--patience", "1")
    out = capsys.readouterr().out
    tables = out.split("run of seed 0:")[1:]
    assert len(tables) == 2
    for table in tables:
        probes = [row for row in rows(table) if "±" in row]
        assert [int(row[0]) for row in probes] == [0, 2, 4, 6]
        accuracy = {int(row[0]): float(row[5]) for row in probes}
        (chosen,) = [int(row[0]) for row in probes if row[-1] == "chosen"]
        information = {int(row[0]): float(row[2]) for row in probes[1:]}
        assert information[chosen] == max(information.values())
        choice = next(row for row in rows(table) if row[-1] == "saved)")
        assert float(choice[1]) == accuracy[chosen]
        assert [float(value) for value in choice[3:6]] == [accuracy[6], max(accuracy.values()), accuracy[0]]
    assert (tmp_path / "runs" / "digits_contrastive.png").exists()


def test_the_probing_example_prints_a_row_for_each_probe(monkeypatch, capsys):
    run(monkeypatch, "robust_probe_digits.py", "--steps", "2", "--seeds", "1")
    out = capsys.readouterr().out
    assert "best epsilon" in out
    for epsilon in ("0", "0.1", "0.2", "0.4", "0.6"):
        accuracy = [float(value) for value in re.search(rf"RobustLinearProbe\({epsilon}\) +(.+)", out)[1].split()[::3]]
        assert accuracy == sorted(accuracy, reverse=True)  # larger distances hurt more
        assert accuracy[0] > 0.5


def config():
    return yaml.safe_load((EXAMPLES / "cli_digits.yaml").read_text())


def test_lightning_cli_takes_every_callback_from_the_example_configuration(monkeypatch, tmp_path):
    settings = config()
    settings["trainer"] |= {"max_steps": 20, "enable_progress_bar": False}
    settings["trainer"]["callbacks"][0]["init_args"] |= {"every_n_train_steps": 10, "log_figures": False}
    settings["trainer"]["callbacks"][2]["init_args"]["every_n_train_steps"] = 10
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(settings))
    more = ["--trainer.callbacks+=synbench_lightning.SynBenchCallback", "--trainer.callbacks.prefix=deep"]
    more += ["--trainer.callbacks.encoder=encoder.deep", "--trainer.callbacks.log_figures=false"]
    cli = []
    monkeypatch.setattr("lightning.pytorch.cli.LightningCLI.after_fit", lambda self: cli.append(self), raising=False)
    run(monkeypatch, "cli_digits.py", "fit", "--config", str(tmp_path / "short.yaml"), *more)
    callbacks = cli[0].trainer.callbacks
    first, other = (one for one in callbacks if type(one).__name__ == "SynBenchCallback")
    assert [result.step for result in first.history] == [0, 10, 20]
    assert first.history[0].epsilons == (0.0, 0.2)
    assert other.prefix == "deep"
    assert [result.step for result in other.history] == [0, 20]
    (checkpoint,) = (one for one in callbacks if isinstance(one, ModelCheckpoint))
    assert Path(checkpoint.best_model_path).is_file()
    assert list(tmp_path.glob("runs/cli/version_0/events*"))
