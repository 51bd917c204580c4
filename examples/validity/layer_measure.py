"""What labels, views and few labels say of every layer of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from synbench_lightning.functional.representation.information import (
    information_replicates,
    instance_information,
    replicates_error,
)
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.functional.representation.spectrum import effective_rank
from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Row
from validity.encoders import LAYERS, build_encoder
from validity.inputs import load_images
from validity.layer_widths import WIDTH_CANDIDATES
from validity.measure import INPUTS
from validity.proxies import in_views, lidar, unlabelled
from validity.runs import Run, checkpoint_steps

LABELS = (100, 300)
PREDICTORS = ("information", *WIDTH_CANDIDATES, "LiDAR", "RankMe", *(f"readout {n}" for n in LABELS))
"""Larger is to mean better. All but the readouts know no label."""


def measured_steps(steps: int) -> list[int]:
    """The first of a run's checkpoints, two early ones and three later ones; all, where there are fewer than 15."""
    kept = checkpoint_steps(steps)
    return [kept[index] for index in (0, 6, 9, 11, 13, 14)] if len(kept) == 15 else kept


class LayerMeasurement:
    """What is shown to every checkpoint, drawn once."""

    def __init__(self, name: str) -> None:
        self.images = images = load_images(name)
        order = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(6))
        self.versions = in_views(unlabelled(images)[:INPUTS], images.views).versions
        self.first = next(iter(images.train_labels))
        self.labelled = order[-max(LABELS) :]

    def rows(self, run: Run, folder: Path) -> list[Row]:
        """One for each checkpoint and layer; kept beside the run, and taken from there if they are."""
        kept = run.path(folder).with_suffix(".layers.json")
        if kept.exists():
            rows: list[Row] = json.loads(kept.read_text())
            return rows
        encoder = build_encoder(run.encoder, self.images.input_shape[0]).eval().requires_grad_(False)
        found: list[Row] = []
        weights = torch.load(run.path(folder))
        for step in measured_steps(run.steps):
            encoder.load_state_dict(weights[step][1])
            train, test, versions = (self._read(encoder, run.encoder, x) for x in self._shown)
            last = versions[LAYERS[run.encoder][-1]].unflatten(0, self.versions.shape[:2])
            for index, layer in enumerate(LAYERS[run.encoder]):
                row: Row = {"images": run.images, "regime": run.regime, "encoder": run.encoder, "seed": run.seed}
                row |= {"step": step, "layer": index, "width": train[layer].shape[1]}
                correct = self._correct(train[layer], test[layer])
                halves = {"linear": correct, "linear, even": correct[::2], "linear, odd": correct[1::2]}
                row |= {TARGET_PREFIX + name: float(part.mean()) for name, part in halves.items()}
                grouped = versions[layer].unflatten(0, self.versions.shape[:2])
                row["margin"] = margin(grouped, last)
                of = self._predictors(grouped, train[layer])
                found.append(row | {PREDICTOR_PREFIX + name: of[name] for name in PREDICTORS})
        kept.write_text(json.dumps(found))
        return found

    @property
    def _shown(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images.train, self.images.test, self.versions.flatten(0, 1)

    @torch.no_grad()
    def _read(self, encoder: nn.Module, name: str, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {layer: [] for layer in LAYERS[name]}
        with outputs_of(encoder, LAYERS[name], lambda layer, output: found[layer].append(pooled(output))):
            for batch in images.split(512):
                encoder(batch)
        return {layer: torch.cat(parts) for layer, parts in found.items()}

    def _correct(self, train: Tensor, test: Tensor) -> np.ndarray:
        """Which test images logistic regression on standardized features with all labels has right."""
        centre, spread = train.mean(0), train.std(0) + 1e-6 * train.square().mean().sqrt() + 1e-12
        x, x_test = (((features - centre) / spread).numpy() for features in (train, test))
        y, y_test = (labels[self.first].numpy() for labels in (self.images.train_labels, self.images.test_labels))
        correct: np.ndarray = LogisticRegression(max_iter=200, tol=1e-3).fit(x, y).predict(x_test) == y_test
        return correct

    def _predictors(self, versions: Tensor, train: Tensor) -> dict[str, float]:
        found = {"information": float(instance_information(versions)), "LiDAR": lidar(versions)}
        found |= {name: candidate(versions) for name, candidate in WIDTH_CANDIDATES.items()}
        found["RankMe"] = float(effective_rank(train))
        labels = self.images.train_labels[self.first]
        for n in LABELS:
            found[f"readout {n}"] = few_label_readout(train[self.labelled[:n]], labels[self.labelled[:n]]).value
        return found


def pooled(output: Tensor) -> Tensor:
    """The mean over space ``(N, C, H, W)`` or tokens ``(N, T, C)``."""
    return output.mean((2, 3)) if output.ndim == 4 else output.mean(1)


def margin(versions: Tensor, last: Tensor) -> float:
    """By how many standard errors a layer has more information than the last one."""
    error = float(replicates_error(information_replicates(versions) - information_replicates(last)))
    return float(instance_information(versions) - instance_information(last)) / error if error else 0.0


@contextmanager
def outputs_of(encoder: nn.Module, layers: tuple[str, ...], give: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Inside, the outputs of some layers are handed on."""

    def hook(layer: str) -> Callable[..., None]:
        return lambda module, args, output: give(layer, output)

    handles = [encoder.get_submodule(layer).register_forward_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
