"""All predictors and downstream accuracies of the checkpoints of a run on text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.functional.representation.spectrum import effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.encoders import DIM
from validity.proxies import Shift, ShiftFamily, lidar, package_family
from validity.runs import Run, trained
from validity.text_encoders import TextEncoder
from validity.text_objectives import OBJECTIVES
from validity.text_views import DISJOINT, DRAWS, INPUTS, RANDOM, viewed
from validity.texts import TOKENS, load_corpus

GAUSSIANS = 1024
LEARNING_RATE, CHECKPOINTS = 2e-3, 11
LABELS = (100, 300)
LIDAR = ("document windows", "half windows", "halves")
SCALES = ("unit", "first", "own", "covariance")
"""Of Gaussian examples in the place of the embedding's output: of standard deviation 1, with that of the embedding's
output at step 0, with that at the checkpoint, and with its mean and covariance there."""
PREDICTORS = (
    *(f"{task}, {scale}" for task in ("dc", "tokens") for scale in SCALES),
    *(f"information, {name}" for name in (*RANDOM, "dropout", *DISJOINT)),
    *(f"LiDAR, {name}" for name in LIDAR),
    "RankMe",
    *(f"readout {n}" for n in LABELS),
    "loss",
    "step",
)
"""Larger is to mean better: the loss has a minus. ``dc`` is the paper's score, for a direction with the same value in
all features of all tokens; ``tokens`` that of directions which are the same in all tokens, and random in the features
with a mean of zero. ``readout`` is of documents that were not pretrained on."""


def pretrain(run: Run, folder: Path) -> None:
    """Train, and write the checkpoints unless it was done before."""
    if run.path(folder).exists():
        return
    torch.manual_seed(1000 * run.seed + sum(map(ord, run.regime)))
    objective = OBJECTIVES[run.regime]
    encoder = TextEncoder(objective.encoder)
    found = trained(encoder, objective(load_corpus(run.images)), run.steps, LEARNING_RATE, CHECKPOINTS)
    torch.save(found, run.path(folder))


class Measurement:
    """What is shown to every checkpoint, drawn once."""

    def __init__(self, corpus: str) -> None:
        self.corpus = load_corpus(corpus)
        self.beginnings = self.corpus.train.beginnings()[:INPUTS]
        self.views = viewed(self.corpus.train)
        self.families = {
            "dc": ShiftFamily(package_family("dc", (TOKENS, DIM)), forwards=GAUSSIANS // 2),
            "tokens": ShiftFamily([of_tokens(seed) for seed in range(4)], forwards=GAUSSIANS),
        }

    def rows(self, run: Run, folder: Path) -> list[Row]:
        """One for each checkpoint and way of pooling; kept beside the run, and taken from there if they are."""
        kept = run.path(folder).with_suffix(".json")
        if kept.exists():
            rows: list[Row] = json.loads(kept.read_text())
            return rows
        encoder = TextEncoder(OBJECTIVES[run.regime].encoder).requires_grad_(False)
        found, first = [], None
        for step, (loss, weights) in torch.load(run.path(folder)).items():
            encoder.load_state_dict(weights)
            first = self._embedded(encoder).std() if first is None else first
            measured = self._measured(encoder, first)
            for pooling, (predictors, accuracies) in zip(_poolings(encoder), measured, strict=True):
                row: Row = {"images": run.images, "regime": run.regime, "encoder": f"{encoder.name}, {pooling}"}
                row |= {"seed": run.seed, "step": step}
                predictors |= {"loss": -loss, "step": float(step)}
                row |= {TARGET_PREFIX + name: value for name, value in accuracies.items()}
                row |= {PREDICTOR_PREFIX + name: predictors[name] for name in PREDICTORS}
                found.append(row)
        kept.write_text(json.dumps(found))
        return found

    @torch.no_grad()
    def _measured(self, encoder: TextEncoder, first: Tensor) -> Iterator[tuple[dict[str, float], dict[str, float]]]:
        """Predictors and accuracies for each way of pooling."""

        def features(given: Tensor, training: bool = False) -> Tensor:
            """``(P, N, D)``."""
            forward = encoder.states if given.is_floating_point() else encoder
            encoder.train(training)
            return torch.cat([_pooled(encoder, forward(part)) for part in given.split(256)], 1)

        gaussian = {
            (task, scale): features(mean + family.inputs.flatten(0, 3) @ root)
            for task, family in self.families.items()
            for scale, (mean, root) in self._scales(encoder, first).items()
        }
        of_views = {name: features(ids.flatten(0, 1)).unflatten(1, ids.shape[:2]) for name, ids in self.views.items()}
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            repeated = features(self.beginnings.repeat(DRAWS, 1), training=True)
            of_views["dropout"] = repeated.unflatten(1, (DRAWS, INPUTS)).transpose(1, 2)
        of_texts = [features(texts.beginnings()) for texts in self.corpus[1:]]
        for place, _ in enumerate(_poolings(encoder)):
            found = {
                f"{task}, {scale}": float(self.families[task].scores(partial(_given, of[place]), [0.0]).mean())
                for (task, scale), of in gaussian.items()
            }
            for name, of in of_views.items():
                found[f"information, {name}"] = float(instance_information(of[place]))
                if name in LIDAR:
                    found[f"LiDAR, {name}"] = lidar(of[place])
            train, labeled, test = (of[place] for of in of_texts)
            found["RankMe"] = float(effective_rank(train))
            for n in LABELS:
                found[f"readout {n}"] = few_label_readout(labeled[:n], self.corpus.labeled.labels[:n]).value
            yield found, self._accuracies(train, test)

    def _scales(self, encoder: TextEncoder, first: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Means of the Gaussian examples and what standard normals are multiplied with."""
        vectors, one = self._embedded(encoder), torch.eye(DIM)
        values, basis = torch.linalg.eigh(vectors.T.cov())
        root = basis * values.clamp_min(0).sqrt() @ basis.T
        none = torch.zeros(DIM)
        scales = (none, one), (none, first * one), (none, vectors.std() * one), (vectors.mean(0), root)
        return dict(zip(SCALES, scales, strict=True))

    def _embedded(self, encoder: TextEncoder) -> Tensor:
        """``(N, D)``, what the embedding makes of the tokens."""
        with torch.no_grad():
            vectors: Tensor = encoder.embedding(self.beginnings).flatten(0, 1)
        return vectors

    def _accuracies(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Of logistic regression on standardized features and of nearest neighbors, with all labels."""
        center, spread = train.mean(0), train.std(0) + 1e-6 * train.square().mean().sqrt() + 1e-12
        x, x_test = ((features - center).div(spread).numpy() for features in (train, test))
        y, y_test = self.corpus.train.labels.numpy(), self.corpus.test.labels.numpy()
        linear = LogisticRegression(max_iter=200, tol=1e-3, C=0.1).fit(x, y)
        nearest = KNeighborsClassifier(15).fit(x, y)
        return {f"linear/{self.corpus.label}": linear.score(x_test, y_test), "knn": nearest.score(x_test, y_test)}


def of_tokens(seed: int) -> Shift:
    """Along a direction that is the same in all tokens, and random in the features with a mean of zero."""
    direction = torch.randn(DIM, generator=torch.Generator().manual_seed(seed))
    direction = (direction - direction.mean()).expand(TOKENS, DIM)
    return Shift(direction / direction.norm(), torch.zeros(TOKENS, DIM), 1.0)


def _given(features: Tensor, _: Tensor) -> Tensor:
    return features


def _poolings(encoder: TextEncoder) -> tuple[str, ...]:
    return ("mean", "last") if encoder.name == "causal" else ("mean",)


def _pooled(encoder: TextEncoder, states: Tensor) -> Tensor:
    """``(P, N, D)`` of states ``(N, T, D)``."""
    ways = {"mean": states.mean(1), "last": states[:, -1]}
    return torch.stack([ways[name] for name in _poolings(encoder)])
