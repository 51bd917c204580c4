"""Where the tokens of an answer are among those of a text, for the tokenizers that people have."""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, NamedTuple

from synbench_lightning.checks import shown

UNLIMITED = 10**6  # mutants: far above any length that a model takes
"""From here on, the length that a `transformers` tokenizer gives for its model means that it knows none."""

Tokenizer = Callable[[str], Any] | Any
"""A tokenizer of `tokenizers` or `transformers`, or a function from a text to its ids, without special tokens."""


class Pieces(NamedTuple):
    """The ids of a text: special tokens that open it, what precedes the answer, the answer, the rest, the closing."""

    opening: tuple[int, ...]
    before: tuple[int, ...]
    answer: tuple[int, ...]
    after: tuple[int, ...]
    closing: tuple[int, ...]

    @property
    def start(self) -> int:
        """Place of the first token of the answer."""
        return len(self.opening) + len(self.before)

    def cut(self, tokens: int | None) -> Pieces:
        """At most so many tokens: the longer side of the answer loses those that are farthest from it."""
        over = 0 if tokens is None else sum(map(len, self)) - tokens
        if over <= 0:
            return self
        if over > len(self.before) + len(self.after):
            raise ValueError(
                f"`max_tokens`: the answer of {len(self.answer)} tokens does not fit into {tokens}, special tokens "
                "included. Raise it, or shorten the verbalizer."
            )
        if len(self.before) >= len(self.after):
            left = min(over, len(self.before))
        else:
            left = over - min(over, len(self.after))
        right = over - left
        return self._replace(before=self.before[left:], after=self.after[: len(self.after) - right])


def check_tokenizer(tokenizer: Any) -> None:
    """Refuse what is no tokenizer."""
    if getattr(tokenizer, "is_fast", True) is False:
        raise ValueError(
            f"`tokenizer`: the slow {type(tokenizer).__name__} does not tell which characters a token stands for. Use "
            "the fast one, or a function: `lambda text: tokenizer.encode(text, add_special_tokens=False)`."
        )
    if not (callable(tokenizer) or _of_tokenizers(tokenizer)):
        raise ValueError(
            "`tokenizer` must be a tokenizer of `tokenizers` or `transformers`, or a function from a text to a list of "
            f"ids, got {shown(tokenizer)}."
        )


def longest(tokenizer: Any) -> int | None:
    """Tokens that the tokenizer's model takes, where it knows that."""
    length = getattr(tokenizer, "model_max_length", None)
    limited = isinstance(length, int) and length < UNLIMITED  # mutants: see UNLIMITED
    return length if limited else None


def pieces(tokenizer: Any, before: str, answer: str, after: str) -> Pieces:
    """Tokenise a text in which an answer stands.

    White space before the answer belongs to it, as in the vocabularies of most models. A tokenizer that says which
    characters a token stands for sees the whole text; a function sees the three parts of it one after the other.

    Args:
        tokenizer: of `tokenizers` or `transformers`, or a function.
        before: the text up to the answer.
        answer: with at least one token of its own.
        after: the rest.

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
        raise ValueError(f"`tokenizer` has no token for the answer {answer!r}, or cuts the text before it.")
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
            f"`tokenizer` must return a list of ids, integers from 0 on, for a text; for {text[:40]!r} it returned "
            f"{shown(found)}."
        )
    return tuple(listed)
