"""All predictors and all downstream accuracies of the checkpoints of a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from synbench_lightning.functional.representation.spectrum import effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import downstream
from validity.inputs import augment, load_images
from validity.proxies import (
    Mixture,
    NoisyInstances,
    PseudoLabels,
    ShiftFamily,
    between_clusters,
    low_frequencies,
    package_family,
    principal_directions,
    unlabelled,
)
from validity.runs import Run, checkpoints
from validity.spectrum import decay

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
    "mixture, nearest mean",
    "pseudo-labels",
    "pseudo-labels, nearest mean",
    "information",
    "information, augmented",
    "RankMe",
    "alpha-ReQ",
    "loss",
    "step",
)
"""Larger is to mean better: the loss has a minus, alpha-ReQ is -|alpha - 1|. ``dc`` is the paper's score, ``default``
the package's family, both at epsilon 0; ``low frequencies``, ``principal`` and ``clusters`` means at epsilon 0.2;
``information`` is :func:`.instance_information`, about images as they are and
about augmented ones."""


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
        self.many_classes: dict[str, Mixture | PseudoLabels] = {
            "mixture": Mixture(few, 2.0),
            "pseudo-labels": PseudoLabels(few, 0.7),
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            views = augment(few)
        self.instances = {
            "information": NoisyInstances(few, 0.7),
            "information, augmented": NoisyInstances(views, 0.7 * float(views.std())),
        }

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

        paper = self.families["dc"].scores(features, EPSILONS)[0].tolist()
        default = self.families["default"].scores(features, [0.0])
        found = {"dc": paper[0]}
        found |= {f"dc eps {epsilon:g}": score for epsilon, score in zip(EPSILONS[1:], paper[1:], strict=True)}
        found |= {"default mean": float(default.mean()), "default worst": float(default.min())}
        for name in ("low frequencies", "principal", "clusters"):
            found[name] = float(self.families[name].scores(features, [0.2]).mean())
        for name, task in self.many_classes.items():
            found[name], found[f"{name}, nearest mean"] = task.accuracies(features)
        found |= {name: instances.information(features) for name, instances in self.instances.items()}
        of_images = features(self.images.train)
        return found | {"RankMe": float(effective_rank(of_images)), "alpha-ReQ": -abs(decay(of_images) - 1)}
