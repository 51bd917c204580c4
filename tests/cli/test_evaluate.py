import importlib
import json

import numpy as np
import pytest
import torch

from synbench_lightning import ProbePlan, ProbeResult, evaluate, rank, save_views
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
    assert "identity of the input, in random views" in " ".join(table.split())
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


def views_in_a_file(name="views.pt"):
    x = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return save_views(name, x, importlib.import_module("encoders").shifted)


def test_encoders_are_ranked_by_information_under_one_file_of_views(capsys):
    views_in_a_file()
    arguments = ["--encoder", "encoders:make", "--encoder", "encoders:make", "--encoder.scale", "2", *QUICK]
    more = ["--encoder", "encoders:lossy", "--encoder", "encoders:make", "--encoder.width=72", "--views", "views.pt"]
    found = scores(capsys, *arguments, *more)
    (ranking,) = found["rankings"]
    names = [one["name"] for one in ranking["ranked"]]
    assert [model["name"] for model in found["models"]][:3] == names
    assert (ranking["key"], ranking["holds"], names[2]) == ("information", True, "encoders:lossy")
    assert ranking["cannot_be_distinguished_from_best"] == [names[1]]  # a scale changes nothing
    assert list(ranking["excluded"]) == ["encoders:make(width=72)"]
    assert "72 features, not 16" in ranking["excluded"]["encoders:make(width=72)"]
    results = {model["name"]: ProbeResult.from_dict(model["result"]) for model in found["models"]}
    assert [one.name for one in rank(results).ranked] == names
    code, out, err = run(capsys, *arguments, *more)
    assert (code, err) == (0, "")
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [[str(n), name] for n, name in enumerate(names, 1)]
    assert f"cannot be distinguished from {names[1]}" in " ".join(out.split())
    assert "Not comparable: encoders:make(width=72) (72 features, not 16" in " ".join(out.split())


def test_groups_that_are_not_comparable_have_a_ranking_each(capsys):
    views_in_a_file()
    pairs = ["--encoder", "encoders:make", "--encoder", "encoders:lossy", "--encoder", "encoders:make"]
    pairs += ["--encoder.width=72", "--encoder", "encoders:make", "--encoder.width=72", "--encoder.scale=2"]
    found = scores(capsys, *pairs, *QUICK, "--views", "views.pt")["rankings"]
    assert [len(ranking["ranked"]) for ranking in found] == [2, 2]
    assert [len(ranking["excluded"]) for ranking in found] == [2, 0]


def test_by_the_score_alone_encoders_are_in_order_and_not_ranked(capsys):
    arguments = ["--encoder", "encoders:lossy", "--encoder", "encoders:make", *QUICK]
    (ranking,) = scores(capsys, *arguments)["rankings"]
    assert (ranking["key"], ranking["holds"], ranking["best"]) == ("score", False, "encoders:make")
    out = " ".join(run(capsys, *arguments)[1].split())
    assert "This does not rank representations: the score can be misleading." in out
    assert "Best is" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "nowhere.pt"], "argument --views: nowhere.pt could not be read"),
        (["--views", "flat.npy"], "argument --views: must be a tensor (N, V, *input_shape) with at least two views"),
        (["--views", "views.pt", "--inputs", "views.pt"], "omit `inputs`, or pass a function as `views`"),
        (["--views", "encoders:shifted"], "argument --views: needs --inputs, which they transform"),
    ],
)
def test_files_that_hold_no_views_are_refused(capsys, arguments, message):
    views_in_a_file()
    np.save("flat.npy", np.zeros((40, 64), dtype=np.float32))
    code, out, err = run(capsys, *ENCODER, *QUICK, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_the_same_encoder_twice_has_two_names(capsys):
    found = scores(capsys, "--encoder", "encoders:make", "--encoder", "encoders:make", *QUICK)
    assert [model["name"] for model in found["models"]] == ["encoders:make #1", "encoders:make #2"]


def test_names_are_short_in_a_table_and_whole_in_json(capsys, tmp_path):
    own = importlib.import_module("encoders")
    paths = [tmp_path / "one.pt", tmp_path / "two.pt"]
    for path in paths:
        torch.save(own.make().state_dict(), path)
    arguments = [*ENCODER, "--ckpt", *map(str, paths), *QUICK]
    _, text, _ = run(capsys, *arguments, "--json")
    found = json.loads(text)
    assert text == json.dumps(found, indent=2) + "\n"
    assert [model["name"] for model in found["models"]] == [f"encoders:make {path}" for path in paths]
    table = run(capsys, *arguments)[1]
    assert "two.pt" in table
    assert "encoders:make" not in table


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
