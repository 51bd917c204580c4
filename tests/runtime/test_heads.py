"""Modules that training applies to the encoder's output: which are found, which have to run, which are shown."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.call_recorder import CallRecorder
from synbench_lightning.runtime.encoder_call import Head, Masked
from synbench_lightning.runtime.heads import heads_behind, heads_to_show, is_within, needed_heads, run_heads


def found(step, x, **parts):
    """The heads behind `encoder` in a step."""
    root = LightningModule()
    for name, part in parts.items():
        root.add_module(name, part)
    recorder = CallRecorder(root)
    step(root, x)
    calls = recorder.end()
    (encoder,) = [call for call in calls.values() if call.path == "encoder"]
    return root, heads_behind(encoder, calls)


class Given(nn.Module):
    """A module with a weight that returns its input, in one of several forms."""

    def __init__(self, form=lambda x: x):
        super().__init__()
        self.weight, self.form = nn.Parameter(torch.ones(())), form

    def forward(self, x):
        return self.form(self.weight * x)


@pytest.mark.parametrize(
    ("shape", "pool", "width", "way"),
    [
        ((5, 8), lambda h: h, 8, "same"),
        ((5, 2, 4), lambda h: h.flatten(1), 8, "flat"),
        ((5, 4, 3, 3), lambda h: h.mean((2, 3)), 4, "mean over space"),
        ((5, 3, 4), lambda h: h.mean(1), 4, "mean over tokens"),
        ((5, 3, 4), lambda h: h[:, 0], 4, "first token"),
    ],
)
def test_a_head_behind_pooled_features_is_found_and_run_again(shape, pool, width, way):
    x = torch.randn(shape)
    root, heads = found(
        lambda m, x: m.head(pool(m.encoder(x))), x, encoder=Given(), head=nn.Sequential(nn.Linear(width, 2))
    )
    assert [(head.path, head.behind, head.position, head.way) for head in heads] == [("head", "", 0, way)]
    seen = []
    root.head.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    for output in (x, Masked(x, torch.ones(5, 3))):
        run_heads(root, heads, output)
    assert all(torch.allclose(one, pool(x)) for one in seen)
    assert len(seen) == 2


def test_heads_behind_each_other_are_found_with_the_output_that_they_take():
    root, heads = found(
        lambda m, x: m.predictor(m.projector(m.encoder(x)[1])), torch.randn(5, 8),
        encoder=Given(lambda x: (x, x + 1)), projector=nn.Linear(8, 4), predictor=nn.Linear(4, 4),
    )  # fmt: skip
    assert [(head.path, head.behind, head.position) for head in heads] == [
        ("projector", "", 1), ("predictor", "projector", 0)
    ]  # fmt: skip
    seen = []
    root.predictor.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(3, 8)
    run_heads(root, heads, (x, x + 1))
    assert torch.equal(seen[0], root.predictor(root.projector(x + 1)))
    run_heads(root, heads[1:], (x, x + 1))  # what it takes is not there
    assert len(seen) == 2


def test_what_takes_something_else_or_is_not_trained_is_no_head():
    other = torch.randn(5, 8)
    _, heads = found(
        lambda m, x: (m.head(m.encoder(x)), m.frozen(m.encoder(x)), m.one(x + 1e-2), m.other(other)), torch.randn(5, 8),
        encoder=Given(), head=nn.Linear(8, 2), frozen=nn.Linear(8, 2).requires_grad_(False), one=nn.Linear(8, 2),
        other=nn.Linear(8, 2),
    )  # fmt: skip
    assert [head.path for head in heads] == ["head"]


def test_of_nested_modules_the_outermost_is_the_head():
    _, heads = found(
        lambda m, x: m.head(m.encoder(x)), torch.randn(5, 8), encoder=nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4)),
        head=nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)),
    )  # fmt: skip
    assert [head.path for head in heads] == ["head"]


CHAIN = (Head("projector", "", 0, "same"), Head("decoder", "", 0, "same"), Head("predictor", "projector", 0, "same"))


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ([], []), (["projector.0"], ["projector"]), (["predictor"], ["projector", "predictor"]), (["pro"], []),
        (["decoder.up", "predictor.1"], ["projector", "decoder", "predictor"]), (["projectors"], []),
    ],
)  # fmt: skip
def test_a_layer_in_a_head_needs_those_before_it(names, needed):
    assert [head.path for head in needed_heads(CHAIN, names)] == needed


def test_the_first_head_by_name_is_shown():
    assert heads_to_show(CHAIN) == ("projector",)
    assert heads_to_show(CHAIN[1:]) == ("predictor",)
    assert heads_to_show([CHAIN[1], Head("net", "", 0, "same")]) == ()


def test_a_path_is_within_itself_and_what_it_continues():
    assert is_within("a.b", "a")
    assert is_within("a", "a")
    assert not is_within("ab", "a")
    assert not is_within("a", "a.b")


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
@pytest.mark.parametrize(("factor", "names"), [(1.0015, ["head"]), (1.003, [])])
def test_what_is_given_is_the_output_up_to_a_thousandth_of_each_and_of_the_mean(scale, factor, names):
    x = torch.full((5, 8), scale)
    _, heads = found(lambda m, x: m.head(factor * m.encoder(x)), x, encoder=Given(), head=nn.Linear(8, 2))
    assert [head.path for head in heads] == names


def test_modules_of_the_encoder_and_those_that_take_real_parts_are_no_heads():
    encoder = nn.Sequential(nn.Linear(8, 8), Given())
    _, heads = found(lambda m, x: m.head(m.encoder(x)), torch.randn(5, 8), encoder=encoder, head=nn.Linear(8, 2))
    assert [head.path for head in heads] == ["head"]
    encoder = Given(lambda x: torch.complex(x, torch.zeros_like(x)))
    _, heads = found(lambda m, x: m.head(m.encoder(x).real), torch.randn(5, 8), encoder=encoder, head=nn.Linear(8, 2))
    assert heads == ()
