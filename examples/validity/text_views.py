"""Sources of several views of a text: what is random in a pipeline, what could be made so, and parts of the text."""

from __future__ import annotations

from collections.abc import Callable

import torch
from reviews import MASK
from torch import Tensor

from validity.texts import TOKENS, Texts, windows

INPUTS, DRAWS = 128, 8
"""Texts, and random views of each."""
PAIRS = 1024
"""Texts of which parts are shown."""


def of_documents(texts: Texts) -> Tensor:
    """Another window of the document."""
    return texts.windows()


def half_window(texts: Texts) -> Tensor:
    """Half of the words that the encoder reads, in a row."""
    ids = texts.beginnings()
    return windows(ids, torch.full((len(ids),), TOKENS), TOKENS // 2)


def masked(texts: Texts, rate: float) -> Tensor:
    ids = texts.beginnings()
    return ids.masked_fill(torch.rand(ids.shape) < rate, MASK)


def replaced(texts: Texts, rate: float) -> Tensor:
    """Words of other documents in the place of some."""
    ids = texts.beginnings()
    others = ids.flatten()[torch.randint(ids.numel(), ids.shape)]
    return torch.where(torch.rand(ids.shape) < rate, others, ids)


def deleted(texts: Texts, rate: float) -> Tensor:
    """Some words left out, as many of each text."""
    ids = texts.beginnings()
    kept = torch.rand(ids.shape).argsort(1)[:, : round((1 - rate) * TOKENS)].sort(1).values
    found: Tensor = ids.gather(1, kept)
    return found


def shuffled(texts: Texts) -> Tensor:
    ids = texts.beginnings()
    found: Tensor = ids.gather(1, torch.rand(ids.shape).argsort(1))
    return found


def parts(texts: Texts, number: int) -> Tensor:
    """``(N, number, TOKENS // number)``: one after another."""
    found: Tensor = texts.beginnings().unflatten(1, (number, -1))
    return found


def random_halves(texts: Texts) -> Tensor:
    """Every word is in one of the two, in its order."""
    ids = texts.beginnings()
    positions = torch.rand(ids.shape).argsort(1).unflatten(1, (2, -1)).sort(2).values
    found: Tensor = ids[:, None].expand(-1, 2, -1).gather(2, positions)
    return found


def next_windows(texts: Texts) -> Tensor:
    """The first words of a document and those after them, of documents that are long enough."""
    long: Tensor = texts.ids[texts.lengths >= 2 * TOKENS, : 2 * TOKENS]
    found: Tensor = long.unflatten(1, (2, TOKENS))
    return found


RANDOM: dict[str, Callable[[Texts], Tensor]] = {
    "document windows": of_documents,
    "half windows": half_window,
    "mask 15 %": lambda texts: masked(texts, 0.15),
    "mask 30 %": lambda texts: masked(texts, 0.3),
    "replace 30 %": lambda texts: replaced(texts, 0.3),
    "delete 30 %": lambda texts: deleted(texts, 0.3),
    "delete 50 %": lambda texts: deleted(texts, 0.5),
    "shuffle": shuffled,
}
"""Views in which the same words return."""
DISJOINT: dict[str, Callable[[Texts], Tensor]] = {
    "halves": lambda texts: parts(texts, 2)[:PAIRS],
    "halves of 256 texts": lambda texts: parts(texts, 2)[:256],
    "halves of 128 texts": lambda texts: parts(texts, 2)[:128],
    "quarters": lambda texts: parts(texts, 4)[: PAIRS // 2],
    "quarters of 256 texts": lambda texts: parts(texts, 4)[:256],
    "quarters of 128 texts": lambda texts: parts(texts, 4)[:128],
    "random halves": lambda texts: random_halves(texts)[:PAIRS],
    "next windows": lambda texts: next_windows(texts)[:PAIRS],
}
"""Views that share no word of the text."""


def viewed(texts: Texts) -> dict[str, Tensor]:
    """By the name of the source: token ids ``(K, n, T)`` of K texts in n views, the same in each call."""
    found = {}
    with torch.random.fork_rng(devices=()):
        for name, view in RANDOM.items():
            torch.manual_seed(0)
            few = texts.taken(torch.arange(INPUTS))
            found[name] = torch.stack([view(few) for _ in range(DRAWS)], 1)
        for name, view in DISJOINT.items():
            torch.manual_seed(0)
            found[name] = view(texts)
    return found
