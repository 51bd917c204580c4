"""Two views of a text where nothing is random before the encoder: its first and its second half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.view_sampling import INPUT_FORWARDS, check_enough
from synbench_lightning.runtime.encoder_call import token_mask
from synbench_lightning.runtime.input_leaf import input_leaf, num_examples
from synbench_lightning.runtime.structures import at, leaves, mapped, replaced, taken

FEWEST_TOKENS = 8
"""Shorter rows of integers are not halved: they may be categories as well as texts."""


def viewed_texts(chunks: Sequence[Any]) -> ChunkedViews:
    """The first 1,024 texts in two views each, see :func:`text_halves`.

    Args:
        chunks: batches of texts: token ids ``(N, T)``, or structures with them.

    Raises:
        ValueError: for a structure without token ids, or fewer than 32 texts.
    """
    halves, left = [], INPUT_FORWARDS // 2
    for chunk in chunks:
        if left > 0 and (rows := num_examples(chunk)):
            kept = taken(chunk, torch.arange(min(rows, left)), rows)
            halves.append(text_halves(mapped(kept, lambda leaf: leaf.detach().cpu())))
            left -= rows
    check_enough("inputs", INPUT_FORWARDS // 2 - left)
    return ChunkedViews("pairs", list(zip(*halves, strict=True)))


def is_text(batch: Any) -> bool:
    """Whether a structure has token ids ``(N, T)`` for its input, of at least 8 tokens."""
    leaf = input_leaf(batch)
    return leaf is not None and leaf.is_integer and len(leaf.shape) == 1 and leaf.shape[0] >= FEWEST_TOKENS


def text_halves(batch: Any) -> tuple[Any, Any]:
    """The first and the second half of each text.

    The two share no token. Views that do (windows that overlap, masked, deleted or shuffled words) contain the same
    words, by which even random word vectors recognize a text; information under them falls while a representation
    improves. That about halves follows a linear probe's accuracy; see ``examples/text_study.py``.

    A first token that all texts share (of the class, of the beginning) begins both halves, and a last one ends both.
    Where a mask says which tokens count, these are halved, and padding stays on its side. Rows become about half as
    long. Of an odd number of tokens the middle one is in neither half.

    Args:
        batch: token ids ``(N, T)``, or a structure with them as the first tensor of integers that is no mask. All
            tensors ``(N, T)`` in it (masks, segments, positions) are halved like them.

    Returns:
        Two structures of the same kind.

    Raises:
        ValueError: for a structure without token ids.

    Example:
        >>> first, second = text_halves({"input_ids": torch.tensor([range(8), range(10, 18)])})
        >>> second["input_ids"].tolist()
        [[4, 5, 6, 7], [14, 15, 16, 17]]
    """
    if not is_text(batch):
        raise ValueError(f"Halves of texts need token ids (N, T) of at least {FEWEST_TOKENS} tokens.")
    leaf = input_leaf(batch)
    assert leaf is not None
    ids = at(batch, leaf.path)
    aligned = [(path, one) for path, one in leaves(batch, within_objects=False) if one.shape == ids.shape]
    masks = {path: mask for path, one in aligned if path and (mask := token_mask({path[-1]: one})) is not None}
    counting = next(iter(masks.values()), torch.ones_like(ids).bool())
    ends = _shared_ends(ids, counting)
    between = counting & ~ends
    number, place = between.sum(1, keepdim=True), between.cumsum(1) - 1
    size = number // 2
    halves = place < size, place >= number - size
    found = []
    for half in halves:
        kept, view = ends | (between & half), batch
        for path, one in aligned:
            view = replaced(view, path, _only(one, kept, counting, is_mask=path in masks))
        found.append(view)
    return found[0], found[1]


def _only(values: Tensor, kept: Tensor, counting: Tensor, is_mask: bool) -> Tensor:
    """The values ``(N, T)`` of the tokens that are kept, in rows as long as the longest needs to be."""
    lengths, on_the_left = kept.sum(1, keepdim=True), not bool(counting[:, 0].all())
    order = (kept if on_the_left else ~kept).long().argsort(dim=1, stable=True)
    width = int(lengths.max())
    order = order[:, -width:] if on_the_left else order[:, :width]
    slot = torch.arange(width, device=kept.device)
    filled = slot >= width - lengths if on_the_left else slot < lengths
    found, padding = values.gather(1, order), values[~counting]
    if len(padding):
        return torch.where(filled, found, padding[0])
    return torch.where(filled, found, (values[0, 0] == 0).to(values.dtype)) if is_mask else found


def _shared_ends(ids: Tensor, counting: Tensor) -> Tensor:
    """Where ``(N, T)`` the first and the last token of the texts are, if all have the same there."""
    found = torch.zeros_like(counting)
    first = counting.long().argmax(1, keepdim=True)
    last = ids.shape[1] - 1 - counting.flip(1).long().argmax(1, keepdim=True)
    for place in (first, last):
        tokens = ids.gather(1, place)
        if len(ids) > 1 and bool((tokens == tokens[0]).all()):
            found.scatter_(1, place, value=True)
    return found
