"""Two corpora to pretrain on, with labels that come from the corpus itself."""

from __future__ import annotations

import ast
import random
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from reviews import PAD, Vocabulary, by_source, packaged, read, split
from torch import Tensor

TOKENS, LONGEST = 20, 128
"""Words that an encoder reads at once, and that are kept of a document."""
WORDS = 2000
TRAIN, LABELED, TEST = 3000, 300, 1700
LABELS = {"reviews": "source", "docstrings": "topic"}
"""What the labels of each corpus are about."""
TOPICS = (
    "matplotlib", "networkx/algorithms", "scipy/stats", "sympy/physics", "sympy/polys", "torch/_inductor", "torch/ao",
    "torch/distributed", "torch/nn", "torchmetrics/functional",
)  # fmt: skip
"""Whose docstrings are read; each is a label."""


class Texts(NamedTuple):
    """Token ids ``(N, LONGEST)`` with padding at the end, lengths ``(N,)`` of at least ``TOKENS``, labels ``(N,)``."""

    ids: Tensor
    lengths: Tensor
    labels: Tensor

    def taken(self, chosen: Tensor) -> Texts:
        return Texts(*(part[chosen] for part in self))

    def beginnings(self) -> Tensor:
        """``(N, TOKENS)``."""
        return self.ids[:, :TOKENS]

    def windows(self) -> Tensor:
        """As many words in a row from a random place of each document."""
        return windows(self.ids, self.lengths, TOKENS)


class Corpus(NamedTuple):
    """Documents that are pretrained on, others with labels for a readout, and others for testing."""

    label: str
    train: Texts
    labeled: Texts
    test: Texts


def windows(ids: Tensor, lengths: Tensor, size: int) -> Tensor:
    """``(N, size)``: of each row so many tokens from a random place."""
    starts = (torch.rand(len(ids)) * (lengths - size + 1)).long()
    return ids.gather(1, starts[:, None] + torch.arange(size))


@cache
def load_corpus(name: str) -> Corpus:
    """``"reviews"``: film reviews by who wrote them, users of IMDB or critics. ``"docstrings"``: those of packages that
    torch and the extra install, by the part of the package."""
    documents = _reviews() if name == "reviews" else _docstrings()
    documents = [(words[:LONGEST], label) for words, label in documents if len(words) >= TOKENS]
    random.Random(0).shuffle(documents)
    documents = documents[: TRAIN + LABELED + TEST]
    vocabulary = Vocabulary((words for words, _ in documents[:TRAIN]), WORDS)
    ids = torch.full((len(documents), LONGEST), PAD)
    for row, (words, _) in enumerate(documents):
        ids[row, : len(words)] = torch.tensor(vocabulary.of(words))
    texts = Texts(ids, (ids != PAD).sum(1), torch.tensor([label for _, label in documents]))
    parts = torch.arange(len(documents)).split([TRAIN, LABELED, len(documents) - TRAIN - LABELED])
    return Corpus(LABELS[name], *map(texts.taken, parts))


def _reviews() -> list[tuple[list[str], int]]:
    """As many of each source."""
    sources = by_source([review for review in read(packaged()) if len(review.words) >= TOKENS])
    return [(one.words, label) for label, of in enumerate(sources) for one in random.Random(1).sample(of, 2500)]


def _docstrings() -> list[tuple[list[str], int]]:
    found = []
    for label, topic in enumerate(TOPICS):
        of_topic = sorted(set(_docstrings_in(topic)))
        long = [text for text in of_topic if len(split(text)) >= TOKENS]
        found += [(split(text), label) for text in random.Random(2).sample(long, min(len(long), 600))]
    return found


def _docstrings_in(topic: str) -> Iterator[str]:
    package, *folder = topic.split("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"This corpus needs the docstrings of {package}: pip install {package}")
    root = Path(spec.submodule_search_locations[0], *folder)
    for file in sorted(root.rglob("*.py")):
        if "tests" in file.parts:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (DeprecationWarning, SyntaxWarning))
            tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and (text := ast.get_docstring(node)):
                yield text
