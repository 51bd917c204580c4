"""Which recorded calls are repeated for a module, a method or a layer that the user has named."""

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.call_recorder import CallRecorder
from synbench_lightning.runtime.named_calls import calls_of_name, recorded_path
from tests.runtime.test_encoder_ranking import Forward, Of, net


class Two(nn.Module):
    """Returns features by two methods, and a loss by its forward."""

    def __init__(self):
        super().__init__()
        self.early, self.late = net(8, 8), net(8, 4)

    def encode(self, x):
        return self.late(self.early(x))

    def embed(self, x):
        return 2 * self.encode(x)

    def forward(self, x):
        return self.embed(x).mean()


def named(name, step=lambda m, x: m.net(x), input_shape=None, x=None, **parts):
    """The names of the calls that are repeated for a name, and the part that is read."""
    root = Forward(**(parts or {"net": Two()}))
    recorder = CallRecorder(root)
    step(root, torch.rand(6, 8) if x is None else x)
    calls, paths = recorder.end(), recorder.paths
    found, part = calls_of_name(root, name, calls, paths, input_shape)
    return [call.name for call in found], part


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.encode", (["net.encode"], "")),
        ("net.embed", (["net.embed"], "")),
        ("net", (["net.embed", "net.encode"], "")),  # not its forward, which returns a loss
        ("net.early", (["net.early"], "")),
        ("net.late", (["net"], "late")),
        ("net.late.2", (["net"], "late.2")),
        ("net.forward", ([], "")),
    ],
)
def test_what_returns_features_is_repeated_and_a_layer_is_read_in_the_module_that_feeds_it(name, expected):
    assert named(name) == expected


def test_a_layer_is_called_directly_for_inputs_of_its_shape():
    assert named("net.late", input_shape=(8,)) == (["net.late"], "")
    assert named("net.late", input_shape=(4,)) == (["net"], "late")


def test_a_layer_without_an_input_is_read_in_the_module_that_feeds_it():
    late = Of(lambda m, numbers: m.net(numbers[:, None]), net=net(1, 4))
    model = Of(lambda m, x: m.late(m.early(x).sum(1)), early=net(8, 8), late=late)
    assert named("net.late", net=model) == (["net"], "late")
    assert named("net.late", input_shape=(8,), net=model) == (["net"], "late")


def test_a_module_that_was_not_called_has_no_call():
    idle = net(8, 8)
    root = {"net": Two(), "idle": idle}
    assert named("idle", **root) == ([], "")
    assert named("idle.2", **root) == ([], "")


def test_a_module_with_two_names_has_the_first():
    root = Forward(net=Two())
    root.other = root.net
    recorder = CallRecorder(root)
    root.other.encode(torch.rand(6, 8))
    calls = recorder.end()
    for name in ("net", "other", "other.encode"):
        found, part = calls_of_name(root, name, calls, recorder.paths, None)
        assert ([call.name for call in found], part) == (["net.encode"], "")
    assert recorded_path(root, "other.encode", recorder.paths) == "net"
    assert recorded_path(root, "other.late", recorder.paths) == "net.late"
    assert recorded_path(root, "over", recorder.paths) is None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_layer_of_a_module_whose_inner_calls_are_hidden_is_read_in_it():
    hidden = torch.jit.script(nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 4)))
    for layer in ("0", "0.1", "1"):
        assert named(f"net.{layer}", net=hidden) == (["net"], layer)
    outer = Of(lambda m, x: m.inner(m.first(x)), first=net(8, 8), inner=hidden)
    assert named("net.inner.0.1", net=outer) == (["net.inner"], "0.1")
    assert named("net.inner.forward", net=outer) == ([], "")
