"""Views of a text: disjoint parts of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.view_sampling import INPUT_FORWARDS, check_enough
from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf
from synbench_lightning.runtime.structures import Arguments, at, leaves, mapped, replaced, taken
from synbench_lightning.runtime.token_masks import token_mask

PARTS = 4
"""Number of parts per text; chosen in ``examples/text_study.py``."""
MOST_TEXTS = INPUT_FORWARDS // PARTS
"""Number of texts encoded. With 128, information did not correlate with accuracy; see ``examples/README.md``."""
FEWEST_TOKENS = 16
"""Shorter rows of integers are not split: they may be categories rather than texts."""
PADDED = 0.05
"""Without a mask, a run of one token at the end of at least this fraction of the texts is padding."""


def viewed_texts(chunks: Sequence[Any]) -> ChunkedViews:
    """Use the parts of the first 512 texts of at least 16 tokens as views; see :func:`text_parts`.

    Args:
        chunks: batches of texts: token ids ``(N, T)``, or structures that contain them.

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
    """Whether the input in a structure is token ids ``(N, T)`` of at least 16 tokens."""
    return is_text_leaf(input_leaf(batch))


def is_text_leaf(leaf: InputLeaf | None) -> bool:
    """Whether an input is token ids ``(N, T)`` of at least 16 tokens."""
    return leaf is not None and leaf.is_integer and len(leaf.shape) == 1 and leaf.shape[0] >= FEWEST_TOKENS


def text_parts(batch: Any) -> list[Any]:
    """Split each text into four consecutive, disjoint parts.

    Overlapping views (windows; masked, deleted or shuffled words) contain the same words, by which even random word
    vectors identify a text: information under such views falls while a representation improves. Information between
    disjoint parts correlates with linear-probe accuracy; see ``examples/text_study.py``.

    A first token that all texts share (a class or start token) begins every part, and a shared last token ends it. With
    a mask, only its valid tokens are split, and padding stays on its side; without one, a token that several texts
    repeat at their end (or beginning) is padding. Up to three tokens belong to no part.

    Args:
        batch: token ids ``(N, T)``, or a structure whose first integer tensor that is not a mask holds them. All
            tensors ``(N, T)`` in it (masks, segments, positions) are split in the same way.

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
    """A structure with token ids, and the mask ``counting``, ``(N, T)``, of its valid (non-padding) tokens."""

    def __init__(self, batch: Any) -> None:
        if not is_text(batch):
            raise ValueError(f"Splitting texts into parts needs token ids (N, T) of at least {FEWEST_TOKENS} tokens.")
        leaf = input_leaf(batch)
        assert leaf is not None
        self.batch, self.ids = batch, at(batch, leaf.path)
        self.aligned = [(path, one) for path, one in leaves(batch, within_objects=False) if one.shape == self.ids.shape]
        named = (token_mask(Arguments(kwargs={path[-1]: one})) for path, one in self.aligned if path)
        self.counting = next((mask for mask in named if mask is not None), _not_padding(self.ids))

    def only(self, kept: Tensor) -> Any:
        """Keep the tokens in a mask ``(N, T)`` and pad rows to the longest."""
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
            batch = replaced(batch, path, view)
        return batch

    def shared_ends(self) -> Tensor:
        """Mask ``(N, T)`` of the first and of the last token of the texts, each if all texts share it."""
        found = torch.zeros_like(self.counting)
        first = self.counting.long().argmax(1, keepdim=True)
        last = self.ids.shape[1] - 1 - self.counting.flip(1).long().argmax(1, keepdim=True)
        for place in (first, last):
            tokens = self.ids.gather(1, place)
            if len(self.ids) > 1 and bool((tokens == tokens[0]).all()):
                found.scatter_(1, place, value=True)
        return found


def _not_padding(ids: Tensor) -> Tensor:
    """Mask of valid tokens, inferred: all but a run of one token at the end (or beginning) of several texts."""
    for flipped in (False, True):
        given = ids.flip(1) if flipped else ids
        run = (given == given[:, -1:]).flip(1).cumprod(1).flip(1).bool()
        ending = given[run[:, -2], -1]
        if len(ending) and int((ending == (padding := ending.mode().values)).sum()) >= max(2, PADDED * len(ids)):
            counting = ~(run & (given[:, -1:] == padding))
            return counting.flip(1) if flipped else counting
    return torch.ones_like(ids, dtype=torch.bool)
