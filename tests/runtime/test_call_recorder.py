"""What a training step calls its modules with."""

import copy
import pickle

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.runtime.call_recorder import CallRecorder

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
    recorder = CallRecorder(module)
    step(module, IMAGES)
    found = recorder.end()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    return found


def by_path(found):
    assert all(method == "" for _, method in found)
    return {path: call for (path, _), call in found.items()}


class Crops(nn.Linear):
    """Crops of any size, flattened and cut."""

    def forward(self, crops):
        return torch.cat([super(Crops, self).forward(crop.flatten(1)[:, :4]) for crop in crops])


class Pair(nn.Module):
    """Both a `forward` and a method of the user's, and a method that calls its own kind's."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def encode(self, x):
        return self.layer(x)

    def forward(self, x):
        return self.encode(x).sum()


class Further(Pair):
    def encode(self, x):
        return super().encode(x) + 1


def test_calls_are_in_the_order_of_their_beginnings_with_the_shape_of_one_example():
    parts = {"head": nn.Linear(3, 2), "encoder": nn.Linear(4, 3), "idle": nn.Linear(4, 3)}
    found = by_path(seen(lambda m, x: m.head(m.encoder(x)), **parts))
    assert [(path, call.input.shape, call.shapes) for path, call in found.items()] == [
        ("encoder", (4,), ((6, 3),)), ("head", (3,), ((6, 2),)),
    ]  # fmt: skip


def test_a_call_is_made_again_from_its_arguments_and_returns_what_it_returned():
    class Net(nn.Linear):
        def forward(self, mode, x, *, mask, scale=1.0):
            return super().forward(x * mask) * scale

    net, mask = Net(4, 3), torch.rand(6, 4)
    call = by_path(seen(lambda m, x: m.net("a", x, mask=mask, scale=2.0), net=net))["net"]
    assert torch.equal(call.arguments.of(net)[: len(call.sample[0])], call.sample[0])
    assert not call.arguments.of(net).equal(net("a", IMAGES, mask=mask))


def test_methods_are_seen_by_their_names_and_the_class_is_left_as_it_was():
    before = {kind: dict(vars(kind)) for kind in (Pair, Further)}
    found = seen(lambda m, x: m.net(x), net=Further())
    assert [(key, call.parent) for key, call in found.items()] == [
        (("net", ""), None), (("net", "encode"), ("net", "")), (("net.layer", ""), ("net", "encode")),
    ]  # fmt: skip
    assert {kind: dict(vars(kind)) for kind in (Pair, Further)} == before
    assert {call.features for call in found.values()} == {True, False}


def test_the_class_is_left_as_it_was_when_the_step_fails():
    before = dict(vars(Pair))
    recorder = CallRecorder(Step(lambda m, x: m.net(x), net=Pair()))
    recorder.end()
    module = Step(lambda m, x: m.net(None), net=Pair())
    recorder = CallRecorder(module)
    with pytest.raises(TypeError):
        module.training_step(IMAGES, 0)
    recorder.end()
    assert dict(vars(Pair)) == before
    assert not any(part._forward_hooks for part in module.modules())


def test_a_call_that_has_raised_has_not_been_made():
    class Fails(nn.Linear):
        def forward(self, x):
            raise KeyError

    def step(m, x):
        try:
            m.wrong(x)
        except KeyError:
            return m.right(x)

    assert list(by_path(seen(step, wrong=Fails(4, 3), right=nn.Linear(4, 3)))) == ["right"]


def test_copies_and_pickles_made_meanwhile_have_no_hooks_and_are_not_seen():
    made = []

    def step(m, x):
        made.extend((copy.deepcopy(m.net), copy.deepcopy(m.net), pickle.loads(pickle.dumps(m.net))))
        return [net(x) for net in (m.net, *made)]

    found = seen(step, net=nn.Sequential(nn.Linear(4, 3)))
    assert found["net", ""].count == 1
    assert not any(part._forward_hooks or part._forward_pre_hooks for net in made[:2] for part in net.modules())
    assert all(torch.equal(net(IMAGES), made[0](IMAGES)) for net in made)


def test_nothing_of_a_step_is_kept_alive_afterwards():
    import weakref

    module = Step(lambda m, x: m.net(x), net=nn.Linear(4, 3))
    recorder = CallRecorder(module)
    x = torch.rand(6, 4)
    output = module.net(x)
    kept = [weakref.ref(x), weakref.ref(output)]
    recorder.end()
    del x, output
    assert [reference() for reference in kept] == [None, None]


def test_of_a_list_of_crops_the_largest_counts():
    crops = [torch.rand(6, 4), torch.rand(6, 2, 3), torch.rand(6, 5)]
    call = by_path(seen(lambda m, x: m.net(crops[1:2] + crops[1:2]), net=Crops(4, 3)))["net"]
    assert (call.input.shape, call.input.listed, call.features) == ((2, 3), True, True)


def test_of_several_calls_the_one_with_features_of_the_largest_input_counts():
    class Net(nn.Linear):
        def forward(self, x):
            out = super().forward(x[:, :4])
            return out.sum() if x.shape[1] == 9 else out

    def step(m, x):
        with torch.no_grad():
            m.net(torch.rand(6, 7))
        return sum(m.net(torch.rand(6, size)).sum() for size in (9, 5, 9, 4))

    call = by_path(seen(step, net=Net(4, 3)))["net"]
    assert (call.input.shape, call.features, call.trained, call.count) == ((7,), True, True, 5)


@pytest.mark.parametrize(
    ("output", "features"),
    [
        (lambda z: z, True),
        (lambda z: (None, {"z": z}), True),
        (lambda z: z.sum(), False),
        (lambda z: z.sum(1), False),
        (lambda z: z[:5], False),
        (lambda z: torch.cat([z, z]), False),
        (lambda z: z.argmax(1, keepdim=True), False),
    ],
)
def test_features_are_a_row_for_each_example(output, features):
    class Net(nn.Linear):
        def forward(self, x):
            return output(super().forward(x))

    assert by_path(seen(lambda m, x: m.net(x), net=Net(4, 3)))["net"].features == features


def test_what_is_frozen_or_called_without_gradients_is_not_trained():
    def step(m, x):
        with torch.no_grad():
            m.slow(x)
        return m.head(m.frozen(x)) + m.fast(x)

    nets = {name: nn.Linear(4, 4) for name in ("slow", "frozen", "head", "fast")}
    found = by_path(seen(step, **nets | {"frozen": nn.Linear(4, 4).requires_grad_(False)}))
    assert {path: call.trained for path, call in found.items()} == {
        "slow": False, "frozen": False, "head": True, "fast": True,
    }  # fmt: skip


def test_who_is_given_what_a_call_returned_is_seen_through_operations_in_between():
    def step(m, x):
        z = nn.functional.normalize(m.net(x).relu())
        return m.head(z), m.other(z.detach()), m.head(m.other(x))

    parts = {name: nn.Linear(4, 4) for name in ("net", "head", "other")}
    found = by_path(seen(step, **parts))
    assert found["net"].consumers == {("head", "")}
    assert found["other"].consumers == {("head", "")}
    assert found["head"].consumers == frozenset()


def test_what_an_output_was_made_of_is_seen():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.projector = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return 2 * self.projector(self.trunk(x).relu())

    class Several(Net):
        def forward(self, x):
            return super().forward(x), self.trunk(x)

    for net in (Net(), Several()):  # of several outputs, the first
        assert by_path(seen(lambda m, x: m.net(x), net=net))["net"].made_by == {("net.projector", "")}


def test_what_is_in_a_compiled_module_is_not_looked_at_and_what_is_beside_it_is():
    def eager(graph, _):
        return graph.forward

    net, other = (nn.Sequential(nn.Linear(4, 3), nn.ReLU()) for _ in range(2))
    net.compile(backend=eager)
    before = net._compiled_call_impl
    modules = {"net": net, "net2": nn.Sequential(nn.Linear(4, 3)), "other": torch.compile(other, backend=eager)}
    found = by_path(seen(lambda m, x: (m.net(x), m.net2(x), m.other(x)), **modules))
    assert set(found) == {"net", "net2", "net2.0", "other"}
    assert net._compiled_call_impl is before


def test_of_a_compiled_root_nothing_inside_is_looked_at():
    module = Step(lambda m, x: m.net(x), net=nn.Linear(4, 3))
    module.compile(backend=lambda graph, _: graph.forward)
    recorder = CallRecorder(module)
    assert list(recorder.paths.values()) == [""]
    recorder.end()


def test_what_is_called_while_the_module_is_in_evaluation_mode_is_another_ones_probe():
    def step(m, x):
        m.eval()
        m.net(x)
        m.train()

    assert seen(step, net=nn.Linear(4, 3)) == {}


def test_methods_that_call_each_other_have_an_end():
    class Each(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def one(self, x, depth):
            return self.other(x, depth - 1) if depth else self.layer(x)

        def other(self, x, depth):
            return self.one(x, depth)

    found = seen(lambda m, x: m.net.one(x, 2), net=Each())
    assert set(found) == {("net", "one"), ("net", "other"), ("net.layer", "")}
