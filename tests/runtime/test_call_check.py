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


@pytest.mark.parametrize("memory", [0.9, 0.5, 0.15, 0.05])
def test_state_that_is_kept_from_call_to_call_is_no_difference_however_fast_it_is_forgotten(memory):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.state = 4 * torch.ones(48)

        def forward(self, x):
            self.state = memory * self.state + x.mean(0).flatten()
            return x.flatten(1) + self.state

    assert not differs(rehearsal(Recurrent(), IMAGES))


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
    with pytest.raises(ValueError, match="compares the examples of a batch"):
        differs(rehearsal(of(lambda m, x: x @ x.T), torch.rand(3, 4)))
    for features in (7, 8):
        assert not differs(rehearsal(nn.Linear(4, features), torch.rand(8, 4)))
    only_eight = of(lambda m, x: m.parts[0](x) + torch.zeros(8, 8), nn.Linear(4, 8))
    assert not differs(rehearsal(only_eight, torch.rand(8, 4)))


@pytest.mark.parametrize(
    ("net", "arguments", "kind", "shape"),
    [
        (of(lambda m, x: x.flatten(1)), (IMAGES,), "input", (3, 4, 4)),
        (of(lambda m, x: x.flatten(1).float()), (IMAGES.byte(),), "integers", (3, 4, 4)),
        (of(lambda m, x: x.flatten(1).float()), (IMAGES[:, 0].byte(),), "integers", (4, 4)),
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
    assert probed(rehearsal(of(lambda m, x: 2 * x.view(2, 4)), torch.rand(2, 4))).batch_size == 2
    assert probed(rehearsal(of(lambda m, x: x - x.amax(0)), torch.rand(1, 4))).batch_size is None
    pairs = of(lambda m, x: (x.view(2, -1, 4) * torch.ones(2, 1, 1)).view(-1, 4))
    assert probed(rehearsal(pairs, torch.rand(8, 4))).batch_size == 8
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


@pytest.mark.parametrize(("change", "expected"), [(1.0, False), (1.019, False), (1.021, True), (0.979, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_outputs_differ_from_two_hundredths_of_their_size_on(change, expected, dtype):
    class Changing(nn.Module):
        calls = 0

        def forward(self, x):
            Changing.calls += 1
            return x.to(dtype) * (1.0 if Changing.calls < 2 else change)

    found = rehearsal(Changing(), torch.rand(8, 4))
    with isolated(found.module):
        assert found.differs() == expected


def test_outputs_of_zeros_are_the_same():
    assert not differs(rehearsal(of(lambda m, x: 0 * x), torch.rand(8, 4)))


@pytest.mark.parametrize(
    ("images", "factor", "offset"),
    [(torch.tensor([0, 250]).byte(), 32.0, 127.5), (torch.tensor([10, 30]), 200**0.5, 20.0)],
)
def test_integer_images_have_the_scale_of_bytes_or_their_own(images, factor, offset):
    net = of(lambda m, x: x.flatten(1).float())
    placement = probed(rehearsal(net, images[:, None, None].expand(2, 4, 4))).placement
    expected = factor if images.dtype == torch.uint8 else float(images.repeat(16).double().std())
    assert placement.factor == pytest.approx(expected)
    assert placement.offset == offset


class Words(nn.Module):
    """An embedding among layers that take token ids or return sequences."""

    def __init__(self):
        super().__init__()
        self.same, self.named, self.numbers = nn.Identity(), Named(), Numbers()
        self.positions, self.pair = nn.Embedding(6, 5), Pair()
        self.words, self.more = nn.Embedding(9, 5), nn.Embedding(9, 5)

    def forward(self, ids):
        steps = torch.arange(ids.shape[1])
        before = self.positions(steps) + self.numbers(ids.double()) + self.named(x=self.same(ids)) + self.pair(ids)[0]
        return before + self.words(ids) + self.more(ids)


class Named(nn.Module):
    def forward(self, x):
        return x[..., None].expand(-1, -1, 5).float()


class Numbers(Named):
    pass


class Pair(Named):
    def forward(self, x):
        return super().forward(x), x


def test_vectors_take_the_place_of_the_first_layer_that_turns_token_ids_into_sequences():
    net = Words()
    assert probed(rehearsal(net, torch.randint(9, (8, 6)))).placement.module == "words"
    with torch.no_grad():
        net.words.weight.zero_()
    assert probed(rehearsal(net, torch.randint(9, (8, 6)))).placement.factor == 1.0


def test_two_nodes_of_a_graph_stay_together_and_their_features_are_no_examples():
    def passed(m, x, edges):
        return x.index_add(0, edges[0], x[edges[1]])

    edges = torch.tensor([[0, 1], [1, 0]])
    found = probed(rehearsal(of(lambda m, x, edges: m.parts[0](passed(m, x, edges)), nn.Linear(4, 3)),
                             torch.rand(2, 4), edges))  # fmt: skip
    assert (found.whole, found.input.axis) == (True, 0)
    found = probed(rehearsal(of(passed), torch.rand(8, 4), torch.randint(8, (2, 20))))
    assert (found.whole, found.input.axis) == (True, 0)


@pytest.mark.parametrize(("batch", "axis"), [(1, 0), (2, 1), (3, 1)])
def test_of_two_sequences_on_time_may_come_first(batch, axis):
    assert probed(rehearsal(of(lambda m, x: x.cumsum(0)), torch.rand(6, batch, 3))).input.axis == axis


def test_of_token_ids_time_may_come_first():
    found = probed(
        rehearsal(of(lambda m, ids: m.parts[0](ids).cumsum(0), nn.Embedding(9, 5)), torch.randint(9, (6, 8)))
    )
    assert (found.input.axis, found.placement.shape) == (1, (6, 5))


def test_numbers_crops_and_single_examples_are_not_kept_whole():
    found = probed(rehearsal(of(lambda m, x: x[:, None].expand(-1, 3)), torch.rand(8)))
    assert (found.input, found.placement, found.whole) == (None, None, False)
    crops = of(lambda m, crops: torch.cat([m.parts[0](one) for one in crops]), nn.Linear(4, 3))
    for arguments in ([torch.rand(8, 4), torch.rand(8, 4)], [torch.rand(1, 4)]):
        found = rehearsal(crops, arguments)
        assert not probed(found).whole
        with isolated(crops):
            assert found.reading(Readout(parts=("parts.0",))).readout == Readout()


def test_integers_beside_the_features_may_depend_on_the_batch():
    net = of(lambda m, x, y: (x + y, x.argsort(0), (x + y).mean(1)))
    found = probed(rehearsal(net, torch.rand(8, 4), torch.rand(8, 4)))
    assert not found.whole


def test_of_parts_those_that_were_called_and_depend_on_one_of_two_examples_may_be_read():
    net = of(lambda m, x: m.parts[0](x.mean(1, keepdim=True)), nn.Linear(1, 3), nn.Linear(4, 3))
    found = rehearsal(net, torch.rand(2, 4))
    with isolated(net):
        assert found.reading(Readout(parts=("parts.1", "parts.0"))).readout.parts == ("parts.0",)


def test_a_function_without_a_module_is_called_with_its_inputs():
    found = call_of_inputs(lambda ids: ids.float(), None, torch.randint(9, (8, 6)))
    assert (found.placement, found.path, found.calls) == (None, "", 1)
    with pytest.raises(AttributeError):
        rehearsal(nn.Linear(4, 2), torch.rand(8, 4)).function = None
