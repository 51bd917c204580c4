"""One run of a sweep, and what every number says of it at its end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import information_error, instance_information
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.functional.representation.spectrum import alpha_req, effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import linear_accuracy
from validity.encoders import conv_of_width
from validity.inputs import load_images
from validity.measure import INPUTS
from validity.noisy_labels import held_out
from validity.proxies import ShiftFamily, in_views, lidar, package_family, unlabelled, with_noise
from validity.runs import trained
from validity.spectrum import published_alpha
from validity.sweep_settings import WITH_PROJECTOR, Setting, objective_of

Features = Callable[[Tensor], Tensor]

LIDAR_INPUTS, LIDAR_VIEWS = 800, 10
FLOORS = (0.001, 0.1, 1.0)
"""Of the information under views, beside that of the package."""
PREDICTORS = (
    "information, views",
    *(f"information, views, floor {floor:g}" for floor in FLOORS),
    "information, own views",
    "information, noise",
    "readout 100",
    "readout 300",
    "RankMe",
    "RankMe, projector",
    "LiDAR",
    "LiDAR, projector",
    "LiDAR, same views",
    "LiDAR, own views",
    "alpha-ReQ",
    "alpha-ReQ, all eigenvalues",
    "dc",
    "loss",
)
"""Larger is to mean better: the loss has a minus, alpha-ReQ is -|alpha - 1|.

Information is under the study's views, the same for all runs, under the run's own augmentation, and with noise; LiDAR
is of 800 inputs in ten of the study's views, of the inputs and views of the information, and of the run's own ones.
The readout is of examples that were not trained on."""


class SweepRun(NamedTuple):
    """What distinguishes a run from all others."""

    images: str
    sweep: str
    setting: Setting
    steps: int

    def path(self, folder: Path) -> Path:
        return folder / f"{self.images}_{self.sweep}_{self.setting.method}_{self.setting.number}_{self.steps}.json"


class SweepMeasurement:
    """What every encoder is given, drawn once."""

    def __init__(self, name: str) -> None:
        self.images, self.labelled, self.labels = held_out(load_images(name))
        few = unlabelled(self.images)[:INPUTS]
        self.few = few
        self.views = in_views(few, self.images.views)
        self.many = in_views(self.images.train[:LIDAR_INPUTS], self.images.views, 1, LIDAR_INPUTS * LIDAR_VIEWS)
        self.noisy = with_noise(few, 0.7)
        self.dc = ShiftFamily(package_family("dc", self.images.input_shape))

    def row(self, run: SweepRun, folder: Path) -> Row:
        """Train and measure; kept in the folder, and taken from there if it is."""
        kept = run.path(folder)
        if kept.exists():
            found: Row = json.loads(kept.read_text())
            return found
        setting = run.setting
        torch.manual_seed(1000 * setting.number + sum(map(ord, setting.method)))
        encoder = conv_of_width(self.images.input_shape[0], self.images.input_shape[-1], setting.width)
        objective = objective_of(setting, self.images)
        loss, weights = trained(encoder, objective, run.steps, setting.learning_rate)[run.steps]
        encoder.load_state_dict(weights)
        encoder.eval().requires_grad_(False)
        projector: Features | None = (
            dict(objective.named_children())["head"] if setting.method in WITH_PROJECTOR else None
        )
        predictors = self._predictors(encoder, projector)
        own = in_views(self.few, objective.augment).features(lambda images: _features(encoder, images))
        predictors |= {"information, own views": float(instance_information(own)), "LiDAR, own views": lidar(own)}
        row: Row = {"images": run.images, "regime": setting.method, "encoder": run.sweep}
        row |= {"seed": setting.number, "step": run.steps}
        row |= {name: float(getattr(setting, name)) for name in Setting._fields[2:]}
        row |= self._accuracy(encoder)
        row |= {PREDICTOR_PREFIX + name: (predictors | {"loss": -loss})[name] for name in PREDICTORS}
        row["error:information, views"] = predictors["error"]
        kept.write_text(json.dumps(row))
        torch.save({"encoder": weights, "objective": objective.state_dict()}, kept.with_suffix(".pt"))
        return row

    @torch.no_grad()
    def _predictors(self, encoder: Features, projector: Features | None) -> dict[str, float]:
        def features(images: Tensor) -> Tensor:
            return _features(encoder, images)

        views, many, train = self.views.features(features), self.many.features(features), features(self.images.train)
        labelled = features(self.labelled)
        found = {
            "information, views": float(instance_information(views)),
            **information_with_floors(views),
            "error": float(information_error(views)),
            "information, noise": float(instance_information(self.noisy.features(features))),
            "readout 100": few_label_readout(labelled[:100], self.labels[:100]).value,
            "readout 300": few_label_readout(labelled, self.labels).value,
            "RankMe": float(effective_rank(train)),
            "LiDAR": lidar(many),
            "LiDAR, same views": lidar(views),
            "alpha-ReQ": -abs(published_alpha(train) - 1),
            "alpha-ReQ, all eigenvalues": -abs(float(alpha_req(train)) - 1),
            "dc": float(self.dc.scores(features, [0.0])),
        }
        embedded = [float("nan")] * 2
        if projector is not None:
            embedded = [float(effective_rank(projector(train))), lidar(projector(many))]
        return found | {"RankMe, projector": embedded[0], "LiDAR, projector": embedded[1]}

    @torch.no_grad()
    def _accuracy(self, encoder: Features) -> Row:
        """Of the linear probe with all labels of the images that were trained on, and its standard error."""
        name, labels = next(iter(self.images.train_labels.items()))
        train, test = (_features(encoder, images) for images in (self.images.train, self.images.test))
        found = linear_accuracy(train, test, labels, self.images.test_labels[name])
        error = (found * (1 - found) / len(test)) ** 0.5
        return {f"{TARGET_PREFIX}linear": found, "error:linear": error}


def information_with_floors(views: Tensor) -> dict[str, float]:
    return {f"information, views, floor {floor:g}": float(instance_information(views, floor)) for floor in FLOORS}


def _features(encoder: Features, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([encoder(batch) for batch in images.split(512)])
