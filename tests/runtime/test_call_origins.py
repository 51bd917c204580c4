"""Where a recorded call was made, what it was given there, and what is a call of its own."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.call_recorder import CallRecorder
from synbench_lightning.runtime.data_flow import DataFlow
from tests.runtime.test_call_recorder import IMAGES, Pair, Step, by_path, seen


def test_a_call_that_has_raised_and_modules_that_were_replaced_are_no_consumers():
    class Fails(nn.Linear):
        def forward(self, x):
            raise KeyError

    def step(m, x):
        z = m.net(x)
        try:
            m.wrong(z)
        except KeyError:
            m.right(z), m.gone(z)
        m.gone = nn.Linear(3, 3)

    parts = {"net": nn.Linear(4, 3), "wrong": Fails(3, 3), "right": nn.Linear(3, 3), "gone": nn.Linear(3, 3)}
    assert by_path(seen(step, **parts))["net"].consumers == {("right", "")}


def test_a_call_has_the_input_of_the_module_that_made_it_where_the_tensor_or_the_picture_s_shape_is_the_same():
    class Outer(nn.Module):
        def __init__(self, prepare):
            super().__init__()
            self.inner, self.prepare = nn.Linear(4, 4), prepare

        def forward(self, x):
            return self.inner(self.prepare(x))

    pictures = torch.rand(6, 3, 4, 4)
    for x, prepare, shares, given in (
        (IMAGES, lambda x: x, True, True), (IMAGES, lambda x: 2 * x, False, False),
        (pictures, lambda x: 2 * x, True, False), (pictures, lambda x: x[:, :2], False, False),
    ):  # fmt: skip
        found = by_path(seen(lambda m, _, x=x: m.net(x), net=Outer(prepare)))
        assert (found["net"].shares_input, found["net"].given) == (True, True)
        assert (found["net.inner"].shares_input, found["net.inner"].given) == (shares, given)
        assert (found["net.inner"].arguments is not None) == shares


def test_of_calls_with_another_and_with_the_module_s_own_input_the_latter_is_kept_and_their_span():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return self.inner(2 * y) + self.other(x) + self.inner(x)

    found = by_path(seen(lambda m, x: m.net(x, torch.rand(6, 5, 4).sum(1)), net=Outer()))
    inner, other = found["net.inner"], found["net.other"]
    assert (inner.shares_input, inner.given, inner.count) == (True, True, 2)
    assert torch.equal(inner.arguments.args[0], IMAGES)
    assert [found["net"].order, inner.order, other.order] == [(0, 7), (1, 6), (3, 4)]


def test_a_call_has_the_random_state_that_it_began_with():
    states = []

    def step(m, x):
        m.first(x)
        states.append(torch.get_rng_state())
        m.net(x)

    found = by_path(seen(step, first=nn.Dropout(), net=nn.Sequential(nn.Dropout(), nn.Linear(4, 4))))
    assert torch.equal(found["net"].random_state, states[0])
    assert not torch.equal(found["first"].random_state, states[0])


@pytest.mark.parametrize(("width", "kept"), [(4096, True), (4097, False)])
def test_vectors_are_kept_up_to_a_size(width, kept):
    found = by_path(seen(lambda m, x: m.net(x.repeat(1, width)[:, :width]), net=nn.Linear(width, 2)))
    assert (found["net"].vectors is not None) == kept


@pytest.mark.parametrize(("called", "most"), [(4, False), (5, False), (6, True)])
def test_most_is_called_with_more_than_half_of_the_trained_weights(called, most):
    parts = {
        "one": nn.Linear(called, 1, bias=False),
        "other": nn.Linear(10 - called, 1, bias=False),
        "frozen": nn.Linear(50, 1).requires_grad_(False),
    }
    module = Step(None, **parts)
    recorder = CallRecorder(module)
    assert not recorder.has_called_most()
    module.one(torch.rand(2, called))
    assert recorder.has_called_most() == most
    recorder.end()


def test_methods_of_a_compiled_module_are_seen_and_the_class_of_compiled_modules_is_left_as_it_was():
    kind = torch._dynamo.OptimizedModule
    before = kind.__getattr__

    def step(m, x):
        assert isinstance(m.net.layer, nn.Linear)
        assert m.net.layer.weight.shape == (3, 4)
        return m.net.encode(x)

    found = seen(step, net=torch.compile(Pair(), backend="eager"))
    assert [(key, call.shapes) for key, call in found.items()] == [(("net", "encode"), ((6, 3),))]
    assert kind.__getattr__ is before
    recorder = CallRecorder(Step(None, net=Pair()))
    assert kind.__getattr__ is before
    recorder.end()


def test_a_replaced_module_with_weights_is_seen():
    module = Step(None, net=nn.Linear(4, 3), act=nn.ReLU())
    recorder = CallRecorder(module)
    assert not recorder.replaced
    module.act = nn.ReLU()
    assert not recorder.replaced
    module.net = nn.Linear(4, 3)
    assert recorder.replaced
    recorder.end()


@pytest.mark.parametrize(("repeated", "frozen"), [(True, False), (False, False), (True, True)])
def test_what_a_backward_pass_repeats_is_no_call_of_its_own_and_is_trained_by_it(repeated, frozen):
    module = Step(None, net=nn.Linear(4, 3).requires_grad_(not frozen))
    recorder = CallRecorder(module)
    with torch.no_grad():
        module.net(IMAGES)
    recorder.in_backward = True
    if repeated:
        module.net(IMAGES.requires_grad_(frozen))
    recorder.in_backward = False
    call = by_path(recorder.end())["net"]
    assert (call.count, call.trained) == (1, repeated and not frozen)
    IMAGES.requires_grad_(False)


def test_a_module_that_calls_itself_is_made_in_the_call_around_it():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, again=True):
            return self(torch.cat([x, x], 1), again=False) if again else self.layer(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Again()

        def forward(self, x):
            return self.net(x[:, :2])

    found = by_path(seen(lambda m, x: m.outer(x), outer=Outer()))
    assert found["outer.net"].input.shape == (4,)
    assert [found[path].parent for path in ("outer.net", "outer.net.layer")] == [("outer", ""), ("outer.net", "")]


def test_methods_of_a_class_that_is_no_module_itself_are_seen():
    class Mixin:
        def embed(self, x):
            return self.layer(x)

    class Mixed(Mixin, Pair):
        pass

    before = dict(vars(Mixin))
    found = seen(lambda m, x: (m.net.embed(x), m.net.encode(x)), net=Mixed())
    assert {("net", "embed"), ("net", "encode")} <= set(found)
    assert dict(vars(Mixin)) == before


def test_arguments_are_those_that_a_call_was_given_before_hooks_of_the_user_that_change_them():
    net = nn.Linear(4, 3)
    with net.register_forward_pre_hook(lambda _, args: (2 * args[0],)):
        module = Step(None, net=net)
        recorder = CallRecorder(module)
        output = net(IMAGES)
        call = recorder.end()["net", ""]
        assert call.arguments.args[0].data_ptr() == IMAGES.data_ptr()
        assert torch.equal(call.arguments.of(net), output)


def test_a_tensor_without_a_graph_is_followed_once_it_has_one():
    flow, weight, other = DataFlow(), torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    later, never = torch.ones(3), torch.ones(3)
    flow.mark("checkpointed", [later, never])
    flow.mark("encoder", [one := 2 * other])
    assert flow.sources([later, never]) == set()
    later.mul_(weight)
    assert flow.sources([one, later, never]) == {"encoder", "checkpointed"}
