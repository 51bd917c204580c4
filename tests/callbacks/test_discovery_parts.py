"""Parts of the search for the encoder, each by itself: updates, names, messages, and how often it searches."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synbench_lightning.callbacks.encoder_discovery import EncoderDiscovery, _name_others, _repeated, _within
from synbench_lightning.runtime.encoder_call import EncoderCall
from tests.callbacks.runs import probing, steps, trainer
from tests.encoders import Autoencoder
from tests.integration.user_modules import Foreign, conv


@pytest.mark.parametrize(("number", "named"), [(0, 0), (1, 1), (4, 4), (5, 4)])
def test_at_most_four_others_are_named_each_once(number, named, caplog):
    names = [f"`part{index}`" for index in range(number)]
    with caplog.at_level(logging.INFO):
        _name_others([*names, *names])
    said = [f"SynBench: training also calls {', '.join(names[:named])}. To probe another module, name it with"]
    assert [message.removesuffix(" `encoder=`.") for message in caplog.messages] == (said if number else [])


def test_a_part_is_named_within_its_module():
    assert [_within(("net", "embed"), "layer"), _within(("net", ""), ""), _within(("", "f"), "layer")] == [
        "net.layer", "net", "layer"
    ]  # fmt: skip


def _optimized(module):
    torch.optim.SGD(module.linear.parameters(), 0.1).step()


def _written(module):
    module.linear.weight.data.mul_(2)


def _on_a_sphere(module):  # of the same norm, by autograd's own way
    with torch.no_grad():
        module.linear.weight.neg_()


def _written_in_half_precision(module):
    module.small.data.mul_(2)


@pytest.mark.parametrize(
    ("change", "updated"),
    [
        (_optimized, True), (_written, True), (_on_a_sphere, True), (_written_in_half_precision, True),
        (lambda module: None, False), (lambda module: module.numbers.data.add_(1), False),
        (lambda module: module.linear(torch.rand(2, 3)).sum().backward(), False),
    ],
)  # fmt: skip
def test_an_update_of_any_parameter_is_seen_however_it_is_written(change, updated):
    module = nn.Module()
    module.linear = nn.Linear(3, 2)
    if change is not _optimized:
        module.lazy = nn.LazyLinear(2)
    module.small = nn.Parameter(torch.ones(2, dtype=torch.float16))
    module.numbers = nn.Parameter(torch.arange(4), requires_grad=False)
    module.linear(torch.rand(2, 3)).sum().backward()
    discovery = EncoderDiscovery(None)
    discovery.begin(module, None, lambda: None)
    try:
        change(module)
        assert discovery.is_updated(module) == updated
    finally:
        discovery.abandon()


def _step(optimizer, how):
    def closure():
        return torch.zeros(())

    {"plain": optimizer.step, "closure": lambda: optimizer.step(closure),
     "named": lambda: optimizer.step(closure=closure)}[how]()  # fmt: skip


@pytest.mark.parametrize(
    ("how", "own", "called", "told"),
    [
        ("plain", True, True, 1), ("closure", True, True, 0), ("named", True, True, 0), ("plain", False, True, 0),
        ("plain", True, False, 0),
    ],
)  # fmt: skip
def test_what_comes_before_the_update_is_done_where_own_weights_are_about_to_change(how, own, called, told):
    module, other = nn.Linear(3, 2), nn.Linear(3, 2)
    seen = []
    discovery = EncoderDiscovery(None)
    holder = nn.ModuleDict({"net": module})
    discovery.begin(holder, None, lambda: seen.append(module.weight.clone()))
    before = module.weight.detach().clone()
    optimizer = torch.optim.SGD((module if own else other).parameters(), 0.1)
    if called:
        (module(torch.rand(2, 3)).sum() + other(torch.rand(2, 3)).sum()).backward()
    _step(optimizer, how)
    assert len(seen) == told
    assert all(torch.equal(weight, before) for weight in seen)
    discovery.abandon()
    _step(optimizer, "plain")  # nothing is watched any more
    assert len(seen) == told


def test_the_module_that_is_read_is_the_part_where_it_has_weights():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    discovery = EncoderDiscovery(None)
    assert discovery.read_module(net) is net
    for part, read in (("0", net[0]), ("1", net), ("", net)):
        discovery.call = EncoderCall("net", part=part)
        assert discovery.read_module(net) is read
    assert discovery.read_module(None) is None


@pytest.mark.parametrize(
    ("named", "call", "fits"),
    [
        (None, EncoderCall("net"), True), ("net", EncoderCall("net"), True), ("net.0", EncoderCall("net"), False),
        ("net.0", EncoderCall("net", part="0"), True), ("net", EncoderCall("net", part="0"), False),
        ("net.forward", EncoderCall("net", "forward"), True), ("gone", EncoderCall("gone"), False),
    ],
)  # fmt: skip
def test_a_call_of_an_earlier_run_holds_for_the_name_and_the_modules_it_is_of(named, call, fits):
    root = nn.Module()
    root.net = nn.Sequential(nn.Linear(2, 2))
    discovery = EncoderDiscovery(named)
    discovery.call = call
    found = discovery.encoder(root)
    assert (found is not None, discovery.call is not None) == (fits, fits)
    if fits:
        assert found.owners == (root,)


def test_an_encoder_is_called_by_what_it_is():
    root = nn.Module()
    root.net = nn.Sequential(nn.Linear(2, 2))
    said = {}
    for call in (EncoderCall("net"), EncoderCall("net", "forward"), EncoderCall(""), EncoderCall("", "forward"),
                 EncoderCall("net", part="0"), EncoderCall("net", head="0")):  # fmt: skip
        discovery = EncoderDiscovery(None)
        discovery.call = call
        said[call.path, call.method, call.part, call.head] = discovery.encoder(root).name
    assert list(said.values()) == [
        "`net`, a Sequential", "`net.forward`, a method", "the `forward` of Module", "the `forward` of Module",
        "`net`, a Sequential, after its part `net.0`", "`net`, a Sequential, before its head `net.0`",
    ]  # fmt: skip


class TwoProcesses:
    """The decisions of two processes, of which the other has decided already."""

    def __init__(self, *others):
        self.others = list(others)

    def reduce_boolean_decision(self, decision, all):
        pair = (decision, self.others.pop(0))
        return min(pair) if all else max(pair)


@pytest.mark.parametrize(
    ("own", "others", "found"),
    [
        ((False, False), (True, False), False),
        ((False, False), (False,), False),  # the other one has not recorded the call
        ((True, False), (True, False, False, False), True),
        ((True, True), (True, False, False, False), False),  # it varies by itself
        ((True, True), (True, False, False, True), True),  # there, it does not
        ((False, True), (True, True, False, False), False),
        ((False, True), (True, True, True), True),  # there, it fails
    ],
)
def test_a_call_is_repeated_well_where_it_is_on_every_process(own, others, found):
    differs, varies = own
    rehearsal = SimpleNamespace(differs=lambda: differs, varies=lambda: varies)
    strategy = TwoProcesses(*others)
    assert _repeated(SimpleNamespace(strategy=strategy), rehearsal) == (found, "")
    assert strategy.others == []


def test_a_repeated_call_that_fails_is_another_one_and_says_why():
    def failing():
        raise KeyError("mask")

    rehearsal = SimpleNamespace(differs=failing, varies=failing)
    assert _repeated(SimpleNamespace(strategy=TwoProcesses(True, False, False)), rehearsal) == (
        True, " (KeyError: 'mask')"
    )  # fmt: skip
    rehearsal = SimpleNamespace(differs=lambda: True, varies=failing)
    assert _repeated(SimpleNamespace(strategy=TwoProcesses(True, False, False, False)), rehearsal) == (
        True, " (KeyError: 'mask')"
    )  # fmt: skip


class Replacing(Foreign):
    """Each step puts another module in the place of one that it has called."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head, self.extra = conv(), nn.Linear(16, 8), conv()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) + self.extra(torch.rand(8, 1, 8, 8)).mean()
        self.extra = conv()
        return loss

    def output(self, x):
        return self.head(self.encoder(x))


def test_three_steps_are_searched_at_most():
    callback = probing(every=100, tasks="dc", encoder=None)
    trainer(callback, max_steps=5).fit(Replacing())
    assert steps(callback) == [2, 5]


def test_thresholds_are_those_below_the_accuracy_that_the_largest_scale_allows():
    callback = probing()
    trainer(callback, max_steps=1).fit(Autoencoder())
    result = callback.history[0]
    best = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(max(result.scales), dtype=torch.float64)).item()
    official = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
    assert result.thresholds == tuple(one for one in official if one < best)
    assert len(result.thresholds) > 5
