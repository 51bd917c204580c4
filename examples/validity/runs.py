"""Pretrain one encoder and keep its checkpoints, spaced by logarithm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from validity.encoders import DIMENSIONS, build_encoder
from validity.inputs import Images, load_images
from validity.regimes import REGIMES, Regime

FORWARD_BATCH = 256


class Encoder:
    """Features of images, which both are on the CPU, of a module on any device."""

    def __init__(self, module: nn.Module, device: str = "cpu") -> None:
        self.module, self.device = module.to(device), device
        convert_conv2d_weight_memory_format(module, torch.channels_last)  # forwards on a CPU take half as long

    def __call__(self, images: Tensor) -> Tensor:
        batches = images.to(memory_format=torch.channels_last).split(FORWARD_BATCH)
        return torch.cat([self.module(batch.to(self.device)).cpu() for batch in batches])


class Run(NamedTuple):
    """What tells a run from all others."""

    images: str
    regime: str
    encoder: str
    seed: int
    steps: int

    def path(self, folder: Path) -> Path:
        return folder / ("_".join(str(part) for part in self) + ".pt")


def checkpoint_steps(steps: int, number: int = 15) -> list[int]:
    """Step 0 and ``number - 1`` steps from a 130th of the last to the last, spaced by logarithm; fewer in short runs.

    None is 1: a loss is the mean since the checkpoint before, and that of the first step is the one of step 0.
    """
    later = np.geomspace(steps / 130, steps, number - 1).round().astype(int)
    return [0, *np.unique(later[later > 1]).tolist()]


def pretrain(run: Run, folder: Path, device: str = "cpu") -> None:
    """Train, and write ``{step: (mean loss since the step before, weights)}`` unless it was done before."""
    if run.path(folder).exists():
        return
    images = load_images(run.images).to(device)
    with torch.device(device):  # random numbers, too, are drawn there
        kept = trained(*started(run, images), run.steps)
    torch.save(kept, run.path(folder))


def started(run: Run, images: Images) -> tuple[nn.Module, Regime]:
    """The encoder and the objective of a run at its start, the same ones in each call."""
    torch.manual_seed(1000 * run.seed + sum(map(ord, run.regime + run.encoder)))
    encoder = build_encoder(run.encoder, images.input_shape[0])
    return encoder, REGIMES[run.regime](images, DIMENSIONS[run.encoder])


def trained(
    encoder: nn.Module, objective: Any, steps: int, learning_rate: float = 1e-3, checkpoints: int = 15
) -> dict[int, tuple[float, dict[str, Tensor]]]:
    """Train; the mean loss since the checkpoint before and the weights, by the step of the checkpoint.

    Args:
        encoder: the module that is trained.
        objective: a module with ``batch()``, ``loss(encoder, batch)`` and ``weight_decay``.
        steps: of the optimizer.
        learning_rate: of all of them.
        checkpoints: how many, at most.
    """
    parameters = [*encoder.parameters(), *objective.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=objective.weight_decay)
    kept, losses = {}, list[float]()
    due = checkpoint_steps(steps, checkpoints)
    for step in range(steps + 1):
        if step in due:
            weights = {name: value.to("cpu", copy=True) for name, value in encoder.state_dict().items()}
            kept[step] = (fmean(losses) if losses else float("nan"), weights)
            losses = []
        loss = objective.loss(encoder, objective.batch())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step == 0:
            kept[0] = (loss.item(), kept[0][1])
            losses = []
    return kept


def checkpoints(run: Run, folder: Path, device: str = "cpu") -> Iterator[tuple[int, float, Encoder]]:
    """Step, training loss and encoder, in evaluation mode, of each checkpoint; images and features are on the CPU."""
    module = build_encoder(run.encoder, load_images(run.images).input_shape[0]).eval().requires_grad_(False)
    encoder = Encoder(module, device)
    for step, (loss, weights) in torch.load(run.path(folder)).items():
        module.load_state_dict(weights)
        yield step, loss, encoder
