import sys
import types

import pytest
import torch
from torch import nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.cli.encoder_sources import Source, candidates
from tests.cli.commands import ENCODERS, QUICK, checkpoint, run, scores
from tests.encoders import Autoencoder

pytestmark = pytest.mark.usefixtures("a_folder_with_encoders")


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
    assert "does not match the encoder; missing keys: 1.bias, 1.weight; unexpected keys:" in run(
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

FAILURES = [
    (["--encoder", "no_such_module:make"], "there is no module 'no_such_module', neither installed nor in this folder"),
    (["--encoder", "raising:make"], "importing raising raised ModuleNotFoundError: No module named 'nothing_of_that_"),
    (["--encoder", "encoders:mak"], "--encoder encoders:mak: encoders has no 'mak'; did you mean 'make'?"),
    (["--encoder", "encoders:needs"], "TypeError: needs() missing 1 required positional argument: 'width'"),
    (["--encoder", "encoders:broken"], "--encoder encoders:broken: KeyError: 'out of luck'"),
    (
        ["--encoder", "encoders:number"],
        "encoders:number: returned 3, which is neither a module nor a function",
    ),
    (["--encoder", "encoders:constant"], "must be a function, a class or a module, is 7"),
    (["--encoder", "encoders:Failing"], "The encoder failed on a batch of shape (256, 1, 8, 8): IndexError: no such"),
    (["--encoder", "encoders:function", "--ckpt", "x.pt"], "has no weights that --ckpt x.pt could be loaded into"),
    ([*ENCODER, "--ckpt", "nowhere.pt"], "--ckpt nowhere.pt: no such file"),
    ([*ENCODER, "--ckpt", "encoders.py"], "--ckpt encoders.py: cannot be read"),
    (["--module", "encoders:Wide", "--ckpt", "nowhere.ckpt"], "--ckpt nowhere.ckpt: no such file"),
    (["--module", "encoders:make", "--ckpt", "x.ckpt"], "must be a LightningModule class, is"),
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


def test_arguments_of_a_factory_without_jsonargparse_name_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    code, _, err = run(capsys, *ENCODER, "--encoder.width", "8", *QUICK)
    assert code == 1
    assert "pip install 'synbench-lightning[cli]'" in err
    assert run(capsys, *ENCODER, *QUICK)[0] == 0


@pytest.mark.parametrize(
    ("saved", "kind"),
    [
        ({"a": torch.ones(2), "epoch": 3}, "dict with a, epoch"), ([torch.ones(2)], "list"),
        ({}, "missing keys: 1.bias, "), ({"a": 1, "b": 2, "c": 3, "d": 4}, "dict with a, b, c and 1 more"),
        ({"state_dict": {"a": 1}, "b": 2, "c": 3, "d": 4, "e": 5}, "dict with state_dict, b, c and 2 more"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_is_named(capsys, saved, kind):
    torch.save(saved, "other.pt")
    code, _, err = run(capsys, *ENCODER, "--ckpt", "other.pt", *QUICK)
    assert code == 1
    assert kind in err


def test_an_argument_that_a_factory_still_needs_is_named(capsys):
    code, _, err = run(capsys, "--encoder", "torch.nn:Linear", "--encoder.out_features=3", *QUICK)
    assert code == 2
    assert "in_features" in err
