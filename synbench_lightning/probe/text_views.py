"""Views of a text that share no word: its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.view_sampling import INPUT_FORWARDS, check_enough
from synbench_lightning.runtime.encoder_call import token_mask
from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf
from synbench_lightning.runtime.structures import Arguments, at, leaves, mapped, replaced, taken

PARTS = 4
"""Of each text; chosen in ``examples/text_study.py``."""
MOST_TEXTS = INPUT_FORWARDS // PARTS
"""How many texts are encoded. With 128 of them the information did not follow accuracy; see ``examples/README.md``."""
FEWEST_TOKENS = 16
"""Shorter rows of integers have no parts: they may be categories as well as texts."""
PADDED = 0.05
"""Where no mask says what is padding: fraction of texts that have a run of one token at their end."""


def viewed_texts(chunks: Sequence[Any]) -> ChunkedViews:
    """The first 512 texts of at least 16 tokens, the parts of each as its views; see :func:`text_parts`.

    Args:
        chunks: batches of texts: token ids ``(N, T)``, or structures with them.

    Raises:
        ValueError: for a structure without token ids, or fewer than 32 texts.
    """
    parts, left = list[list[Any]](), MOST_TEXTS
    for chunk in chunks:
        counting = _Tokens(chunk).counting
        rows = (counting.sum(1) >= FEWEST_TOKENS).nonzero()[:left, 0]
        if len(rows):
            parts.append(text_parts(mapped(taken(chunk, rows, len(counting)), lambda leaf: leaf.detach().cpu())))
            left -= len(rows)
    check_enough("inputs", MOST_TEXTS - left)
    return ChunkedViews("pairs", list(zip(*parts, strict=True)))


def is_text(batch: Any) -> bool:
    """Whether a structure has token ids ``(N, T)`` for its input, of at least 16 tokens."""
    return is_text_leaf(input_leaf(batch))


def is_text_leaf(leaf: InputLeaf | None) -> bool:
    """Whether an input is token ids ``(N, T)``, of at least 16 tokens."""
    return leaf is not None and leaf.is_integer and len(leaf.shape) == 1 and leaf.shape[0] >= FEWEST_TOKENS


def text_parts(batch: Any) -> list[Any]:
    """Each text in four parts, one after another.

    They share no token of the text. Views that do (windows that overlap; masked, deleted or shuffled words) contain the
    same words, by which even random word vectors recognize a text: information under such views falls while a
    representation improves. Information about parts follows a linear probe's accuracy; see ``examples/text_study.py``.

    A first token that all texts share (of the class, of the beginning) begins every part, and a last one ends it. Where
    a mask says which tokens count, these are divided, and padding stays on its side; without a mask, what several texts
    end with (or begin with) again and again is padding. Up to three tokens are in no part.

    Args:
        batch: token ids ``(N, T)``, or a structure with them as the first tensor of integers that is no mask. All
            tensors ``(N, T)`` in it (masks, segments, positions) are divided like them.

    Returns:
        Four structures of the same kind, with shorter rows.

    Raises:
        ValueError: for a structure without token ids.

    Example:
        >>> parts = text_parts({"input_ids": torch.tensor([range(16), range(20, 36)])})
        >>> parts[3]["input_ids"].tolist()
        [[12, 13, 14, 15], [32, 33, 34, 35]]
    """
    tokens = _Tokens(batch)
    ends = tokens.shared_ends()
    between = tokens.counting & ~ends
    number, place = between.sum(1, keepdim=True), between.cumsum(1) - 1
    starts = [number * part // PARTS for part in range(PARTS)]
    return [tokens.only(ends | (between & (place >= start) & (place < start + number // PARTS))) for start in starts]


class _Tokens:
    """A structure with token ids, and which of them count: ``counting``, ``(N, T)``."""

    def __init__(self, batch: Any) -> None:
        if not is_text(batch):
            raise ValueError(f"Parts of texts need token ids (N, T) of at least {FEWEST_TOKENS} tokens.")
        leaf = input_leaf(batch)
        assert leaf is not None
        self.batch, self.ids = batch, at(batch, leaf.path)
        self.aligned = [(path, one) for path, one in leaves(batch, within_objects=False) if one.shape == self.ids.shape]
        self.masks = {
            path: mask
            for path, one in self.aligned
            if path and (mask := token_mask(Arguments(kwargs={path[-1]: one}))) is not None
        }
        self.counting = next(iter(self.masks.values()), _not_padding(self.ids))

    def only(self, kept: Tensor) -> Any:
        """The structure with those tokens ``(N, T)`` alone, in rows as long as the longest needs to be."""
        lengths, on_the_left = kept.sum(1, keepdim=True), not bool(self.counting[:, 0].all())
        order = (kept if on_the_left else ~kept).long().argsort(dim=1, stable=True)
        width = int(lengths.max())
        order = order[:, -width:] if on_the_left else order[:, :width]
        slot = torch.arange(width, device=kept.device)
        filled = slot >= width - lengths if on_the_left else slot < lengths
        batch = self.batch
        for path, one in self.aligned:
            view, padding = one.gather(1, order), one[~self.counting]
            if len(padding):
                view = torch.where(filled, view, padding[0])
            elif path in self.masks:
                view = torch.where(filled, view, (one[0, 0] == 0).to(one.dtype))
            batch = replaced(batch, path, view)
        return batch

    def shared_ends(self) -> Tensor:
        """Where ``(N, T)`` the first and the last token of the texts are, if all have the same there."""
        found = torch.zeros_like(self.counting)
        first = self.counting.long().argmax(1, keepdim=True)
        last = self.ids.shape[1] - 1 - self.counting.flip(1).long().argmax(1, keepdim=True)
        for place in (first, last):
            tokens = self.ids.gather(1, place)
            if len(self.ids) > 1 and bool((tokens == tokens[0]).all()):
                found.scatter_(1, place, value=True)
        return found


def _not_padding(ids: Tensor) -> Tensor:
    """Without a mask: what is not a run of one token at the end (or at the beginning) of several texts."""
    for flipped in (False, True):
        given = ids.flip(1) if flipped else ids
        run = (given == given[:, -1:]).flip(1).cumprod(1).flip(1).bool()
        ending = given[run[:, -2], -1]
        if len(ending) and int((ending == (padding := ending.mode().values)).sum()) >= max(2, PADDED * len(ids)):
            counting = ~(run & (given[:, -1:] == padding))
            return counting.flip(1) if flipped else counting
    return torch.ones_like(ids, dtype=torch.bool)
