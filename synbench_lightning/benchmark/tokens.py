"""Locate the tokens of an answer in a text, for common tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from synbench_lightning.checks import shown

UNLIMITED = 10**6  # mutants: far above any length that a model takes
"""From this value, the length in a `transformers` tokenizer means that there is no limit."""

Tokenizer = Callable[[str], Any] | Any
"""A tokenizer of `tokenizers` or `transformers`, or a function from a text to its ids, without special tokens."""


class Pieces(NamedTuple):
    """The ids of a text: special tokens at the start, text before the answer, answer, text after it, special tokens."""

    opening: tuple[int, ...]
    before: tuple[int, ...]
    answer: tuple[int, ...]
    after: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def start(self) -> int:
        """Position of the first token of the answer."""
        return len(self.opening) + len(self.before)

    def cut(self, tokens: int | None) -> Pieces:
        """Truncate to at most ``tokens``: first the longer side, from the end farthest from the answer."""
        over = 0 if tokens is None else sum(map(len, self)) - tokens
        if over <= 0:
            return self
        if over > len(self.before) + len(self.after):
            raise ValueError(
                f"`max_tokens`: the answer of {len(self.answer)} tokens does not fit into {tokens}, including special "
                "tokens. Increase it, or shorten the verbalizer."
            )
        if len(self.before) >= len(self.after):
            left = min(over, len(self.before))
        else:
            left = over - min(over, len(self.after))
        right = over - left
        return self._replace(before=self.before[left:], after=self.after[: len(self.after) - right])


def check_tokenizer(tokenizer: Any) -> None:
    """Reject an invalid tokenizer."""
    if getattr(tokenizer, "is_fast", True) is False:
        raise ValueError(
            f"`tokenizer`: the slow {type(tokenizer).__name__} does not return character offsets. Use "
            "the fast one, or a function: `lambda text: tokenizer.encode(text, add_special_tokens=False)`."
        )
    if not (callable(tokenizer) or _of_tokenizers(tokenizer)):
        raise ValueError(
            "`tokenizer` must be from `tokenizers` or `transformers`, or a function from a text to a list of "
            f"ids, got {shown(tokenizer)}."
        )


def longest(tokenizer: Any) -> int | None:
    """The maximum input length of the tokenizer's model, if the tokenizer defines it."""
    length = getattr(tokenizer, "model_max_length", None)
    limited = isinstance(length, int) and length < UNLIMITED  # mutants: see UNLIMITED
    return length if limited else None


def pieces(tokenizer: Any, before: str, answer: str, after: str) -> Pieces:
    """Tokenize a text that contains an answer.

    Whitespace before the answer belongs to the answer, as in most vocabularies. A tokenizer with character offsets
    tokenizes the whole text; a function tokenizes its three parts separately.

    Args:
        tokenizer: from `tokenizers` or `transformers`, or a function.
        before: the text before the answer.
        answer: the answer, with at least one token of its own.
        after: the text after the answer.

    Raises:
        ValueError: if the answer has no token, or a function returns no ids.
    """
    bare = before.rstrip()
    answer = before[len(bare) :] + answer
    if _of_tokenizers(tokenizer):
        found = _by_characters(tokenizer.encode(bare + answer + after), len(bare), len(bare + answer))
    elif hasattr(tokenizer, "is_fast"):
        encoding = tokenizer(bare + answer + after, verbose=False).encodings[0]
        found = _by_characters(encoding, len(bare), len(bare + answer))
    else:
        found = Pieces((), _ids(tokenizer, bare), _ids(tokenizer, answer), _ids(tokenizer, after), ())
    if not found.answer:
        raise ValueError(f"`tokenizer` has no token for the answer {answer!r}, or truncates the text before it.")
    return found


def _of_tokenizers(tokenizer: Any) -> bool:
    return hasattr(tokenizer, "encode") and hasattr(tokenizer, "token_to_id")


def _by_characters(encoding: Any, start: int, end: int) -> Pieces:
    every = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, encoding.attention_mask, strict=True)
    tokens = [(token, span, special) for token, span, special, real in every if real]  # without padding
    opening = sum(1 for _ in takewhile(lambda token: token[2], tokens))
    closing = sum(1 for _ in takewhile(lambda token: token[2], reversed(tokens[opening:])))
    groups: tuple[list[int], ...] = ([], [], [], [], [])
    for place, (token, (first, last), _) in enumerate(tokens):
        inner = 1 if last <= start else 2 if first < end else 3
        groups[0 if place < opening else 4 if place >= len(tokens) - closing else inner].append(token)
    return Pieces(*map(tuple, groups))


def _ids(tokenizer: Callable[[str], Any], text: str) -> tuple[int, ...]:
    if not text:
        return ()
    found = tokenizer(text)
    listed = found.tolist() if hasattr(found, "tolist") else found
    if not isinstance(listed, (list, tuple)) or not all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in listed
    ):
        raise ValueError(
            f"`tokenizer` must return a list of ids, non-negative integers, for a text; for {text[:40]!r} it returned "
            f"{shown(found)}."
        )
    return tuple(listed)
