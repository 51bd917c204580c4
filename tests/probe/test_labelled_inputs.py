"""A few labeled inputs: which are encoded, in which order, and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from synbench_lightning import evaluate
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.probe.labelled_inputs import LabelledInputs
from synbench_lightning.probe.views import viewed_inputs
from tests.probe.test_noisy_inputs import CPU, SMALL

G = torch.Generator().manual_seed(0)
X = torch.randn(600, 1, 4, 4, generator=G)
Y = (X.mean((1, 2, 3)) > 0).long()


@pytest.mark.parametrize("number", [20, 64, 65, 512, 600])
def test_the_first_512_are_read_out(number):
    found = evaluate(nn.Flatten(), (1, 4, 4), plan=SMALL, labels=(X[:number], Y[:number]))
    expected = few_label_readout(X[:number].flatten(1)[:512], Y[:number][:512])
    assert found.readout == pytest.approx(expected.value, rel=1e-5)
    assert found.readout_error == pytest.approx(expected.error, rel=1e-4)
    torch.testing.assert_close(
        torch.tensor(found.readout_replicates).double(), expected.replicates, rtol=1e-4, atol=1e-5
    )
    assert found.labels.startswith(f"{min(number, 512)} (")


def test_labels_of_the_inputs_are_those_of_a_pair():
    given = evaluate(nn.Flatten(), (1, 4, 4), plan=SMALL, inputs=X[:100], labels=Y[:100])
    pair = evaluate(nn.Flatten(), (1, 4, 4), plan=SMALL, labels=(X[:100], Y[:100]))
    assert (given.readout, given.labels) == (pair.readout, pair.labels)
    assert given.num_forwards == pair.num_forwards + 2048 - 448  # 100 inputs in 16 views
    several = torch.stack([X[:100], X[:100] + torch.randn(100, 1, 4, 4, generator=G)], 1)
    views = evaluate(nn.Flatten(), (1, 4, 4), plan=SMALL, inputs=several, labels=Y[:100])
    assert views.readout == pair.readout  # of the first view


@pytest.mark.parametrize("number", [32, 600])
def test_token_ids_and_structures_are_read_out_too(number):
    ids = torch.randint(0, 50, (number, 6), generator=G)
    labels = (ids[:, 0] > 25).long()
    table = torch.randn(50, 8, generator=G)

    class Texts(nn.Module):
        def forward(self, ids):
            return table[ids].flatten(1)

    expected = few_label_readout(table[ids].flatten(1)[:512], labels[:512]).value
    for x in (ids, {"ids": ids}):
        inputs = {"inputs": x, "views": lambda x: _masked(x)}
        found = evaluate(Texts(), None, plan=SMALL, labels=(x, labels), **inputs)
        assert found.readout == pytest.approx(expected, rel=1e-4)


def _masked(x):
    if isinstance(x, dict):
        return {"ids": _masked(x["ids"])}
    return torch.where(torch.rand(x.shape) < 0.3, 0, x)


@pytest.mark.parametrize(
    ("labels", "inputs", "message"),
    [
        (Y[:19], X[:19], r"`inputs` must contain at least 20 examples, got 19"),
        ((X[:19], Y[:19]), None, r"`labels\[0\]` must contain at least 20 examples, got 19"),
        (Y[:50], X[:60], "`labels` must have one label per input, got 50 labels for 60 inputs"),
        ((X[:60, 0], Y[:60]), None, r"`labels\[0\]` must be a floating-point tensor \(N, 1, 4, 4\)"),
        (0 * Y[:60], X[:60], r"at least two classes with two examples each among the first 60; .* \[60\]"),
        (torch.arange(60).eq(7).long(), X[:60], r"two examples each.* are \[59, 1\]"),
        (torch.cat([torch.zeros(512), torch.ones(88)]).long(), X, r"among the first 512; .* \[512\]"),
        (Y[:60].float(), X[:60], r"`labels` must be integers \(N,\).*got a Tensor \(torch.float32\) of shape \(60,\):"),
        (Y[:60, None], X[:60], r"`labels` must be integers \(N,\)"),
        ((X[:60], Y[:60].tolist()), None, r"`labels` must be integers .* as y: convert arrays"),
        ((X[:60], Y[:60], Y[:60]), None, r"`labels` must be integers \(N,\)"),
        (Y[:60], None, r"`labels` of shape \(60,\) need a tensor of `inputs` that they belong to, got inputs=None"),
        (Y[:60], "auto", r"need a tensor of `inputs` that they belong to, got inputs='auto'"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_refused(labels, inputs, message):
    with pytest.raises(ValueError, match=message):
        LabelledInputs(labels, inputs, (1, 4, 4), CPU)


@pytest.mark.parametrize(("others", "allowed"), [(1, False), (2, True)])
def test_two_classes_need_two_examples_each(others, allowed):
    labels = torch.tensor([0] * (40 - others) + [1] * others)
    if allowed:
        assert LabelledInputs(labels, X[:40], (1, 4, 4), CPU).num_inputs == 40
        assert LabelledInputs(torch.cat([labels, torch.tensor([2])]), X[:41], (1, 4, 4), CPU).num_inputs == 41
    else:
        with pytest.raises(ValueError, match="two examples each"):
            LabelledInputs(labels, X[:40], (1, 4, 4), CPU)


def told(kept, labels=Y[:120], number=120, kind=None, pair=False):
    """The warning about views that keep a fraction of what labels are about, each with a chance."""
    x = torch.randn(number, 6, generator=torch.Generator().manual_seed(1))
    x[:, 0] = 3 * (2.0 * labels[:number] - 1) + 0.1 * x[:, 0]
    generator = torch.Generator().manual_seed(2)

    def view(batch):
        lost = torch.rand(len(batch), generator=generator) >= kept
        first = torch.where(lost, torch.randn(len(batch), generator=generator), batch[:, 0])
        return torch.cat([first[:, None], batch[:, 1:] + 0.1 * torch.randn(len(batch), 5)], 1)

    views = torch.stack([view(x) for _ in range(16)], 1)
    given = LabelledInputs((x, labels) if pair else labels, x, (6,), CPU)
    shown = viewed_inputs(views, None, (6,), 0, CPU)
    if kind:
        shown.kind = kind
    return given.lost_under_views(x, shown, views)


def test_views_that_lose_more_than_half_of_what_a_readout_finds_are_told():
    balanced = torch.arange(120) % 2
    words = told(0.0, balanced)
    assert words.startswith("A readout of the labels reaches 100% accuracy on the inputs and ")
    assert "(chance: 50%): the views do not seem to be label-preserving" in words
    share = float(words.split("and ")[1].split("%")[0])
    assert share == pytest.approx(50, abs=20)
    assert told(0.3, balanced) is not None
    assert told(0.85, balanced) is None
    assert told(1.0, balanced) is None


def test_noise_and_other_examples_are_not_compared_with_the_labels():
    balanced = torch.arange(120) % 2
    assert told(0.0, balanced, kind="noise") is None
    assert told(0.0, balanced, pair=True) is None


def test_the_chance_is_the_largest_class():
    assert "(chance: 75%)" in told(0.0, (torch.arange(120) % 4 == 0).long())


def warned(labels, wrong):
    """The warning where a readout of one feature is right on inputs, and on views but for as many as are ``wrong``."""
    x = (6.0 * labels - 3)[:, None]
    views = torch.stack([torch.where(torch.arange(len(labels)) < number, -x[:, 0], x[:, 0]) for number in wrong], 1)
    for number, view in zip(wrong, views.unbind(1), strict=True):
        assert int((few_label_readout(view[:, None], labels).right == 0).sum()) == number
    shown = SimpleNamespace(kind="views", draws=len(wrong), num_inputs=len(labels))
    return LabelledInputs(labels, x, (1,), CPU).lost_under_views(x, shown, views[..., None])


@pytest.mark.parametrize(
    ("number", "wrong", "expected"),
    [
        (40, [10] * 4, False),  # half of the accuracy above chance, 3.6 standard errors
        (40, [11] * 4, True),
        (40, [10] * 4 + [14], False),  # four views are enough
        (32, [9] * 4, True),  # 3.5 standard errors
        (20, [6] * 4, False),  # 2.9 standard errors
    ],
)
def test_half_of_the_accuracy_and_three_standard_errors_are_the_limits(number, wrong, expected):
    assert (warned(torch.arange(number) % 2, wrong) is not None) == expected


def test_the_shape_of_labeled_inputs_is_their_own_where_none_is_given():
    assert torch.equal(LabelledInputs((X[:40], Y[:40]), None, None, CPU).inputs, X[:40])


def test_few_inputs_are_the_first_in_the_form_of_their_kind():
    class Encoding:
        def few(self, examples, number):
            return "real", examples.rows, number

        def few_of(self, chunk, number):
            return chunk, number

    ids, graphs = torch.arange(80).view(40, 2), [{"nodes": torch.randn(place + 3)} for place in range(40)]
    assert LabelledInputs((X[:40], Y[:40]), None, (1, 4, 4), CPU).few(Encoding(), 3) == ("real", 40, 3)
    found, number = LabelledInputs((ids, Y[:40]), None, None, CPU).few(Encoding(), 3)
    assert (found.tolist(), number) == (ids.tolist(), 3)
    found, number = LabelledInputs((graphs, Y[:40]), None, None, CPU).few(Encoding(), 3)
    assert (len(found["nodes"]), number) == (3, 3)


def test_labels_without_a_value_for_each_element_are_refused_by_their_name():
    with pytest.raises(ValueError, match="`labels` must be dense"):
        LabelledInputs(Y[:40].to_sparse(), X[:40], (1, 4, 4), CPU)
    with pytest.raises(ValueError, match=r"`labels\[1\]` must be dense"):
        LabelledInputs((X[:40], Y[:40].to_sparse()), None, (1, 4, 4), CPU)
