"""What a training step calls its modules with, as it is seen and as it is called again."""

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.call_recorder import Call, CallRecorder

IMAGES = torch.rand(6, 4)


class Step(LightningModule):
    """A step that is given, over modules that are given."""

    def __init__(self, step, **modules):
        super().__init__()
        self.step = step
        for name, module in modules.items():
            setattr(self, name, module)

    def training_step(self, batch, batch_idx):
        return self.step(self, batch)


def seen(step, **modules):
    module = Step(step, **modules)
    observation = CallRecorder(module)
    step(module, IMAGES)
    found = observation.end()
    assert not any(part._forward_hooks for part in module.modules())
    return found


class Given(nn.Module):
    """A module that is called with more than an input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, mode, x, mask, scale=1.0):
        return self.layer(x) * scale


class AnyNumber(nn.Linear):
    def forward(self, *inputs, **others):
        return super().forward(inputs[-1])


class Several(nn.Linear):
    """Crops of any size, flattened and cut."""

    def forward(self, crops):
        return torch.cat([super(Several, self).forward(crop.flatten(1)[:, :4]) for crop in crops])


def test_calls_are_in_the_order_of_their_ends_with_the_shape_of_one_example():
    found = seen(lambda m, x: m.head(m.encoder(x)), head=nn.Linear(3, 2), encoder=nn.Linear(4, 3), idle=nn.Linear(4, 3))
    assert {path: call.shape for path, call in found.items()} == {"encoder": (4,), "head": (3,)}
    assert list(found) == ["encoder", "head"]


@pytest.mark.parametrize(
    ("mode", "mask", "beside", "missing"),
    [
        ("a", None, (("mode", "a"), ("mask", None)), ()),
        (3, [1, (2.0, True)], (("mode", 3), ("mask", [1, (2.0, True)])), ()),
        ("a", torch.ones(6), (("mode", "a"),), ("mask",)),
        (None, [object()], (("mode", None),), ("mask",)),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_what_a_module_needs_beside_its_input_is_given_again_where_it_is_plain(mode, mask, beside, missing, named):
    def step(m, x):
        return m.net(mode=mode, x=x, mask=mask, scale=2.0) if named else m.net(mode, x, mask, 2.0)

    call = seen(step, net=Given())["net"]
    assert (call.beside, call.missing) == (beside, missing)
    if not missing:
        module = Given()
        assert torch.equal(call(module, IMAGES), module(mode, IMAGES, mask))


def test_arguments_of_any_number_are_not_needed():
    call = seen(lambda m, x: m.net(None, x, other=object()), net=AnyNumber(4, 3))["net"]
    assert (call.beside, call.missing) == ((), ())
    module = AnyNumber(4, 3)
    assert torch.equal(call(module, IMAGES), module(IMAGES))


def test_of_a_list_of_crops_the_largest_counts_and_it_is_called_with_a_list():
    crops = [torch.rand(6, 4), torch.rand(6, 2, 3), torch.rand(6, 5)]
    call = seen(lambda m, x: m.net(crops), net=Several(4, 3))["net"]
    assert (call.shape, call.listed, call.features) == ((2, 3), True, True)
    module = Several(4, 3)
    assert torch.equal(call(module, IMAGES), module([IMAGES]))


def test_of_several_calls_the_one_with_features_of_the_largest_input_counts():
    class Net(nn.Linear):
        def forward(self, x):
            out = super().forward(x[:, :4])
            return out.sum() if x.shape[1] == 9 else out

    def step(m, x):
        with torch.no_grad():
            m.net(torch.rand(6, 7))
        return sum(m.net(torch.rand(6, size)).sum() for size in (9, 5, 9, 4))

    call = seen(step, net=Net(4, 3))["net"]
    assert (call.shape, call.features, call.trained) == ((7,), True, True)


@pytest.mark.parametrize(
    ("output", "features"),
    [
        (lambda z: z, True),
        (lambda z: (None, {"z": z}), True),
        (lambda z: z.sum(), False),
        (lambda z: z.sum(1), False),
        (lambda z: z[:5], False),
        (lambda z: z.argmax(1, keepdim=True), False),
    ],
)
def test_features_are_a_row_for_each_example(output, features):
    class Net(nn.Linear):
        def forward(self, x):
            return output(super().forward(x))

    assert seen(lambda m, x: m.net(x), net=Net(4, 3))["net"].features == features


def test_what_is_frozen_or_called_without_gradients_is_not_trained():
    def step(m, x):
        with torch.no_grad():
            m.slow(x)
        return m.head(m.frozen(x)) + m.fast(x)

    nets = {name: nn.Linear(4, 4) for name in ("slow", "frozen", "head", "fast")}
    found = seen(step, **nets | {"frozen": nn.Linear(4, 4).requires_grad_(False)})
    assert {path: call.trained for path, call in found.items()} == {
        "slow": False, "frozen": False, "head": True, "fast": True,
    }  # fmt: skip


def test_a_module_that_is_run_through_a_method_is_seen_but_not_as_called():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(4, 3), nn.Linear(3, 2)])
            self.layers[0].requires_grad_(False)

        def forward(self, x):
            raise NotImplementedError

        def encode(self, x):
            return self.layers[1](self.layers[0](x))

    found = seen(lambda m, x: m.net.encode(x), net=Net())
    assert list(found) == ["net.layers.0", "net.layers.1", "net"]  # a container has no forward
    assert found["net"] == Call("net", (4,), trained=True, direct=False)


def test_a_module_that_takes_token_ids_is_no_encoder_of_inputs_though_one_in_it_is():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.encoder = nn.Embedding(10, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.encoder(self.embedding(ids))

    found = seen(lambda m, x: m.words(torch.randint(10, (6, 5))), words=Words())
    assert {path: call.shape for path, call in found.items()} == {"words.encoder": (5, 4)}


@pytest.mark.parametrize(
    "call", [torch.rand(6), torch.rand(0, 4), torch.zeros(6, 4).long(), [torch.rand(6, 4), torch.zeros(6).long()], []]
)
def test_calls_without_a_batch_of_floating_point_inputs_are_not_counted(call):
    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(IMAGES)

    assert seen(lambda m, x: m.net(call), net=Net(4, 3)) == {}


def test_what_is_in_a_compiled_module_is_not_looked_at_and_what_is_beside_it_is():
    def eager(graph, _):
        return graph.forward

    net, other = (nn.Sequential(nn.Linear(4, 3), nn.ReLU()) for _ in range(2))
    net.compile(backend=eager)
    before = net._compiled_call_impl
    modules = {"net": net, "net2": nn.Sequential(nn.Linear(4, 3)), "other": torch.compile(other, backend=eager)}
    found = seen(lambda m, x: (m.net(x), m.net2(x), m.other(x)), **modules)
    assert {path: call.shape for path, call in found.items()} == dict.fromkeys(("net", "net2.0", "net2", "other"), (4,))
    assert net._compiled_call_impl is before


def test_of_a_compiled_root_nothing_inside_is_looked_at():
    module = Step(lambda m, x: m.net(x), net=nn.Linear(4, 3))
    module.compile(backend=lambda graph, _: graph.forward)
    observation = CallRecorder(module)
    assert list(observation.paths.values()) == [""]
    observation.end()


def test_what_is_called_while_the_module_is_in_evaluation_mode_is_another_ones_probe():
    def step(m, x):
        m.eval()
        m.net(x)
        m.train()

    assert seen(step, net=nn.Linear(4, 3)) == {}
