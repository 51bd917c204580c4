"""A call of training is made again and compared, and how a probe can make it is found out."""

import random
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.call_check import Rehearsal, call_of_inputs
from synbench_lightning.runtime.call_recorder import CallRecorder
from synbench_lightning.runtime.call_tree import Readout
from synbench_lightning.runtime.isolation import isolated, seed_generators

IMAGES = torch.rand(8, 3, 4, 4)


class Module(LightningModule):
    def __init__(self, net):
        super().__init__()
        self.net = net


def rehearsal(net, *args, **kwargs):
    """Of a call that was recorded."""
    module = Module(net)
    recorder = CallRecorder(module)
    net(*args, **kwargs)
    call = recorder.end()["net", ""]
    return Rehearsal(net, net, call, nullcontext, nullcontext, dict.fromkeys(module.modules(), True))


def of(function, *parts):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(parts)

        def forward(self, *args, **kwargs):
            return function(self, *args, **kwargs)

    return Net()


def differs(found):
    with isolated(found.module):
        return found.differs() and not found.varies()


def probed(found):
    with isolated(found.module):
        return found.encoder_call()


@pytest.mark.parametrize(
    "net",
    [
        of(lambda m, x: m.parts[0](x.flatten(1)), nn.Linear(48, 4)),
        of(lambda m, x: m.parts[0](x.flatten(1)), nn.Dropout(0.5)),  # from the state that the call began with
        of(lambda m, x: m.parts[0](x), nn.BatchNorm2d(3)),
        of(lambda m, x: x.flatten(1) * torch.rand(1)),
    ],
    ids=["layer", "dropout", "batch norm", "random"],
)
def test_a_call_that_does_again_what_it_did_is_the_same(net):
    assert not differs(rehearsal(net, IMAGES))


def test_a_module_that_does_something_else_differs():
    class Switched(nn.Linear):
        calls = 0

        def forward(self, x):
            Switched.calls += 1
            return super().forward(x) if Switched.calls < 2 else -super().forward(x)

    class Other(Switched):
        def forward(self, x):
            Switched.calls += 1
            out = super().forward(x)
            return out if Switched.calls < 3 else out[:, :1]

    assert differs(rehearsal(Switched(4, 2), torch.rand(8, 4)))
    Switched.calls = 0
    assert differs(rehearsal(Other(4, 2), torch.rand(8, 4)))


class Drawing(nn.Linear):
    """From a generator of its own."""

    def __init__(self):
        super().__init__(48, 4)
        self.generator = torch.Generator()

    def forward(self, x):
        return super().forward(x.flatten(1)) * torch.rand(1, generator=self.generator)


class Counting(nn.Linear):
    """Its calls, in a buffer."""

    def __init__(self):
        super().__init__(48, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        return super().forward(x.flatten(1)) * self.calls.add_(1)


@pytest.mark.parametrize(
    "net",
    [
        of(lambda m, x: x.flatten(1) * np.random.rand()),
        of(lambda m, x: x.flatten(1)[:, : random.randint(2, 40)]),
        Drawing(),
        Counting(),
    ],
    ids=["numpy", "random number of features", "own generator", "counts"],
)
def test_what_is_random_and_a_state_of_the_module_explain_a_difference(net):
    seed_generators(5)
    found = rehearsal(net, IMAGES)
    with isolated(net):
        assert found.differs()
    assert not differs(found)


def test_where_weights_have_changed_since_only_shapes_are_compared():
    net = nn.Linear(4, 2)
    found = rehearsal(net, torch.rand(8, 4))
    with torch.no_grad():
        net.weight.mul_(-3)
    assert found.call.stale(net)
    assert not differs(found)


def test_a_matrix_of_similarities_is_refused_and_as_many_features_as_examples_are_not():
    with pytest.raises(ValueError, match="compares the examples of a batch"):
        differs(rehearsal(of(lambda m, x: m.parts[0](x) @ m.parts[0](x).T, nn.Linear(4, 3)), torch.rand(8, 4)))
    assert not differs(rehearsal(nn.Linear(4, 8), torch.rand(8, 4)))


@pytest.mark.parametrize(
    ("net", "arguments", "kind", "shape"),
    [
        (of(lambda m, x: x.flatten(1)), (IMAGES,), "input", (3, 4, 4)),
        (of(lambda m, x: x.flatten(1).float()), (IMAGES.byte(),), "integers", (3, 4, 4)),
        (of(lambda m, x: x.flatten(1)), (torch.fft.rfft(IMAGES),), "complex", (3, 4, 3, 2)),
        (of(lambda m, x: m.parts[0](x).cumsum(1), nn.Embedding(9, 5)), (torch.ones(8, 6).long(),), "embedding", (6, 5)),
    ],
)
def test_where_real_vectors_enter(net, arguments, kind, shape):
    placement = probed(rehearsal(net, *arguments)).placement
    assert (placement.kind, placement.shape) == (kind, shape)


def test_examples_in_place_of_an_embedding_have_its_scale():
    embedding = nn.Embedding(9, 5)
    with torch.no_grad():
        embedding.weight.mul_(7)
    ids = torch.randint(9, (8, 6))
    placement = probed(rehearsal(of(lambda m, x: m.parts[0](x), embedding), ids)).placement
    assert placement.module == "parts.0"
    assert placement.factor == pytest.approx(float(embedding(ids).detach().double().std()), rel=1e-5)


def test_ids_without_an_embedding_have_no_place_for_real_vectors():
    net = of(lambda m, ids: torch.nn.functional.one_hot(ids, 9).float().flatten(1))
    assert probed(rehearsal(net, torch.randint(9, (8, 6)))).placement is None


def test_nodes_of_a_graph_have_no_place_for_real_vectors_and_stay_together():
    def passed(m, x, edges):
        return m.parts[0](x.index_add(0, edges[0], x[edges[1]]))

    found = probed(rehearsal(of(passed, nn.Linear(4, 3)), torch.rand(8, 4), torch.randint(8, (2, 20))))
    assert (found.placement, found.whole) == (None, True)


def test_an_encoder_that_takes_one_batch_size_only_says_so():
    net = of(lambda m, x: x + torch.zeros(8, 4), nn.Linear(1, 1))
    assert probed(rehearsal(net, torch.rand(8, 4))).batch_size == 8
    assert probed(rehearsal(nn.Linear(4, 2), torch.rand(8, 4))).batch_size is None


@pytest.mark.parametrize("net", [nn.LSTM(3, 4), nn.TransformerEncoderLayer(3, 1, 8, dropout=0.0)])
def test_the_axis_of_the_examples_is_found_where_time_comes_first(net):
    x = torch.rand(6, 8, 3)
    found = probed(rehearsal(net, x))
    assert (found.input.axis, found.placement.shape) == (1, (6, 3))
    assert call_of_inputs(net, net, x).input.axis == 0  # the user's own inputs come example by example


def test_a_layer_that_normalises_over_the_batch_in_evaluation_keeps_its_place():
    net = of(lambda m, x: m.parts[0](x), nn.BatchNorm1d(4, track_running_stats=False))
    assert probed(rehearsal(net, torch.rand(8, 4))).placement is not None


def test_of_parts_those_that_depend_on_the_input_may_be_read():
    def forward(m, x, steps):
        return m.parts[0](x) + m.parts[1](steps[:, None])

    net = of(forward, nn.Linear(4, 3), nn.Linear(1, 3))
    found = rehearsal(net, torch.rand(8, 4), torch.rand(8))
    with isolated(net):
        reading = found.reading(Readout(parts=("parts.1", "parts.0")))
    assert reading.readout.parts == ("parts.0",)
    assert probed(reading).part == "parts.0"
    assert not any(part._forward_hooks for part in net.modules())


def test_the_module_is_left_in_its_mode_when_a_repetition_fails():
    net = of(lambda m, x: m.parts[0](x), nn.BatchNorm1d(4))
    found = rehearsal(net, torch.rand(8, 4))
    broken = replace(found, function=lambda *_: 1 / 0)
    with isolated(net), pytest.raises(ZeroDivisionError):
        broken.differs()
    assert all(part.training for part in net.modules())


def test_examples_that_the_head_alone_compares_can_be_separated_before_it():
    class Similarities(nn.Module):
        def forward(self, x):
            return x @ x.T

    net = of(lambda m, x, y: m.parts[1](m.parts[0](x + y)), nn.Linear(3, 4), Similarities())
    found = rehearsal(net, torch.rand(8, 3), torch.rand(8, 3))
    assert probed(found).whole
    before = probed(found.reading(Readout("parts.1")))
    assert (before.whole, before.head) == (False, "parts.1")
