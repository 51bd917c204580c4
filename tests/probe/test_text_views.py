"""Parts of texts as views of them."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from synbench_lightning import evaluate
from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.probe.text_views import _not_padding, is_text, text_parts, viewed_texts
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


def parts_of(words):
    """Four of them, as long as the shortest."""
    size = len(words) // 4
    starts = [len(words) * part // 4 for part in range(4)]
    return [words[start : start + size] for start in starts]


@pytest.mark.parametrize("on_the_left", [False, True])
def test_the_parts_of_a_padded_text_are_those_of_its_words_between_the_tokens_that_all_texts_share(on_the_left):
    lengths = (16, 19, 24, 17)
    ids, mask = texts(lengths, on_the_left)
    parts = text_parts({"attention_mask": mask, "input_ids": ids, "extra": torch.arange(4)})
    assert len(parts) == 4
    for place, part in enumerate(parts):
        for row, length in enumerate(lengths):
            expected = parts_of(list(range(100 * (row + 1), 100 * (row + 1) + length)))[place]
            counting = part["attention_mask"][row].bool()
            assert part["input_ids"][row][counting].tolist() == [CLASS, *expected, END]
            assert (part["input_ids"][row][~counting] == PAD).all()
            steps = part["attention_mask"][row].diff()
            assert bool((steps >= 0).all() if on_the_left else (steps <= 0).all())
        assert part["input_ids"].shape[1] == max(lengths) // 4 + 2
        assert part["extra"].tolist() == [0, 1, 2, 3]


def test_a_mask_of_padding_is_true_for_padding_afterwards_too():
    ids, mask = texts((16, 22, 16))
    for part in text_parts({"src": ids, "src_key_padding_mask": mask == 0}):
        assert torch.equal(part["src_key_padding_mask"], part["src"] == PAD)


def test_what_belongs_to_a_token_stays_with_it():
    ids, mask = texts((20, 16), special=False)
    positions, segments = torch.arange(20).expand(2, 20), ids % 3
    parts = text_parts(
        {"input_ids": ids, "attention_mask": mask, "position_ids": positions, "token_type_ids": segments}
    )
    assert parts[0]["position_ids"][0].tolist() == [0, 1, 2, 3, 4]
    assert parts[3]["position_ids"][0].tolist() == [15, 16, 17, 18, 19]
    assert parts[3]["token_type_ids"][1][:4].tolist() == [(200 + word) % 3 for word in range(12, 16)]


def test_without_a_mask_texts_are_cut_into_four():
    ids = torch.randint(3, 1000, (40, 18), generator=torch.Generator().manual_seed(0))
    for part, start in zip(text_parts(ids), (0, 4, 9, 13), strict=True):
        assert torch.equal(part, ids[:, start : start + 4])


@pytest.mark.parametrize("on_the_left", [False, True])
def test_padding_is_seen_without_a_mask_too(on_the_left):
    ids, mask = texts((17, 24, 16, 20), on_the_left, special=False)
    without, with_mask = text_parts(ids), text_parts({"input_ids": ids, "attention_mask": mask})
    for one, other in zip(without, with_mask, strict=True):
        assert torch.equal(one, other["input_ids"])


def test_texts_of_a_few_tokens_are_skipped():
    ids, mask = texts((3, *[24] * 40, 15), special=False)
    assert viewed_texts([{"input_ids": ids, "attention_mask": mask}]).num_inputs == 40


def test_a_recurrent_encoder_that_packs_by_the_mask_sees_the_words_of_a_part_alone():
    torch.manual_seed(0)
    embedding, gru = nn.Embedding(1000, 8), nn.GRU(8, 8, batch_first=True)

    def last(ids, mask):
        packed = pack_padded_sequence(embedding(ids), mask.sum(1), batch_first=True, enforce_sorted=False)
        return gru(packed)[1][0]

    ids, mask = texts((16, 25, 18), special=False)
    for place, part in enumerate(text_parts({"input_ids": ids, "attention_mask": mask})):
        alone = gru(embedding(torch.tensor([parts_of(ids[2, :18].tolist())[place]])))[1][0]
        torch.testing.assert_close(last(part["input_ids"], part["attention_mask"])[2:], alone)


def test_pictures_real_inputs_and_short_rows_of_categories_are_no_texts():
    assert is_text(torch.ones(40, 16, dtype=torch.long))
    for other in (torch.ones(40, 16), torch.ones(40, 16, 16, dtype=torch.uint8), torch.ones(40, 15, dtype=torch.long)):
        assert not is_text(other)
        with pytest.raises(ValueError, match="token ids"):
            text_parts(other)


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


def test_information_about_parts_rises_with_what_they_have_in_common_and_that_about_windows_that_overlap_does_not():
    ids = documents()

    def information(known, views):
        encoder = Topics(known)
        with torch.no_grad():
            return float(instance_information(torch.stack([encoder(ids).mean(1) for ids in views], 1)))

    parts = [information(known, text_parts(ids)) for known in (0.0, 0.3, 0.6)]
    overlapping = [information(known, (ids[:, :18], ids[:, 6:])) for known in (0.0, 0.3, 0.6)]
    assert parts[0] < parts[1] < parts[2]
    assert parts[0] < 1
    assert overlapping[0] > 5


def test_texts_without_views_are_encoded_in_parts():
    ids = documents()
    encoder = Topics(0.3)
    result = evaluate(encoder, None, inputs={"input_ids": ids}, plan=SMALL, tasks="dc")
    with torch.no_grad():
        features = torch.stack([encoder(part).mean(1) for part in text_parts(ids)], 1)
    assert result.information == pytest.approx(float(instance_information(features)), rel=1e-5)
    assert result.information_kind == "pairs"


def test_of_many_texts_the_first_512_are_encoded_whatever_their_chunks():
    ids = documents(700)
    whole = viewed_texts([ids])
    chunked = viewed_texts([{"input_ids": part} for part in ids.split(200)])
    assert whole.num_inputs == chunked.num_inputs == 512
    for view, parts in zip(whole.views, chunked.views, strict=True):
        assert torch.equal(view[0], torch.cat([part["input_ids"] for part in parts]))
    with pytest.raises(ValueError, match="at least 32"):
        viewed_texts([documents(8)])


def test_texts_of_sixteen_tokens_are_long_enough():
    ids = torch.randint(5, 50, (40, 16))
    assert viewed_texts([ids]).num_inputs == 40
    with pytest.raises(ValueError, match=r"token ids \(N, T\) of at least 16 tokens"):
        viewed_texts([ids[:, :15]])


def test_two_texts_that_end_in_a_run_of_one_token_show_what_padding_is():
    ids = torch.arange(5, 5 + 20 * 16).view(20, 16)
    ids[[3, 7], -4:] = 0
    expected = ids != 0
    assert torch.equal(_not_padding(ids), expected)
    ids[7] = ids[6] + 1000  # one alone does not
    assert bool(_not_padding(ids).all())
