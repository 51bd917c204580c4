"""Where the tokens of an answer are, for tokenizers of three kinds, and what is cut off where a text is too long."""

import re
from types import SimpleNamespace

import pytest
import torch

from synbench_lightning.benchmark.tokens import Pieces, check_tokenizer, longest, pieces


class Words:
    """A tokenizer with character offsets, as those of `tokenizers`: words with the space before them, ids by length."""

    def __init__(self, opening=0, closing=0, padding=0):
        self.sides = opening, closing, padding

    def encode(self, text):
        spans = [match.span() for match in re.finditer(r"\s*\S+", text)]
        opening, closing, padding = self.sides
        ids = [100] * opening + [last - first for first, last in spans] + [101] * closing + [0] * padding
        offsets = [(0, 0)] * opening + spans + [(0, 0)] * (closing + padding)
        special = [1] * opening + [0] * len(spans) + [1] * (closing + padding)
        attention = [1] * (opening + len(spans) + closing) + [0] * padding
        return SimpleNamespace(ids=ids, offsets=offsets, special_tokens_mask=special, attention_mask=attention)

    def token_to_id(self, token):
        return None


class Fast:
    """The same in the form of the fast ones of `transformers`."""

    is_fast = True

    def __init__(self, **arguments):
        self.words = Words(**arguments)

    def __call__(self, text, verbose=True):
        assert not verbose
        return SimpleNamespace(encodings=[self.words.encode(text)])


@pytest.mark.parametrize("kind", [Words, Fast])
@pytest.mark.parametrize(("opening", "closing", "padding"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 2, 0), (2, 1, 3)])
def test_special_tokens_text_and_answer_are_separated_by_their_characters(kind, opening, closing, padding):
    tokenizer = kind(opening=opening, closing=closing, padding=padding)
    found = pieces(tokenizer, "it was ", "very good", " , indeed")
    assert found == Pieces((100,) * opening, (2, 4), (5, 5), (2, 7), (101,) * closing)
    assert found.start == opening + 2
    assert pieces(tokenizer, "", "good", "").answer == (4,)


def test_a_token_that_begins_in_the_answer_belongs_to_it():
    assert pieces(Words(), "it was ", "good", "!").answer == (6,)  # ` good!` is one token
    with pytest.raises(ValueError, match="`tokenizer` has no token for the answer '', or truncates the text before"):
        pieces(Words(), "it was silly", "", "")
    assert pieces(Words(), "it was sill", "y", "").answer == (6,)  # as `(first, last)` of ` silly` covers the answer


def test_a_function_reads_the_three_parts_with_the_space_in_that_of_the_answer():
    seen = []

    def letters(text):
        seen.append(text)
        return torch.tensor([ord(letter) for letter in text])

    found = pieces(letters, "a ", "b", " c")
    assert seen == ["a", " b", " c"]
    assert found == Pieces((), (97,), (32, 98), (32, 99), ())
    assert pieces(letters, "", "b", "") == Pieces((), (), (98,), (), ())


@pytest.mark.parametrize("wrong", ["text", [1.0], [True], [-1], 3, {1: 2}])
def test_what_are_no_ids_is_refused(wrong):
    with pytest.raises(ValueError, match="`tokenizer` must return a list of ids, non-negative integers, for a text"):
        pieces(lambda text: wrong, "a", "b", "")
    assert pieces(lambda text: (0,), "a", "b", "").answer == (0,)


WHOLE = Pieces((1,), (2, 3, 4, 5), (6, 7), (8, 9), (10,))


@pytest.mark.parametrize(
    ("tokens", "before", "after"),
    [
        (None, (2, 3, 4, 5), (8, 9)),
        (10, (2, 3, 4, 5), (8, 9)),
        (9, (3, 4, 5), (8, 9)),
        (6, (), (8, 9)),
        (5, (), (8,)),
        (4, (), ()),
    ],
)
def test_of_a_long_text_the_longer_side_is_cut_from_its_far_end_first(tokens, before, after):
    assert WHOLE.cut(tokens) == WHOLE._replace(before=before, after=after)


@pytest.mark.parametrize(
    ("tokens", "before", "after"), [(9, (8, 9), (2, 3, 4)), (6, (8, 9), ()), (5, (9,), ()), (4, (), ())]
)
def test_it_is_the_same_where_the_text_after_the_answer_is_longer(tokens, before, after):
    turned = WHOLE._replace(before=(8, 9), after=(2, 3, 4, 5))
    assert turned.cut(tokens) == WHOLE._replace(before=before, after=after)


def test_of_two_equal_sides_the_first_is_cut():
    even = WHOLE._replace(before=(2, 3), after=(8, 9))
    assert even.cut(7) == even._replace(before=(3,))


def test_an_answer_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`max_tokens`: the answer of 2 tokens does not fit into 3"):
        WHOLE.cut(3)


def test_tokenizers_are_functions_or_fast_ones():
    class Slow:
        is_fast = False

        def __call__(self, text):
            return []

    for right in (Words(), Fast(), len):
        check_tokenizer(right)
    with pytest.raises(ValueError, match="`tokenizer`: the slow Slow does not return character offsets"):
        check_tokenizer(Slow())
    for wrong in (3, SimpleNamespace(encode=len), SimpleNamespace(token_to_id=len)):
        with pytest.raises(ValueError, match="`tokenizer` must be from `tokenizers` or `transformers`"):
            check_tokenizer(wrong)


@pytest.mark.parametrize(("length", "found"), [(512, 512), (int(1e30), None), ("512", None), (None, None)])
def test_the_length_of_the_model_is_that_of_the_tokenizer_if_it_has_one(length, found):
    assert longest(SimpleNamespace(model_max_length=length)) == found
    assert longest(len) is None
