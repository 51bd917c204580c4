"""Language models with different signatures give the same logits."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from synbench_lightning.benchmark.lm_adapter import Logits

IDS = torch.arange(6).view(2, 3)
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])
TABLE = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    def forward(self, tokens):
        return TABLE[tokens]


class Masked(nn.Module):
    def forward(self, input_ids=None, attention_mask=None):
        return {"logits": TABLE[input_ids] * attention_mask[..., None]}


class Second(nn.Module):
    """Takes the ids by name alone."""

    def forward(self, positions=None, input_ids=None):
        return SimpleNamespace(logits=TABLE[input_ids])


class AnyName(nn.Module):
    def forward(self, tokens, **others):
        return TABLE[tokens] * others["attention_mask"][..., None]


class Holder(LightningModule):
    def __init__(self, model):
        super().__init__()
        self.inner = nn.ModuleDict({"model": model})
        self.note = "text"

    def logits(self, tokens):
        return self.inner["model"](tokens)


WITH_MASK = TABLE[IDS] * MASK[..., None]


@pytest.mark.parametrize(
    ("module", "forward", "takes_mask"),
    [
        (Plain(), None, False),
        (Masked(), None, True),
        (Second(), None, False),
        (AnyName(), None, True),
        (Holder(Plain()), "inner.model", False),
        (Holder(Masked()), "inner.model", True),
        (Holder(Plain()), "logits", False),
        (Holder(Plain()), lambda module, ids, mask: module.logits(ids) * mask[..., None], True),
        (torch.compile(Masked(), backend="eager"), None, True),
        (lambda tokens: TABLE[tokens], None, False),
    ],
)
def test_the_mask_is_given_where_it_is_taken_and_logits_are_found_in_what_is_returned(module, forward, takes_mask):
    call = Logits(module, forward)
    assert call.takes_mask is takes_mask
    torch.testing.assert_close(call(IDS, MASK), WITH_MASK if takes_mask else TABLE[IDS])


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        ("inner.none", "`forward='inner.none'` is not a callable attribute of Holder. Its children are 'inner'"),
        ("none", "`forward='none'` is not a callable attribute of Holder"),
        ("note", "`forward='note'` is not a callable attribute of Holder"),
        (None, "Holder has no `forward` of its own.*Its children are 'inner'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(forward, message):
    with pytest.raises(ValueError, match=message):
        Logits(Holder(Plain()), forward)


@pytest.mark.parametrize(
    ("output", "got"),
    [
        (lambda ids: TABLE[ids][0], r"got \(3, 4\)"),
        (lambda ids: TABLE[ids][..., 0], r"got \(2, 3\)"),
        (lambda ids: TABLE[ids][:, 1:], r"got \(2, 2, 4\)"),
        (lambda ids: "text", "got a str"),
        (lambda ids: {"scores": TABLE[ids]}, "got a dict"),
    ],
)
def test_what_are_no_logits_is_refused(output, got):
    with pytest.raises(ValueError, match=rf"`forward` must return logits \(2, 3, 'vocabulary'\) .* {got}"):
        Logits(output, None)(IDS, MASK)


@pytest.mark.parametrize("error", [IndexError, RuntimeError])
def test_ids_that_the_model_cannot_read_are_named(error):
    def failing(ids):
        raise error("out of range")

    with pytest.raises(RuntimeError, match=rf"cannot read ids up to 5 of shape \(2, 3\): .* {error.__name__}: out of"):
        Logits(failing, None)(IDS, MASK)
