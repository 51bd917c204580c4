"""Readouts of labels of which some are wrong, of examples that were trained on and of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import instance_information
from synbench_lightning.functional.representation.readout import few_label_readout
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.downstream import linear_accuracy
from validity.encoders import DIM, build_encoder
from validity.inputs import load_images
from validity.measure import INPUTS
from validity.noisy_labels import HELD_OUT, NoisyLabels, held_out, with_wrong
from validity.proxies import in_views, unlabelled, with_noise
from validity.runs import trained

Features = Callable[[Tensor], Tensor]

REGIME, LABELS = "noisy labels", "all labels"
WRONG = 0.4
PREDICTORS = (
    "readout, training labels",
    "readout, held-out wrong labels",
    "readout, held-out labels",
    "information, views",
    "information, noise",
    "loss",
)
"""Each readout is of 300 labels. Training labels are those that are trained on, 40 % of them replaced at random; wrong
held-out labels are replaced as often. Larger is to mean better: the loss has a minus."""


def rows_of(name: str, seed: int, steps: int, folder: Path) -> list[Row]:
    """One for each checkpoint of a run on noisy labels; kept in the folder, and taken from there if they are."""
    kept = folder / f"labels_{name}_{seed}_{steps}.json"
    if kept.exists():
        rows: list[Row] = json.loads(kept.read_text())
        return rows
    images, out, right = held_out(load_images(name))
    torch.manual_seed(seed)
    encoder = build_encoder("conv", images.input_shape[0])
    objective = NoisyLabels(images, DIM, WRONG)
    objective.augment = lambda images, strength=1.0: images
    wrong, trained_on = with_wrong(right, WRONG), objective.source.labels[:HELD_OUT]
    few = unlabelled(images)[:INPUTS]
    versions = {"views": in_views(few, images.views), "noise": with_noise(few, 0.7)}
    (label_set, labels), found = next(iter(images.train_labels.items())), list[Row]()
    for step, (loss, weights) in trained(encoder, objective, steps).items():
        encoder.load_state_dict(weights)
        read = reader(encoder)
        train, test, others = read(images.train), read(images.test), read(out)
        predictors = {
            "readout, training labels": few_label_readout(train[:HELD_OUT], trained_on).value,
            "readout, held-out wrong labels": few_label_readout(others, wrong).value,
            "readout, held-out labels": few_label_readout(others, right).value,
            **{f"information, {kind}": float(instance_information(of.features(read))) for kind, of in versions.items()},
            "loss": -loss,
        }
        row: Row = {"images": name, "regime": REGIME, "encoder": "conv", "seed": seed, "step": step}
        row[f"{TARGET_PREFIX}linear/{LABELS}"] = linear_accuracy(train, test, labels, images.test_labels[label_set])
        found.append(row | {PREDICTOR_PREFIX + key: predictors[key] for key in PREDICTORS})
    kept.write_text(json.dumps(found))
    return found


def reader(encoder: torch.nn.Module) -> Features:
    """Features in evaluation mode."""

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        encoder.eval()
        return torch.cat([encoder(batch) for batch in images.split(512)])

    return features
