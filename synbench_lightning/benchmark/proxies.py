"""Gaussian proxy tasks as a benchmark of labeled examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from synbench_lightning.checks import check_input_shape, check_integer, numbers
from synbench_lightning.probe.families import resolve_tasks
from synbench_lightning.probe.tasks import NOISE_BLOCK, GaussianTask, noise_block


def labelled_proxies(
    tasks: str | Sequence[GaussianTask],
    input_shape: Sequence[int],
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    examples: int = 256,
    seed: int = 0,
) -> dict[str, Dataset[Any]]:
    """Gaussian proxy tasks as a benchmark of labeled examples: one task for each of them at each scale.

    Args:
        tasks: the name of a family (:func:`task_family`) or Gaussian tasks of your own.
        input_shape: shape of one input of the encoder, without the batch dimension.
        scales: Mahalanobis half-distances of the classes, positive.
        examples: labeled examples of each task at each scale.
        seed: of the noise.

    Returns:
        Datasets of pairs (input, label) by names such as ``"dc@0.5"``.

    Raises:
        ValueError: for tasks, scales or a number of examples outside their range.

    Example:
        >>> benchmark = labelled_proxies("dc", (1, 8, 8), scales=(1.0,), examples=100)
        >>> list(benchmark), len(benchmark["dc@1"])
        (['dc@1'], 100)
    """
    count = check_integer("examples", examples, 4)
    levels = numbers("scales", scales)
    if not levels or not all(0 < level < math.inf for level in levels):
        raise ValueError(f"`scales` must be positive numbers, at least one, got {list(levels)}.")
    input_shape, seed = check_input_shape(input_shape), check_integer("seed", seed, 0)
    labels = torch.arange(count) % 2
    signs = (2.0 * labels - 1.0).reshape(-1, *[1] * len(input_shape))
    found: dict[str, Dataset[Any]] = {}
    for task in resolve_tasks(tasks, input_shape):
        if not isinstance(task, GaussianTask):
            raise ValueError(f"`tasks` must be Gaussian tasks, {task.name!r} is labelled already: make it a dataset.")
        for scale in levels:
            blocks = [
                noise_block(seed, task.name, scale, block, input_shape) for block in range(-(-count // NOISE_BLOCK))
            ]
            white = torch.cat(blocks)[:count] + scale * signs * task.direction
            middle = 0.0 if task.mean is None else task.mean
            found[f"{task.name}@{scale:g}"] = TensorDataset(task.coloured(white) + middle, labels)
    return found
