"""All predictors and all downstream accuracies of the checkpoints of a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import downstream
from validity.inputs import load_images
from validity.proxies import (
    Mixture,
    ShiftFamily,
    between_clusters,
    low_frequencies,
    package_family,
    principal_directions,
    unlabelled,
)
from validity.runs import Run, checkpoints
from validity.spectrum import alpha_req, rankme

EPSILONS = (0.0, 0.2, 0.5, 0.8)

PREDICTORS = (
    "dc",
    "dc eps 0.2",
    "dc eps 0.5",
    "dc eps 0.8",
    "default mean",
    "default worst",
    "low frequencies",
    "principal",
    "clusters",
    "mixture",
    "mixture, noisy",
    "RankMe",
    "alpha-ReQ",
    "loss",
    "step",
)
"""Larger is to mean better: losses with a minus, alpha-ReQ as -|alpha - 1|."""


class Measurement:
    """What is shown to every checkpoint, drawn once."""

    def __init__(self, images: str) -> None:
        self.images = load_images(images)
        shape, few = self.images.input_shape, unlabelled(self.images)
        self.families = {
            "dc": ShiftFamily(package_family("dc", shape)),
            "default": ShiftFamily(package_family("default", shape)),
            "low frequencies": ShiftFamily(low_frequencies(shape, 0.25)),
            "principal": ShiftFamily(principal_directions(few, 0.5)),
            "clusters": ShiftFamily(between_clusters(few, 0.5)),
        }
        self.mixtures = {"mixture": Mixture(few, 2.0), "mixture, noisy": Mixture(few, 1.0, noise=0.5)}

    def rows(self, run: Run, folder: Path) -> list[Row]:
        """One for each checkpoint; kept beside the run, and taken from there if they are."""
        kept = run.path(folder).with_suffix(".json")
        if kept.exists():
            rows: list[Row] = json.loads(kept.read_text())
            return rows
        found = []
        for step, loss, encoder in checkpoints(run, folder):
            row: Row = {"images": run.images, "regime": run.regime, "encoder": run.encoder, "seed": run.seed}
            row |= {"step": step}
            row |= {TARGET_PREFIX + name: value for name, value in downstream(encoder, self.images).items()}
            predictors = self.predictors(encoder) | {"loss": -loss, "step": float(step)}
            row |= {PREDICTOR_PREFIX + name: predictors[name] for name in PREDICTORS}
            found.append(row)
        kept.write_text(json.dumps(found))
        return found

    @torch.no_grad()
    def predictors(self, encoder: nn.Module) -> dict[str, float]:
        def features(images: Tensor) -> Tensor:
            return torch.cat([encoder(batch) for batch in images.split(512)])

        scores = {name: family.scores(features, EPSILONS) for name, family in self.families.items()}
        of_images = features(self.images.train)
        found = {"dc": scores["dc"][0, 0]}
        found |= {f"dc eps {epsilon:g}": scores["dc"][0, index] for index, epsilon in enumerate(EPSILONS) if index}
        found |= {"default mean": scores["default"][:, 0].mean(), "default worst": scores["default"][:, 0].min()}
        found |= {
            "low frequencies": scores["low frequencies"][:, 1].mean(),
            "principal": scores["principal"][:, 3].mean(),
            "clusters": scores["clusters"][:, 2].mean(),
        }
        mixtures = {name: mixture.accuracy(features) for name, mixture in self.mixtures.items()}
        spectrum = {"RankMe": rankme(of_images), "alpha-ReQ": -abs(alpha_req(of_images) - 1)}
        return {name: float(value) for name, value in found.items()} | mixtures | spectrum
