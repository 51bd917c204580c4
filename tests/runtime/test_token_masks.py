"""Which tokens of a call are valid, by the names of its arguments."""

import pytest
import torch

from synbench_lightning.runtime.structures import Arguments
from synbench_lightning.runtime.token_masks import Masked, counting_tokens, marks_padding, masked, token_mask

VALID = torch.tensor([[True, True, False], [True, False, False]])
NUMBERS = 2 * VALID.long()


@pytest.mark.parametrize(
    "arguments",
    [
        Arguments((torch.rand(2, 3),), {"attention_mask": NUMBERS}),
        Arguments(({"ids": NUMBERS, "Attention_Mask": VALID},)),
        Arguments((), {"pad_mask": VALID, "src_key_padding_mask": VALID}),
        Arguments((), {"src_key_padding_mask": ~VALID}),
        Arguments(({"text": {"padding_mask": 1 - VALID.long()}},)),
        Arguments((), {"attention_mask": torch.ones(3, 3, 3), "padding_mask": torch.ones(2), "pad_mask": VALID}),
    ],
)
def test_a_mask_is_true_for_valid_tokens(arguments):
    assert torch.equal(token_mask(arguments), VALID)


class Graph:
    """It is not known which examples its tensors belong to."""

    def to_dict(self):
        return {"attention_mask": VALID}

    def to(self, device):
        return self


@pytest.mark.parametrize("value", [{"mask": VALID}, {"attention_mask": VALID[0]}, {"padding_mask": VALID[0]}, Graph()])
def test_without_a_mask_of_tokens_all_are_valid(value):
    assert token_mask(Arguments((value,))) is None


@pytest.mark.parametrize(
    ("path", "padding"),
    [
        (("kwargs", "src_key_padding_mask"), True), (("args", 0, "Padding"), True), (("padding", "mask"), False),
        (("kwargs", "attention_mask"), False), (("args", 0), False),
    ],
)  # fmt: skip
def test_padding_is_marked_where_the_name_says_so(path, padding):
    assert marks_padding(path) == padding


def test_outputs_have_the_mask_of_the_call_they_are_made_in():
    output = torch.rand(2, 3, 4)
    with counting_tokens(VALID) as mask:
        assert mask is VALID
        found = masked(output)
        with counting_tokens(None):
            assert masked(output) is output
    assert isinstance(found, Masked)
    assert found.output is output
    assert found.mask is VALID
    assert masked(output) is output
