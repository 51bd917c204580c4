import importlib
import json
import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.cli import main
from synbench_lightning.cli.errors import CommandError
from synbench_lightning.cli.sources import Source, candidates
from tests.callbacks.runs import trainer
from tests.encoders import Autoencoder

ENCODERS = """
import torch
from torch import nn
from tests.encoders import Autoencoder

def make(width: int = 16, scale: float = 1.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
    encoder[1].weight.data *= scale
    return encoder

def needs(width: int):
    return make(width)

def function():
    return lambda x: x.flatten(1)

def shifted(batch):
    return batch + torch.randn(len(batch), 1, 1, 1)

def halved(batch):
    return batch[::2]

def broken():
    raise KeyError("out of luck")

def number():
    return 3

class Failing(nn.Module):
    def forward(self, x):
        raise IndexError("no such layer")

class Wide(Autoencoder):
    def __init__(self, width: int = 32, start: float = 0.0):
        super().__init__()
        self.save_hyperparameters()
        self.trunk = nn.ModuleDict({"deep": nn.Sequential(nn.Flatten(), nn.Linear(64, width))})

def talkative():
    print("Loaded the model in 0.1 seconds")
    return make()

def scripted():
    return torch.jit.script(make())

def interrupted():
    raise KeyboardInterrupt

ready = make()
constant = 7
"""
SHAPE = ["--input-shape", "1", "8", "8"]
QUICK = ["--forwards", "768", *SHAPE]


@pytest.fixture(autouse=True)
def a_folder_with_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("synbench_lightning.cli.evaluating.default_folder", lambda: tmp_path / "cache")
    (tmp_path / "encoders.py").write_text(ENCODERS)
    (tmp_path / "raising.py").write_text("import nothing_of_that_name\n")
    yield
    sys.modules.pop("encoders", None)


def run(capsys, *arguments):
    try:
        code = main(["evaluate", *arguments])
    except SystemExit as exit:
        code = exit.code
    found = capsys.readouterr()
    return code, found.out, found.err


def scores(capsys, *arguments):
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def checkpoint(name="wide.ckpt", **arguments):
    module = importlib.import_module("encoders").Wide(**arguments)
    fit = trainer(max_steps=2)
    fit.fit(module)
    fit.save_checkpoint(name)
    return module


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


@pytest.mark.parametrize("spec", ["encoders:function", "encoders:ready", "torch.nn:Flatten"])
def test_functions_modules_and_classes_are_encoders_too(capsys, spec):
    assert scores(capsys, "--encoder", spec, *QUICK)["models"][0]["score"] > 0.3


def test_weights_are_loaded_into_an_encoder(capsys):
    from encoders import make

    other = make(scale=3.0)
    torch.save(other.state_dict(), "weights.pt")
    torch.save({"state_dict": other.state_dict(), "epoch": 3}, "nested.pt")
    found = scores(
        capsys, "--encoder", "encoders:make", "--encoder.scale=0", "--ckpt", "weights.pt", "nested.pt", *QUICK
    )
    expected = evaluate(other, (1, 8, 8), tasks="default", plan=ProbePlan(forwards=768)).score()
    assert [model["score"] for model in found["models"]] == [expected, expected]
    torch.save(make(width=8).state_dict(), "narrow.pt")
    code, _, err = run(capsys, "--encoder", "encoders:make", "--ckpt", "narrow.pt", *QUICK)
    assert code == 1
    assert "--ckpt narrow.pt: RuntimeError: " in err
    torch.save(Autoencoder().state_dict(), "other.pt")
    assert "does not fit the encoder; missing are 1.bias, 1.weight, not known" in run(
        capsys, "--encoder", "encoders:make", "--ckpt", "other.pt", *QUICK
    )[2]  # fmt: skip


def test_checkpoints_of_a_lightning_module_are_scored(capsys):
    model = checkpoint(width=24)
    plan = ProbePlan(forwards=768)
    found = scores(capsys, "--module", "encoders:Wide", "--ckpt", "wide.ckpt", *QUICK)
    assert found["models"][0]["score"] == evaluate(model.encoder, (1, 8, 8), tasks="default", plan=plan).score()
    attribute = ["--module.start=0.5", "--ckpt", "wide.ckpt", "--attribute", "trunk.deep"]
    found = scores(capsys, "--module", "encoders:Wide", *attribute, *QUICK)
    deep = model.trunk["deep"]
    assert found["models"][0]["score"] == evaluate(deep, (1, 8, 8), tasks="default", plan=plan).score()


def test_an_example_input_says_the_shape(capsys, tmp_path):
    text = ENCODERS + "\nWide.example_input_array = torch.rand(2, 1, 8, 8)\n"
    (tmp_path / "encoders.py").write_text(text)
    checkpoint()
    found = scores(capsys, "--module", "encoders:Wide", "--ckpt", "wide.ckpt", "--forwards", "768")
    assert found["models"][0]["input_shape"] == [1, 8, 8]


def test_a_checkpoint_that_could_run_code_is_loaded_only_where_asked(capsys):
    from encoders import make

    torch.save({"state_dict": make().state_dict(), "config": types.SimpleNamespace(a=1)}, "unsafe.pt")
    code, _, err = run(capsys, "--encoder", "encoders:make", "--ckpt", "unsafe.pt", *QUICK)
    assert code == 1
    assert "loading that can run code. If you trust its origin, add --weights-only false" in err
    assert err.count("\n") == 1
    assert scores(capsys, "--encoder", "encoders:make", "--ckpt", "unsafe.pt", "--weights-only", "false", *QUICK)


class Timm(nn.Module):
    """What this command asks of a timm model."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 5)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def test_timm_models_come_with_their_own_shape_and_normalisation(monkeypatch):
    calls = []

    def create_model(name, **arguments):
        calls.append((name, arguments))
        return Timm()

    config = {"input_size": (3, 10, 12), "mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0), "crop_pct": 0.9}
    data = types.SimpleNamespace(resolve_model_data_config=lambda model: config)
    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model, data=data))
    (candidate,) = candidates(Source("encoder", "timm:tiny", ["drop_rate=0.5"]), weights_only=True)
    loaded = candidate.load()
    assert calls == [("tiny", {"pretrained": True, "num_classes": 0, "drop_rate": 0.5})]
    assert loaded.input_shape == (3, 10, 12)
    assert loaded.normalize == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    assert loaded.encoder(torch.zeros(2, 3, 10, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("inputs", "shape"), [("pixel_values", (3, 16, 16)), ("input_values", (16_000,)), ("input_ids", (32, 6))]
)
def test_transformers_models_of_three_kinds_get_their_own_inputs(monkeypatch, inputs, shape):
    class Model(nn.Module):
        main_input_name = inputs
        config = types.SimpleNamespace(is_encoder_decoder=False)

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding.from_pretrained(torch.randn(500, 6) * torch.arange(1, 7) + 3)

        def get_input_embeddings(self):
            return self.table

        def forward(self, **given):
            (self.seen,) = given.items()
            return types.SimpleNamespace(last_hidden_state=torch.zeros(len(self.seen[1]), 4, 5))

    model = Model()
    processor = types.SimpleNamespace(size={"shortest_edge": 16}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    package = types.SimpleNamespace(
        AutoModel=types.SimpleNamespace(from_pretrained=lambda name: model),
        AutoImageProcessor=types.SimpleNamespace(from_pretrained=lambda name: processor),
    )
    monkeypatch.setitem(sys.modules, "transformers", package)
    (candidate,) = candidates(Source("encoder", "transformers:any"), weights_only=True)
    loaded = candidate.load()
    assert loaded.input_shape == shape
    assert loaded.normalize == (((0.5,) * 3, (0.2,) * 3) if inputs == "pixel_values" else None)
    x = torch.randn(400, *shape)
    loaded.encoder(x)
    name, value = model.seen
    if inputs == "input_ids":  # standard normal examples become distributed like the embeddings
        assert name == "inputs_embeds"
        weight = model.table.weight
        torch.testing.assert_close(value.mean((0, 1)), weight.mean(0), rtol=0.05, atol=0.05)
        torch.testing.assert_close(value.std((0, 1)), weight.std(0), rtol=0.05, atol=0.05)
    else:
        assert name == inputs
        assert torch.equal(value, x)


ENCODER = ["--encoder", "encoders:make"]
MISUSE = [
    ([*QUICK], "at least one --encoder or --module is needed"),
    ([*ENCODER], "--input-shape is needed for encoders:make: the shape of one example, as in --input-shape 3 224 224"),
    ([*ENCODER, "--input-shape", "1", "0"], "argument --input-shape: must be an integer of at least 1, got 0"),
    ([*ENCODER, "--input-shape", "a"], "argument --input-shape: must be an integer of at least 1, got 'a'"),
    ([*ENCODER, *SHAPE, "--plan", "slow"], "argument --plan: invalid choice: 'slow'"),
    ([*ENCODER, *SHAPE, "--tasks", "all"], "argument --tasks: invalid choice: 'all'"),
    ([*ENCODER, *SHAPE, "--plan", "official", "--forwards", "9"], "argument --forwards: the official plan has a fixed"),
    ([*ENCODER, *SHAPE, "--forwards", "9"], "argument --forwards: must be at least 128"),
    ([*ENCODER, *SHAPE, "--epsilons", "0", "1"], r"argument --epsilons: must be different numbers in [0, 1)"),
    ([*ENCODER, *SHAPE, "--epsilons", "0.2"], "argument --epsilons: must hold 0"),
    ([*ENCODER, *SHAPE, "--epsilons", "x"], "argument --epsilons: must be a finite number, got 'x'"),
    ([*ENCODER, *SHAPE, "--threshold", "1"], r"argument --threshold: must be accuracies in [0.5, 1)"),
    ([*ENCODER, *SHAPE, "--mean", "0.5"], "--mean and --std must be given together"),
    ([*ENCODER, *SHAPE, "--mean", "0.5", "--std", "0"], "argument --std: must be positive, got 0"),
    ([*ENCODER, *SHAPE, "--views", "encoders:shifted"], "argument --views: needs --inputs"),
    ([*ENCODER, *SHAPE, "--labels", "none.pt"], "argument --labels: none.pt could not be read: "),
    ([*ENCODER, *SHAPE, "--inputs", "none.pt"], "argument --inputs: none.pt could not be read: "),
    ([*ENCODER, *SHAPE, "--seed", "-1"], "argument --seed: must be an integer of at least 0, got -1"),
    ([*ENCODER, *SHAPE, "--device", "abacus"], "argument --device: 'abacus' is not available here"),
    ([*ENCODER, *SHAPE, "--sed", "1"], "unrecognized arguments: --sed 1"),
    (["--encoder", "encoders", *SHAPE], "--encoder encoders: must be timm:NAME, transformers:NAME or package.module:"),
    (["--module", "encoders:Wide", *SHAPE], "--module encoders:Wide: needs its weights, --ckpt FILE [FILE ...]"),
    (["--ckpt", "a.ckpt", *ENCODER, *SHAPE], "--ckpt must come after the --encoder or --module that it belongs to"),
    (["--encoder.width", "8", *SHAPE], "--encoder.width must come after the --encoder or --module"),
    ([*ENCODER, "--module.width", "8", *SHAPE], "--module.width must come after a --module, not after --encoder"),
    ([*ENCODER, "--attribute", "a", *SHAPE], "--attribute must come after a --module, not after --encoder"),
    ([*ENCODER, "--encoder.width", "wide", *SHAPE], "--encoder encoders:make: "),
    ([*ENCODER, "--encoder.depth", "2", *SHAPE], "--encoder encoders:make: "),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=[message[:40] for _, message in MISUSE])
def test_wrong_arguments_are_told_in_one_line_with_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("synbench")
    assert "Traceback" not in err


FAILURES = [
    (["--encoder", "no_such_module:make"], "there is no module 'no_such_module', neither installed nor in this folder"),
    (["--encoder", "raising:make"], "importing raising raised ModuleNotFoundError: No module named 'nothing_of_that_"),
    (["--encoder", "encoders:mak"], "--encoder encoders:mak: encoders has no 'mak'; did you mean 'make'?"),
    (["--encoder", "encoders:needs"], "TypeError: needs() missing 1 required positional argument: 'width'"),
    (["--encoder", "encoders:broken"], "--encoder encoders:broken: KeyError: 'out of luck'"),
    (["--encoder", "encoders:number"], "--encoder encoders:number: returned 3, which is no module or function"),
    (["--encoder", "encoders:constant"], "must be a function, a class or a module, is 7"),
    (["--encoder", "encoders:Failing"], "The encoder failed on a batch of shape (256, 1, 8, 8): IndexError: no such"),
    (["--encoder", "encoders:function", "--ckpt", "x.pt"], "has no weights that --ckpt x.pt could be loaded into"),
    ([*ENCODER, "--ckpt", "nowhere.pt"], "--ckpt nowhere.pt: no such file"),
    ([*ENCODER, "--ckpt", "encoders.py"], "--ckpt encoders.py: cannot be read"),
    (["--module", "encoders:Wide", "--ckpt", "nowhere.ckpt"], "--ckpt nowhere.ckpt: no such file"),
    (["--module", "encoders:make", "--ckpt", "x.ckpt"], "must be a LightningModule class of `lightning.pytorch`"),
    (["--encoder", "timm:resnet18"], "timm is not installed: pip install timm"),
    (["--encoder", "transformers:bert"], "transformers is not installed: pip install transformers"),
]


@pytest.mark.parametrize(("arguments", "message"), FAILURES, ids=[" ".join(a) for a, _ in FAILURES])
def test_what_cannot_be_loaded_or_run_is_told_in_one_line_with_exit_code_1(capsys, monkeypatch, arguments, message):
    for package in ("timm", "transformers"):
        monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run(capsys, *arguments, *QUICK)
    assert (code, out) == (1, "")
    assert message in err
    assert err.startswith("synbench evaluate: error: ")
    assert err.count("\n") == 1


def test_an_attribute_that_is_not_there_is_told_with_those_that_are(capsys):
    checkpoint()
    code, _, err = run(capsys, "--module", "encoders:Wide", "--ckpt", "wide.ckpt", "--attribute", "trnk", *QUICK)
    assert code == 1
    assert "`--attribute='trnk'` does not exist" in err
    assert "'trunk'" in err


def test_one_encoder_that_fails_does_not_cost_the_others(capsys):
    code, out, err = run(capsys, "--encoder", "encoders:broken", *ENCODER, *QUICK)
    assert code == 1
    assert "encoders:make" in out
    assert err.count("\n") == 1


def test_the_traceback_is_shown_where_asked(capsys):
    with pytest.raises(CommandError, match="out of luck") as caught:
        main(["evaluate", "--encoder", "encoders:broken", "--debug", *QUICK])
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_command_runs_as_a_module_and_its_help_names_every_command():
    found = subprocess.run(
        [sys.executable, "-m", "synbench_lightning.cli", "--help"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0
    for command in ("evaluate", "history", "report"):
        assert command in found.stdout


def test_arguments_of_a_factory_without_jsonargparse_name_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    code, _, err = run(capsys, *ENCODER, "--encoder.width", "8", *QUICK)
    assert code == 1
    assert "pip install 'synbench-lightning[cli]'" in err
    assert run(capsys, *ENCODER, *QUICK)[0] == 0


def test_what_an_encoder_prints_is_kept_out_of_the_json(capsys):
    found = scores(capsys, "--encoder", "encoders:talkative", *QUICK)
    assert found["models"][0]["score"] == scores(capsys, *ENCODER, *QUICK)["models"][0]["score"]


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_compiled_encoder_is_scored_like_its_source(capsys):
    found = scores(capsys, "--encoder", "encoders:scripted", *QUICK)
    assert found["models"][0]["score"] == pytest.approx(scores(capsys, *ENCODER, *QUICK)["models"][0]["score"])


def test_an_end_by_the_user_is_no_traceback(capsys):
    code, _, err = run(capsys, "--encoder", "encoders:interrupted", *QUICK)
    assert (code, err) == (130, "synbench: ended by the user\n")


def test_warnings_are_one_line_each(capsys):
    code, _, err = run(capsys, "--encoder", "torch.nn:Flatten", "--input-shape", "900", "--forwards", "768")
    assert code == 0
    assert err.startswith("synbench: warning: The representation varies in")
    assert err.count("\n") == 1
