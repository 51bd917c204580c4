"""Whose call another one was made in: inner layers, encoders in the step's own forward, methods that encode."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.call_recorder import Call
from synbench_lightning.runtime.call_tree import CallTree
from synbench_lightning.runtime.heads import heads_behind
from synbench_lightning.runtime.input_leaf import InputLeaf
from tests.runtime.test_encoder_ranking import Forward, Of, Weights, net, ranked, recorded, recorded_of

L = nn.Linear
IMAGES = torch.rand(6, 1, 4, 4)
TOKENS = torch.rand(6, 4, 8)


def flat(outputs=8):
    return nn.Sequential(nn.Flatten(), L(16, outputs))


class Flat(L):
    """A layer that takes pictures."""

    def forward(self, x):
        return super().forward(x.flatten(1))


FORWARDS = {
    "a network before a projection": (lambda m, x: m.mlp(m.net(x)), flat(), IMAGES, True),
    "a network of tokens before a projection": (
        lambda m, x: m.mlp(m.net(x)), nn.Sequential(nn.Flatten(), L(32, 8)), TOKENS, True,
    ),
    "a network of vectors": (lambda m, x: m.mlp(m.net(x.flatten(1))), L(16, 8), IMAGES, False),
    "vectors that are given": (lambda m, x: m.mlp(m.net(x)), net(8, 8), None, False),
    "a single layer": (lambda m, x: m.mlp(m.net(x)), Flat(16, 8), IMAGES, False),
    "a network alone": (lambda m, x: m.net(x), flat(), IMAGES, False),
    "a network of another input": (lambda m, x: m.mlp(m.net(2 * x)), flat(), IMAGES, False),
    "a network of maps": (
        lambda m, x: m.mlp(m.net(x).flatten(1)), nn.Sequential(nn.Conv2d(1, 2, 2, 2)), IMAGES, False,
    ),
    "a network that returns a sum": (
        lambda m, x: m.mlp(x.flatten(1)[:, :8] * m.net(x)), nn.Sequential(flat(), nn.Flatten(0)), IMAGES[:1], False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDS)
def test_a_forward_of_the_step_s_module_has_an_encoder_where_a_network_makes_vectors_that_it_projects(name):
    forward, network, x, expected = FORWARDS[name]
    tree = recorded_of(Forward(forward, net=network, mlp=net(8, 8)), lambda m, x: m(x), x)
    assert tree.has_encoder(tree.calls["", ""]) == expected


def test_a_head_of_the_forward_is_no_encoder():
    root = Forward(lambda m, x: m.mlp(m.classifier(x)), classifier=flat(), mlp=net(8, 8))
    tree = recorded_of(root, lambda m, x: m(x), IMAGES)
    assert not tree.has_encoder(tree.calls["", ""])


class Both(nn.Module):
    """A method that returns features, and a forward that goes on."""

    def __init__(self, last, name="encode"):
        super().__init__()
        self.net, self.last, self.name = net(8, 8), last, name

    def encode(self, x):
        return self.net(x)

    def prepare(self, x):
        return self.net(x)

    def forward(self, x):
        return self.last(getattr(self, self.name)(x))


class Beside(Both):
    def forward(self, x):
        return self.last(x) + self.encode(x)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Both(net(8, 8)), True), (Both(net(8, 8), "prepare"), False), (Both(nn.LayerNorm(8)), False),
        (Both(nn.Dropout()), False), (Beside(net(8, 8)), False),
    ],
    ids=["encodes", "another name", "before normalization", "before nothing with weights", "beside another network"],
)  # fmt: skip
def test_a_method_encodes_where_its_name_says_so_and_layers_with_weights_take_what_it_returns(model, expected):
    tree = recorded(lambda m, x: m.model(x).mean(), model=model)
    assert tree.is_encoding_method(tree.calls["model", model.name]) == expected
    assert not tree.is_encoding_method(tree.calls["model", ""])


def outer(step, path, x=None, **parts):
    """The name of the call that is repeated for an inner layer."""
    tree = recorded(step, x, **parts)
    return tree.outer(tree.calls[path, ""]).name


def test_a_layer_that_other_layers_feed_is_read_in_the_module_that_feeds_it():
    model = Of(lambda m, x: m.late(m.early(x)), early=net(8, 8), late=net(8, 8))
    for path, expected in (("model.late", "model"), ("model.early", "model.early"), ("model.late.2", "model")):
        assert outer(lambda m, x: m.model(x).mean(), path, model=model) == expected
    for before, expected in ((lambda m, x: x, "model.inner"), (lambda m, x: m.first(x), "model")):
        whole = Of(lambda m, x, before=before: m.inner(before(m, x)), first=net(8, 8), inner=model)
        assert outer(lambda m, x: m.model(x).mean(), "model.inner.late", model=whole) == expected


def test_a_layer_in_a_module_whose_arguments_were_not_kept_is_called_directly():
    model = Of(lambda m, x: m.late(m.early(x)), early=net(8, 8), late=net(8, 8))
    whole = Of(lambda m, x: m.inner(2 * x), inner=model)
    tree = recorded(lambda m, x: m.model(x).mean(), model=whole)
    assert tree.calls["model.inner", ""].arguments is None
    assert tree.outer(tree.calls["model.inner.late", ""]).name == "model.inner.late"


def test_a_layer_that_feeds_itself_is_called_directly():
    model = Of(lambda m, x: m.layer(m.layer(x)), layer=net(8, 8))
    assert outer(lambda m, x: m.model(x).mean(), "model.layer", model=model) == "model.layer"


def test_a_layer_that_only_layers_without_weights_feed_is_called_directly():
    model = Of(lambda m, x: m.net(m.relu(x)), relu=nn.ReLU(), net=net(8, 8))
    assert outer(lambda m, x: m.model(x).mean(), "model.net", model=model) == "model.net"


class Stepping(Forward):
    def shared_step(self, x):
        return self.late(self.early(x)).mean()


def test_modules_of_a_step_are_no_layers_of_it_and_those_of_a_forward_are():
    parts = {"early": net(8, 8), "late": net(8, 8)}
    tree = recorded_of(Stepping(**parts), lambda m, x: m.shared_step(x))
    assert tree.outer(tree.calls["late", ""]).name == "late"
    tree = recorded_of(Forward(lambda m, x: m.late(m.early(x)), **parts), lambda m, x: m(x))
    assert tree.outer(tree.calls["late", ""]).name == "forward"
    assert tree.outer(tree.calls["early", ""]).name == "early"


def test_a_module_that_another_one_only_calls_is_no_layer_of_it():
    class Calling(nn.Module):
        def __init__(self, other):
            super().__init__()
            self.first, self.others = net(8, 8), (other,)

        def forward(self, x):
            return self.others[0](self.first(x))

    head = net(8, 8)
    assert outer(lambda m, x: m.model(x).mean(), "own", own=head, model=Calling(head)) == "own"


class Mutual(nn.Module):
    """Two modules that call each other."""

    def __init__(self):
        super().__init__()
        self.layer, self.other = net(8, 8), None

    def forward(self, x, depth):
        x = self.layer(self.layer(x))
        return x if depth == 0 else self.other[0](x, depth - 1)


def test_calls_within_each_other_come_to_an_end():
    one, two = Mutual(), Mutual()
    one.other, two.other = [two], [one]
    tree = recorded(lambda m, x: m.one(x, 3).mean(), one=one, two=two)
    for path in ("one", "two", "one.layer", "two.layer"):
        call = tree.calls[path, ""]
        assert tree.outer(call).name in ("one", "two", path)
        assert {owner.name for owner in tree.owners(call)} <= {"one", "two"}
        tree.represents(call), tree.is_stage(call), tree.readout(call)


def test_what_only_a_method_of_the_step_s_module_takes_is_used_by_the_loss_alone():
    class Measuring(Forward):
        def distance(self, z):
            return z.square().mean(1, keepdim=True)

    model = Of(lambda m, x: m.last(m.net(x)), net=net(8, 8), last=L(8, 4))
    tree = recorded_of(Measuring(model=model), lambda m, x: m.distance(m.model(x)).mean())
    assert tree.readout(tree.calls["model", ""]).head == "last"


@pytest.mark.parametrize(("size", "order"), [(29, ["b", "a"]), (30, ["a", "b"])])
def test_of_modules_beside_each_other_one_with_less_than_three_hundredths_of_the_weights_comes_later(size, order):
    found = ranked(lambda m, x: (m.a(x), m.b(x)), a=Weights(size), b=Weights(1000))
    assert [name for name, _ in found] == order


def test_calls_that_are_written_down_are_trained_and_share_the_input_unless_they_say_otherwise():
    root = Forward(net=flat(), mlp=net(8, 8))
    x = torch.rand(4, 8)
    forward = Call("", shapes=((6, 8),))
    inner = Call("net", "", InputLeaf(("args", 0), (1, 4, 4), 6), shapes=((6, 8),), sample=(x,), parent=("", ""),
                 consumers=frozenset([("mlp", "")]))  # fmt: skip
    last = Call("mlp", shapes=((6, 8),), vectors=(x, x), parent=("", ""))
    tree = CallTree({call.key: call for call in (forward, inner, last)}, root)
    assert tree.has_encoder(forward)
    assert tree.shares_input(inner)
    assert [head.path for head in heads_behind(inner, tree.calls)] == ["mlp"]
    assert Call("net", sample=(x,)) != Call("net", sample=(x,))  # compared by identity, since they hold tensors
    with pytest.raises(AttributeError):
        last.trained = False
