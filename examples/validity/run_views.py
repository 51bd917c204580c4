"""Information under the random views that a run itself has, of examples that it trains on and of held-out ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from synbench_lightning.functional.representation.information import information_error, instance_information
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.functional.representation.spectrum import effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import HALVES
from validity.inputs import load_images
from validity.measure import INPUTS
from validity.proxies import FORWARDS, Instances, in_views, with_noise
from validity.regimes import BATCH, Batch, Regime
from validity.runs import Encoder, Run, checkpoints, started

DRAWS = FORWARDS // INPUTS
LABELS = (100, 300)
FEWER = (8, 4)
"""Of the 16 views of each image."""
PREDICTORS = (
    "information, views",
    *(f"information, {number} of the views" for number in FEWER),
    "information, noise",
    "information, run's own",
    "information, views, trained on",
    "information, views, held out",
    "held out - trained on",
    "information, dropout",
    *(f"readout {number}" for number in LABELS),
    "RankMe",
    "loss",
    "step",
)
"""``views`` are the study's, of any training images; ``run's own`` is what training gives the encoder, read several
times for the same images, and noise where nothing is random; ``trained on`` and ``held out`` are under the study's
views, of images that the run trains on and of test images. Larger is to mean better. ``dropout`` (passes in training
mode) is of encoders that have it."""
ERROR = "standard error of information, views"
NOISE = 0.7


class RunMeasurement:
    """What is fed to every checkpoint of the runs on some images, drawn once; what is a run's own once for each."""

    def __init__(self, name: str) -> None:
        self.images = images = load_images(name)
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(5))
        self.few = images.train[order[:INPUTS]]
        self.common = {
            "views": in_views(self.few, images.views),
            "noise": with_noise(self.few, NOISE),
            "views, held out": in_views(images.test[:INPUTS], images.views),
        }
        self.label = next(iter(images.train_labels))
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(6))
        self.labeled = order[-max(LABELS) :]
        self.few_labels = images.train_labels[self.label][self.labeled]

    def rows(self, run: Run, folder: Path) -> list[Row]:
        """One for each checkpoint; kept alongside the run, and taken from there if they are."""
        kept = run.path(folder).with_suffix(".views.json")
        if kept.exists():
            rows: list[Row] = json.loads(kept.read_text())
            return rows
        _, objective = started(run, self.images)
        instances = {
            **self.common,
            "run's own": own_views(objective, objective.source),
            "views, trained on": in_views(objective.source.images[:INPUTS], self.images.views),
        }
        found = []
        for step, loss, encoder in checkpoints(run, folder):
            row: Row = {"images": run.images, "regime": run.regime, "encoder": run.encoder, "seed": run.seed}
            with torch.no_grad():
                features = {name: of.features(encoder) for name, of in instances.items()}
                train, test = encoder(self.images.train), encoder(self.images.test)
            values = {f"information, {name}": information(of) for name, of in features.items()}
            for number in FEWER:
                values[f"information, {number} of the views"] = information(features["views"][:, :number])
            values["held out - trained on"] = values["information, views, held out"]
            values["held out - trained on"] -= values["information, views, trained on"]
            values |= {"information, dropout": self._under_dropout(encoder), "RankMe": float(effective_rank(train))}
            values |= {"loss": -loss, "step": float(step)}
            few = train[self.labeled]
            for number in LABELS:
                values[f"readout {number}"] = few_label_readout(few[:number], self.few_labels[:number]).value
            row |= {"step": step}
            row |= {TARGET_PREFIX + name: value for name, value in self._accuracies(train, test).items()}
            row |= {PREDICTOR_PREFIX + name: values[name] for name in PREDICTORS}
            row |= {PREDICTOR_PREFIX + ERROR: float(information_error(features["views"]))}
            found.append(row)
        kept.write_text(json.dumps(found))
        return found

    def _under_dropout(self, encoder: Encoder) -> float:
        """Information about the same images in passes with dropout; 0 for an encoder without."""
        layers = [part for part in encoder.module.modules() if isinstance(part, nn.Dropout)]
        for layer in layers:
            layer.train()
        with torch.random.fork_rng(devices=()), torch.no_grad():
            torch.manual_seed(0)
            features = torch.stack([encoder(self.few) for _ in range(DRAWS)], 1) if layers else None
        for layer in layers:
            layer.eval()
        return 0.0 if features is None else information(features)

    def _accuracies(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Of logistic regression on standardized features, with all labels; also on every other test image."""
        center, spread = train.mean(0), train.std(0) + 1e-6 * train.square().mean().sqrt() + 1e-12
        x, x_test = ((features - center).div(spread).numpy() for features in (train, test))
        labels = self.images.train_labels[self.label].numpy(), self.images.test_labels[self.label].numpy()
        right = LogisticRegression(max_iter=200, tol=1e-3).fit(x, labels[0]).predict(x_test) == labels[1]
        halves = {name: float(right[start::2].mean()) for start, name in enumerate(HALVES)}
        return {f"linear/{self.label}": float(right.mean())} | halves


def information(features: Tensor) -> float:
    """In nats, of features ``(K, n, D)``."""
    return float(instance_information(features))


def own_views(objective: Regime, source: Batch) -> Instances:
    """What the encoder is given for the same images in several steps; with noise where it is the same in all."""
    batch = Batch(*(part[:BATCH] for part in source))
    given = []
    with torch.random.fork_rng(devices=()):
        for draw in range(DRAWS):
            torch.manual_seed(draw)
            given.append(_given(objective, batch))
    if torch.equal(given[0], given[1]):
        return with_noise(batch.images, NOISE)
    return Instances(torch.stack(given, 1))


def _given(objective: Regime, batch: Batch) -> Tensor:
    """The first view ``(BATCH, ...)`` of each image that a step gives the encoder."""
    encoder: Any = _Given()
    try:
        objective.loss(encoder, batch)
    except _ReachedError as reached:
        return reached.images[:BATCH]
    raise RuntimeError("the objective does not call the encoder")


class _ReachedError(Exception):
    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.images = images


class _Given(nn.Module):
    """Stands for an encoder: the step ends where it is called."""

    def forward(self, images: Tensor) -> Tensor:
        raise _ReachedError(images.clone())
