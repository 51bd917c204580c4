"""All predictors and all downstream accuracies of the checkpoints of a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.functional.representation.spectrum import effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import downstream
from validity.inputs import load_images
from validity.proxies import (
    Instances,
    ShiftFamily,
    between_clusters,
    in_views,
    lidar,
    logme,
    package_family,
    unlabelled,
    with_noise,
)
from validity.runs import Encoder, Run, checkpoints
from validity.spectrum import decay

INPUTS, PAIRS = 128, 1024
LABELS = (20, 50, 100, 300)
FLOORS = (0.001, 0.1)
"""Of the information under views, beside that of the package."""

PREDICTORS = (
    "dc",
    "dc eps 0.2",
    "default mean",
    "default worst",
    "clusters",
    "information, noise",
    "information, views",
    *(f"information, views, floor {floor:g}" for floor in FLOORS),
    "information, pairs",
    "information, views and noise",
    "information, wrong views",
    "LiDAR",
    "LiDAR, pairs",
    "RankMe",
    "alpha-ReQ",
    *(f"readout {n}" for n in LABELS),
    *(f"readout {n}, accuracy" for n in LABELS[2:]),
    *(f"LogME {n}" for n in LABELS[2:]),
    "loss",
    "step",
)
"""Larger is to mean better: the loss has a minus, alpha-ReQ is -|alpha - 1|. ``dc`` is the paper's score, ``default``
the package's family, both at epsilon 0; ``clusters`` means at epsilon 0.2; ``information`` is
:func:`.instance_information` of versions of unlabelled images, ``readout`` :func:`.few_label_readout` of so many
labels."""


class Measurement:
    """What is shown to every checkpoint, drawn once."""

    def __init__(self, name: str) -> None:
        self.images = images = load_images(name)
        few = unlabelled(images)
        self.families = {
            "dc": ShiftFamily(package_family("dc", images.input_shape)),
            "default": ShiftFamily(package_family("default", images.input_shape)),
            "clusters": ShiftFamily(between_clusters(few, 0.5)),
        }
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(6))
        views = in_views(few[:INPUTS], images.views)
        white = torch.randn(views.versions.shape, generator=torch.Generator().manual_seed(7))
        self.instances = {
            "noise": with_noise(few[:INPUTS], 0.7),
            "views": views,
            "pairs": in_views(images.train[order[:PAIRS]], images.views),
            "views and noise": Instances(views.versions + 0.35 * white),
            "wrong views": in_views(few[:INPUTS], images.wrong_views),
        }
        self.labels = next(iter(images.train_labels.values()))
        self.labelled = order[-max(LABELS) :]

    def rows(self, run: Run, folder: Path, device: str = "cpu") -> list[Row]:
        """One for each checkpoint; kept beside the run, and taken from there if they are."""
        kept = run.path(folder).with_suffix(".json")
        if kept.exists():
            rows: list[Row] = json.loads(kept.read_text())
            return rows
        found = []
        for step, loss, encoder in checkpoints(run, folder, device):
            row: Row = {"images": run.images, "regime": run.regime, "encoder": run.encoder, "seed": run.seed}
            row |= {"step": step}
            with torch.no_grad():
                train = encoder(self.images.train)
            row |= {TARGET_PREFIX + name: value for name, value in downstream(encoder, self.images, train).items()}
            predictors = self.predictors(encoder, train) | {"loss": -loss, "step": float(step)}
            row |= {PREDICTOR_PREFIX + name: predictors[name] for name in PREDICTORS}
            found.append(row)
        kept.write_text(json.dumps(found))
        return found

    @torch.no_grad()
    def predictors(self, features: Encoder, of_images: Tensor) -> dict[str, float]:
        """Of an encoder, with its features ``(N, D)`` of the training images."""
        dc, robust = self.families["dc"].scores(features, [0.0, 0.2])[0].tolist()
        default = self.families["default"].scores(features, [0.0])
        found = {"dc": dc, "dc eps 0.2": robust}
        found |= {"default mean": float(default.mean()), "default worst": float(default.min())}
        found["clusters"] = float(self.families["clusters"].scores(features, [0.2]).mean())
        of_versions = {name: instances.features(features) for name, instances in self.instances.items()}
        found |= {f"information, {name}": float(instance_information(of)) for name, of in of_versions.items()}
        for floor in FLOORS:
            found[f"information, views, floor {floor:g}"] = float(instance_information(of_versions["views"], floor))
        found |= {"LiDAR": lidar(of_versions["views"]), "LiDAR, pairs": lidar(of_versions["pairs"])}
        for n in LABELS:
            own, labels = of_images[self.labelled[:n]], self.labels[self.labelled[:n]]
            readout = few_label_readout(own, labels)
            found |= {f"readout {n}": readout.value, f"readout {n}, accuracy": float(readout.right.double().mean())}
            found[f"LogME {n}"] = logme(own, labels)
        return found | {"RankMe": float(effective_rank(of_images)), "alpha-ReQ": -abs(decay(of_images) - 1)}
