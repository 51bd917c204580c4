"""What a probe finds in layers, and which of them is the best."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning import LayerEncoder, ProbePlan, ProbeResult, evaluate
from synbench_lightning.functional.representation.information import (
    information_error,
    information_replicates,
    replicates_error,
)
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.probe.layers import LayerResult, _difference_error, best_layer, layer_results

SMALL = ProbePlan(forwards=768)
X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def views(batch):
    return batch + 0.5 * torch.randn_like(batch)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def test_each_layer_has_the_values_of_the_network_that_ends_with_it():
    whole = evaluate(network(), (6,), plan=SMALL, inputs=X, views=views, labels=Y, layers="auto")
    assert [layer.name for layer in whole.layers] == ["1", "3", "4"]
    for layer in whole.layers:
        alone = evaluate(network()[: int(layer.name) + 1], (6,), plan=SMALL, inputs=X, views=views, labels=Y)
        assert layer.width == alone.feature_dim
        for name in ("information", "information_error", "readout", "readout_error"):
            assert getattr(layer, name) == pytest.approx(getattr(alone, name), rel=1e-5), name


def test_of_inner_layers_the_mean_is_over_the_tokens_that_the_mask_leaves():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding = nn.Embedding(30, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(3))

        def forward(self, ids, attention_mask):
            x = self.embedding(ids)
            for block in self.blocks:
                x = block(x)
            return x

    generator, text = torch.Generator().manual_seed(1), Text().eval()
    ids = torch.randint(30, (48, 6), generator=generator)
    mask = (torch.arange(6) < torch.randint(1, 7, (48, 1), generator=generator)).long()
    given = {"ids": ids, "attention_mask": mask}

    def masked(batch):
        return {**batch, "ids": torch.where(torch.rand(ids.shape) < 0.2, 0, batch["ids"])}

    found = evaluate(text, None, plan=SMALL, inputs=given, views=masked, labels=Y, layers="auto").layers
    assert [layer.name for layer in found] == ["blocks.0", "blocks.1", "blocks.2"]
    with torch.no_grad():
        tokens = text.embedding(ids)
        for layer, block in zip(found, text.blocks, strict=True):
            tokens = block(tokens)
            mean = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            assert layer.readout == pytest.approx(few_label_readout(mean, Y).value, rel=1e-4)
            alone = LayerEncoder(text, layer.name)(ids, attention_mask=mask)
            torch.testing.assert_close(alone, mean)


def test_all_else_is_as_without_layers():
    given = {"plan": SMALL, "inputs": X, "views": views, "labels": Y}
    with_layers, without = (evaluate(network(), (6,), layers=layers, **given) for layers in ("auto", None))
    assert without.layers == ()
    assert without.best_layer is None
    alike = with_layers.to_dict() | {"layers": [], "seconds": 0.0}
    assert alike == without.to_dict() | {"seconds": 0.0}
    assert with_layers.compares(without)


def test_a_result_with_layers_comes_back_from_plain_types_and_one_of_before_has_none():
    result = evaluate(network(), (6,), plan=SMALL, inputs=X, layers="auto")
    assert ProbeResult.from_dict(result.to_dict()) == result
    before = {key: value for key, value in result.to_dict().items() if key != "layers"}
    assert ProbeResult.from_dict(before).layers == ()


def test_the_error_of_an_information_is_that_of_its_replicates():
    features = torch.randn(32, 16, 5) + 2 * torch.randn(32, 1, 5)
    replicates = information_replicates(features)
    assert replicates.shape == (2, 4)
    expected = math.sqrt(sum(3 * np.var(row.numpy()) for row in replicates))  # jackknife: 3/4 of the sum of squares
    assert float(information_error(features)) == pytest.approx(expected)
    assert float(replicates_error(replicates - replicates)) == 0


def layer(name, width, information, replicates=((0.0, 0.0, 0.0, 0.0),)):
    return LayerResult(name, width, information, 0.1, tuple(tuple(v + information for v in row) for row in replicates))


def test_the_best_layer_is_among_those_of_comparable_width_with_its_margin_above_the_output():
    noise = ((0.1, -0.1, 0.2, -0.2),)
    layers = [layer("a", 2, 3.0), layer("b", 32, 5.0, noise), layer("c", 33, 50.0), layer("d", 8, 4.0)]
    best = best_layer(layers, "information")
    assert (best.place, best.layer.name, best.margin) == (1, "b", 1.0)
    assert best.error == pytest.approx(math.sqrt(3 * np.var(noise[0])))
    assert best.margin_in_errors == pytest.approx(1 / best.error)


def test_errors_that_two_layers_share_do_not_count_in_their_difference():
    shared = ((0.5, -0.5, 1.0, -1.0),)
    best = best_layer([layer("a", 8, 5.0, shared), layer("b", 8, 4.0, shared)], "information")
    assert best.error == pytest.approx(0, abs=1e-12)


def test_a_readout_without_a_standard_error_adds_none_to_a_difference():
    without, known = LayerResult("a", 8, readout=0.5), LayerResult("b", 8, readout=0.7, readout_error=0.4)
    assert [_difference_error(*pair, "readout") for pair in ((without, known), (known, without))] == [0.4, 0.4]
    assert _difference_error(without, without, "readout") == 0


def test_where_the_output_is_the_best_the_margin_is_above_the_second():
    best = best_layer([layer("a", 8, 3.0), layer("b", 8, 4.5), layer("d", 8, 5.0)], "information")
    assert (best.place, best.margin) == (2, 0.5)


def test_no_layer_is_the_best_where_none_is_comparable_to_the_output():
    assert best_layer([layer("a", 8, 3.0), layer("b", 33, 2.0)], "information") is None
    assert best_layer([layer("a", 8, 3.0), layer("b", 32, 2.0)], "information").place == 0
    assert best_layer([], "information") is None


def test_layers_are_compared_by_information_under_views_else_by_readout():
    given = {"plan": SMALL, "labels": Y, "layers": "auto", "inputs": X}
    assert evaluate(network(), (6,), views=views, **given).layer_key == "information"
    assert evaluate(network(), (6,), **given).layer_key == "readout"
    given.pop("labels")
    assert evaluate(network(), (6,), **given).layer_key == "information"


def test_layers_without_anything_to_compare_them_by_or_of_a_function_are_refused():
    with pytest.raises(ValueError, match="`layers` needs `inputs`"):
        evaluate(network(), (6,), layers="auto")
    with pytest.raises(ValueError, match="`layers` needs an encoder that is a module"):
        evaluate(lambda x: x, (6,), inputs=X, layers="auto")


def test_where_layers_that_nobody_has_named_cannot_be_read_the_probe_is_made_without():
    class Touchy(nn.Sequential):
        """Does not run with hooks on its parts."""

        def forward(self, x):
            if any(part._forward_hooks for part in self):
                raise RuntimeError("no hooks, please")
            return super().forward(x)

    torch.manual_seed(0)
    touchy = Touchy(*(nn.Linear(6, 6) for _ in range(3)))
    with pytest.warns(UserWarning, match="layers of the encoder could not be read and are skipped: .*no hooks"):
        result = evaluate(touchy, (6,), plan=SMALL, inputs=X, layers="auto")
    assert result.layers == ()
    assert result.information > 0


def test_a_layer_has_the_replicates_of_its_information_or_none():
    told = [(float(place), 0.1, (float(place), 1.0)) for place in range(3)]
    found = layer_results(["a", "head", "out"], [4, 5, 6], told, None, in_heads=1)
    assert [(one.name, one.width, one.information, one.replicates, one.head) for one in found] == [
        ("a", 4, 0.0, (0.0, 1.0), False), ("out", 6, 2.0, (2.0, 1.0), False), ("head", 5, 1.0, (1.0, 1.0), True),
    ]  # fmt: skip
    assert [one.replicates for one in layer_results(["a", "out"], [4, 6], None, None)] == [(), ()]
