"""`synbench evaluate --layers`."""

import pytest
import torch

from synbench_lightning import LayerEncoder, ProbePlan, evaluate
from tests.cli.commands import QUICK, checkpoint, run, scores

pytestmark = pytest.mark.usefixtures("a_folder_with_encoders")


@pytest.fixture
def arguments():
    torch.save(torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0)), "x.pt")
    return ["--encoder", "encoders:deep", *QUICK, "--inputs", "x.pt", "--views", "encoders:shifted"]


def test_the_layers_are_those_of_evaluate(capsys, arguments):
    import encoders

    (found,) = scores(capsys, *arguments, "--layers", "auto")["models"]
    given = {"inputs": torch.load("x.pt"), "views": encoders.shifted, "plan": ProbePlan(forwards=768)}
    result = evaluate(encoders.deep(), (1, 8, 8), tasks="default", layers="auto", **given)
    assert [layer["name"] for layer in found["result"]["layers"]] == ["1", "2", "3"]
    assert [layer["information"] for layer in found["result"]["layers"]] == pytest.approx(
        [layer.information for layer in result.layers]
    )


def test_the_table_marks_the_best_and_the_cache_knows_which_layers_were_read(capsys, arguments):
    _, table, _ = run(capsys, *arguments, "--layers", "auto")
    rows = table[table.index("Layers of encoders:deep") :].splitlines()[2:5]
    assert [row.split()[:2] for row in rows] == [["1", "16"], ["2", "16"], ["3", "16"]]
    assert ["best, by" in row for row in rows].count(True) == 1
    assert "cached" in run(capsys, *arguments, "--layers", "auto")[1]
    _, named, _ = run(capsys, *arguments, "--layers", "2")
    assert "cached" not in named
    assert [row.split()[0] for row in named[named.index("Layers of") :].splitlines()[2:4]] == ["2", "output"]


def test_an_inner_layer_that_is_named_is_read_in_the_module_that_takes_the_inputs(capsys):
    module = checkpoint()
    found = scores(capsys, "--module", "encoders:Wide", "--ckpt", "wide.ckpt", "--attribute", "encoder.2", *QUICK)
    result = evaluate(LayerEncoder(module.encoder, "2"), (1, 8, 8), tasks="default", plan=ProbePlan(forwards=768))
    assert found["models"][0]["score"] == pytest.approx(result.score())
    assert found["models"][0]["result"]["feature_dim"] == 32


def test_layers_without_inputs_and_wrong_names_are_refused(capsys, arguments):
    code, _, err = run(capsys, "--encoder", "encoders:deep", *QUICK, "--layers", "auto")
    assert (code, "argument --layers: needs --inputs" in err) == (2, True)
    code, _, err = run(capsys, *arguments, "--layers", "nine")
    assert (code, "'nine' is not the name of a module" in err) == (1, True)
