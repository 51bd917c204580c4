"""Halves of texts, where nothing is random before the encoder."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from synbench_lightning import evaluate
from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.probe.text_views import is_text, text_halves, viewed_texts
from tests.probe.test_noisy_inputs import SMALL

PAD, CLASS, END = 0, 1, 2


def texts(lengths, on_the_left=False, special=True):
    """Padded ids and their mask; all words differ from each other."""
    ids, mask = torch.full((len(lengths), max(lengths) + 2 * special), PAD), None
    for row, length in enumerate(lengths):
        words = 100 * (row + 1) + torch.arange(length)
        if special:
            words = torch.cat([torch.tensor([CLASS]), words, torch.tensor([END])])
        ids[row, len(ids[0]) - len(words) :] = words if on_the_left else ids[row, len(ids[0]) - len(words) :]
        if not on_the_left:
            ids[row, : len(words)] = words
    mask = (ids != PAD).long()
    return ids, mask


@pytest.mark.parametrize("on_the_left", [False, True])
def test_the_halves_of_a_padded_text_are_those_of_its_words_between_the_tokens_that_all_texts_share(on_the_left):
    lengths = (6, 9, 12, 7)
    ids, mask = texts(lengths, on_the_left)
    halves = text_halves({"attention_mask": mask, "input_ids": ids, "extra": torch.arange(4)})
    for place, half in enumerate(halves):
        for row, length in enumerate(lengths):
            words = list(range(100 * (row + 1), 100 * (row + 1) + length))
            expected = words[: length // 2] if place == 0 else words[length - length // 2 :]
            counting = half["attention_mask"][row].bool()
            assert half["input_ids"][row][counting].tolist() == [CLASS, *expected, END]
            assert (half["input_ids"][row][~counting] == PAD).all()
            padding_first = bool(half["attention_mask"][row].diff().ge(0).all())
            assert padding_first if on_the_left else bool(half["attention_mask"][row].diff().le(0).all())
        assert half["input_ids"].shape[1] == max(lengths) // 2 + 2
        assert half["extra"].tolist() == [0, 1, 2, 3]


def test_a_mask_of_padding_is_true_for_padding_afterwards_too():
    ids, mask = texts((8, 11, 8))
    first, second = text_halves({"src": ids, "src_key_padding_mask": mask == 0})
    for half in (first, second):
        assert torch.equal(half["src_key_padding_mask"], half["src"] == PAD)


def test_what_belongs_to_a_token_stays_with_it():
    ids, mask = texts((10, 8), special=False)
    positions, segments = torch.arange(10).expand(2, 10), ids % 3
    first, second = text_halves(
        {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "token_type_ids": segments}
    )
    assert first["position_ids"][0].tolist() == [0, 1, 2, 3, 4]
    assert second["position_ids"][0].tolist() == [5, 6, 7, 8, 9]
    assert second["token_type_ids"][1][:4].tolist() == [(200 + word) % 3 for word in range(4, 8)]


def test_without_a_mask_texts_are_cut_in_the_middle():
    ids = torch.randint(3, 1000, (40, 17), generator=torch.Generator().manual_seed(0))
    first, second = text_halves(ids)
    assert torch.equal(first, ids[:, :8])
    assert torch.equal(second, ids[:, 9:])


@pytest.mark.parametrize("on_the_left", [False, True])
def test_padding_is_seen_without_a_mask_too(on_the_left):
    ids, mask = texts((9, 12, 8, 10), on_the_left, special=False)
    without, with_mask = text_halves(ids), text_halves({"input_ids": ids, "attention_mask": mask})
    for one, other in zip(without, with_mask, strict=True):
        assert torch.equal(one, other["input_ids"])


def test_texts_of_a_few_tokens_are_skipped():
    ids, mask = texts((3, *[12] * 40, 5), special=False)
    assert viewed_texts([{"input_ids": ids, "attention_mask": mask}]).num_inputs == 40


def test_a_recurrent_encoder_that_packs_by_the_mask_sees_the_words_of_a_half_alone():
    torch.manual_seed(0)
    embedding, lstm = nn.Embedding(1000, 8), nn.GRU(8, 8, batch_first=True)

    def last(ids, mask):
        packed = pack_padded_sequence(embedding(ids), mask.sum(1), batch_first=True, enforce_sorted=False)
        return lstm(packed)[1][0]

    ids, mask = texts((6, 9, 8), special=False)
    first, second = text_halves({"input_ids": ids, "attention_mask": mask})
    for half, cut in ((first, slice(0, 4)), (second, slice(5, 9))):
        alone = lstm(embedding(ids[1:2, cut]))[1][0]
        torch.testing.assert_close(last(half["input_ids"], half["attention_mask"])[1:2], alone)


def test_pictures_real_inputs_and_short_rows_of_categories_are_no_texts():
    assert is_text(torch.ones(40, 16, dtype=torch.long))
    for other in (torch.ones(40, 16), torch.ones(40, 16, 16, dtype=torch.uint8), torch.ones(40, 5, dtype=torch.long)):
        assert not is_text(other)
        with pytest.raises(ValueError, match="token ids"):
            text_halves(other)


class Topics(nn.Module):
    """Words by topic: those of even texts are below 500. ``known``: how far features are about it, in [0, 1]."""

    def __init__(self, known):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(1000, 16)
        topic = (torch.arange(1000)[:, None] // 125 == torch.arange(8)).float()
        with torch.no_grad():
            self.embedding.weight.mul_(1 - known)[:, :8] += known * topic

    def forward(self, input_ids, attention_mask=None):
        return self.embedding(input_ids)


def documents(rows=512, tokens=24):
    generator = torch.Generator().manual_seed(1)
    topic = torch.arange(rows) % 8
    return 125 * topic[:, None] + torch.randint(125, (rows, tokens), generator=generator)


def test_information_about_halves_rises_with_what_two_parts_of_a_text_have_in_common_and_that_of_windows_does_not():
    ids = documents()

    def information(known, pairs):
        encoder = Topics(known)
        with torch.no_grad():
            return float(instance_information(torch.stack([encoder(ids).mean(1) for ids in pairs], 1)))

    disjoint = [information(known, text_halves(ids)) for known in (0.0, 0.3, 0.6)]
    overlapping = [information(known, (ids[:, :18], ids[:, 6:])) for known in (0.0, 0.3, 0.6)]
    assert disjoint[0] < disjoint[1] < disjoint[2]
    assert disjoint[0] < 1
    assert overlapping[0] > 5


def test_texts_without_views_are_shown_in_halves():
    ids = documents()
    encoder = Topics(0.3)
    result = evaluate(encoder, None, inputs={"input_ids": ids}, plan=SMALL, tasks="dc")
    with torch.no_grad():
        features = torch.stack([encoder(half).mean(1) for half in text_halves(ids)], 1)
    assert result.information == pytest.approx(float(instance_information(features)), rel=1e-5)
    assert result.information_kind == "pairs"


def test_of_many_texts_the_first_1024_are_shown_whatever_their_chunks():
    ids = documents(1500)
    whole = viewed_texts([ids])
    chunked = viewed_texts([{"input_ids": part} for part in ids.split(400)])
    assert whole.num_inputs == chunked.num_inputs == 1024
    for view, parts in zip(whole.views, chunked.views, strict=True):
        assert torch.equal(view[0], torch.cat([part["input_ids"] for part in parts]))
    with pytest.raises(ValueError, match="at least 32"):
        viewed_texts([documents(8)])
