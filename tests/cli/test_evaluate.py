import importlib
import json
import math

import numpy as np
import pytest
import torch

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.cli import main
from tests.cli.commands import QUICK, SHAPE, run, scores

pytestmark = pytest.mark.usefixtures("a_folder_with_encoders")


def test_the_score_is_that_of_evaluate(capsys):
    found = scores(capsys, "--encoder", "encoders:make", "--encoder.width", "24", "--encoder.scale=2", *QUICK)
    (model,) = found["models"]
    from encoders import make

    result = evaluate(make(24, 2.0), (1, 8, 8), tasks="default", plan=ProbePlan(forwards=768))
    assert model["score"] == result.score()
    assert model["standard_error"] == result.standard_error()
    assert model["tasks"] == result.task_scores()
    assert model["name"] == "encoders:make(width=24, scale=2)"


def test_settings_reach_the_probe(capsys):
    found = scores(
        capsys, "--encoder", "encoders:make", *SHAPE, "--tasks", "dc", "--epsilons", "0", "0.4", "--seed", "3",
        "--threshold", "0.8", "--mean", "0.5", "--std", "0.25", "--forwards", "1024", "--batch-size", "100",
    )  # fmt: skip
    from encoders import make

    result = evaluate(
        make(), (1, 8, 8), tasks="dc", plan=ProbePlan(forwards=1024), epsilons=(0.0, 0.4), seed=3, normalize=(0.5, 0.25)
    )
    assert found["models"][0]["score"] == pytest.approx(result.score(threshold=0.8))
    assert found["models"][0]["result"]["accuracy"] == result.to_dict()["accuracy"]


def test_views_and_labels_are_those_of_a_function_and_a_file(capsys):
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (x.mean((1, 2, 3)) > 0).long()
    torch.save(x, "x.pt")
    torch.save(labels, "y.pt")
    own = importlib.import_module("encoders")
    arguments = ["evaluate", "--encoder", "encoders:make", *QUICK, "--inputs", "x.pt", "--labels", "y.pt"]
    assert main([*arguments, "--views", "encoders:shifted", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["models"]
    result = evaluate(
        own.make(), (1, 8, 8), tasks="default", plan=ProbePlan(forwards=768), inputs=x, views=own.shifted, labels=labels
    )
    assert (found["information"], found["information_kind"]) == (pytest.approx(result.information), "views")
    assert found["readout"] == pytest.approx(result.readout)
    assert main([*arguments, "--views", "encoders:shifted"]) == 0
    table = capsys.readouterr().out
    assert "Information about the inputs in random views" in table
    assert "cached" in table
    assert f"{result.readout:.3f} ± {result.readout_error:.3f}" in table
    assert main(arguments) == 0  # the same inputs with noise are another question
    table = capsys.readouterr().out
    assert "with white noise" in table
    assert "cached" not in table
    assert main([*arguments, "--views", "encoders:halved"]) == 2
    assert "argument --views: must return a floating-point tensor of the shape" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["inputs.pt", "inputs.npy"])
def test_information_about_inputs_in_a_file_is_measured_and_kept(capsys, name):
    x = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.save(x, name) if name.endswith(".pt") else np.save(name, x.numpy())
    arguments = ["--encoder", "encoders:make", *QUICK, "--inputs", name]
    found = [scores(capsys, *arguments)["models"][0] for _ in range(2)]
    from encoders import make

    result = evaluate(make(), (1, 8, 8), tasks="default", plan=ProbePlan(forwards=768), inputs=x)
    assert [(one["information"], one["cached"]) for one in found] == [
        (result.information, False),
        (result.information, True),
    ]
    assert not scores(capsys, "--encoder", "encoders:make", *QUICK)["models"][0]["cached"]
    out = run(capsys, *arguments)[1]
    assert f"{result.information:.2f} ± {result.information_error:.2f}" in out


def test_several_encoders_are_ranked_and_those_within_the_noise_are_named(capsys):
    arguments = ["--encoder", "encoders:make", "--encoder", "encoders:make", "--encoder.width", "62", *QUICK]
    more = ["--encoder", "encoders:make", "--encoder.width=63"]
    found = scores(capsys, *arguments, *more)
    names = [model["name"] for model in found["models"]]
    assert names[2] == "encoders:make"
    for one, other in found["cannot_be_told_apart"]:
        first, second = (next(model for model in found["models"] if model["name"] == name) for name in (one, other))
        error = math.hypot(first["standard_error"], second["standard_error"])
        assert abs(first["score"] - second["score"]) < 2 * error
    assert [set(pair) for pair in found["cannot_be_told_apart"]] == [set(names[:2])]
    code, out, err = run(capsys, *arguments, *more)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert [row[:2] for row in rows] == [[str(rank), name] for rank, name in enumerate(names, 1)]
    assert f"Cannot be told apart: {names[0]} and {names[1]}." in out


def test_the_same_encoder_twice_has_two_names(capsys):
    found = scores(capsys, "--encoder", "encoders:make", "--encoder", "encoders:make", *QUICK)
    assert [model["name"] for model in found["models"]] == ["encoders:make #1", "encoders:make #2"]


def test_nothing_is_computed_twice(capsys):
    def cached(*arguments):
        return [model["cached"] for model in scores(capsys, "--encoder", "encoders:make", *QUICK, *arguments)["models"]]

    assert cached() == [False]
    assert cached() == [True]
    assert cached("--batch-size", "64") == [True]  # changes nothing
    assert cached("--no-cache") == [False]
    for other in (["--seed", "1"], ["--forwards", "1024"], ["--tasks", "dc"], ["--mean", "0.5", "--std", "1"]):
        assert cached(*other) == [False], other
    assert scores(capsys, "--encoder", "encoders:make", "--encoder.scale=1.1", *QUICK)["models"][0]["cached"] is False
    assert cached("--cache-dir", "elsewhere") == [False]
    assert cached("--cache-dir", "elsewhere") == [True]


def test_a_damaged_cache_is_computed_again(capsys, tmp_path):
    first = scores(capsys, "--encoder", "encoders:make", *QUICK)["models"][0]
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text("{")
    again = scores(capsys, "--encoder", "encoders:make", *QUICK)["models"][0]
    assert (again["score"], again["cached"]) == (first["score"], False)


ENCODER = ["--encoder", "encoders:make"]


def test_one_encoder_that_fails_does_not_cost_the_others(capsys):
    code, out, err = run(capsys, "--encoder", "encoders:broken", *ENCODER, *QUICK)
    assert code == 1
    assert "encoders:make" in out
    assert err.count("\n") == 1


def test_what_an_encoder_prints_is_kept_out_of_the_json(capsys):
    found = scores(capsys, "--encoder", "encoders:talkative", *QUICK)
    assert found["models"][0]["score"] == scores(capsys, *ENCODER, *QUICK)["models"][0]["score"]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_compiled_encoder_is_scored_like_its_source(capsys):
    found = scores(capsys, "--encoder", "encoders:scripted", *QUICK)
    assert found["models"][0]["score"] == pytest.approx(scores(capsys, *ENCODER, *QUICK)["models"][0]["score"])
