"""Inputs for the information, taken from the first training batches of a run."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.probe.proxy_samples import NOISE_BUDGET_BYTES
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS, INPUT_FORWARDS, MOST_INPUTS
from synbench_lightning.runtime.input_shape import inputs_of_shape, views_of_shape
from synbench_lightning.runtime.lightning_packages import Strategy, rank_zero_info, rank_zero_warn


class ViewCollection:
    """Two views of about 1,024 examples where batches hold several, else the inputs of the first batch.

    Views come from as many batches as that takes; of large inputs as many are taken as fit the budget that noise has,
    256 MiB, but 32 at least. They go into checkpoints, in half precision. The first process decides, and all have the
    same.
    """

    def __init__(self) -> None:
        self.kept: Tensor | None = None
        """``(N, *shape)``, or ``(N, 2, *shape)`` where batches hold views; ``None`` before there are enough."""
        self.release()

    def release(self) -> None:
        """Give up what is not complete."""
        self.collecting, self._found, self._batches = False, list[Tensor](), 0

    def begin(self, strategy: Strategy, batch: Any, shape: Sequence[int], pairs: bool) -> None:
        """Take what the first batch holds, where nothing was taken yet in this run.

        Args:
            strategy: of the trainer.
            batch: on any device.
            shape: of one input of the encoder.
            pairs: whether views are looked for.

        Raises:
            ValueError: if the batch holds no views, and too few inputs.
        """
        if self.kept is not None:
            return
        self._shape = tuple(shape)
        if pairs and strategy.broadcast(views_of_shape(batch, shape) is not None):
            self.collecting = True
            self._wanted = min(INPUT_FORWARDS // 2, max(FEWEST_INPUTS, NOISE_BUDGET_BYTES // (4 * prod(shape))))
            rank_zero_info(
                f"SynBench: the batches hold several views of each example. The first two of shape {self._shape} are "
                f"taken, of the first {self._wanted} examples; information is measured from then on."
            )
            self.add(strategy, batch)
            return
        found = inputs_of_shape(batch, self._shape)
        own = None if found is None else found[:MOST_INPUTS].detach().cpu().half()
        inputs = strategy.broadcast(own)
        if inputs is None or len(inputs) < FEWEST_INPUTS:
            has = "no input" if inputs is None else f"{len(inputs)} inputs"
            raise ValueError(
                f"`inputs='first_batch'`: the first batch holds {has} of shape {self._shape}, at least {FEWEST_INPUTS} "
                "are needed: pass a tensor of them."
            )
        self.kept = inputs

    def add(self, strategy: Strategy, batch: Any) -> bool:
        """Take the views of a batch, and tell whether there are enough now."""
        views = views_of_shape(batch, self._shape)
        self._batches += 1
        if views is not None:
            self._found.append(views[:, :2].detach().cpu().half())
        enough = strategy.broadcast(sum(map(len, self._found)) >= self._wanted)
        return enough and self.end(strategy)

    def end(self, strategy: Strategy) -> bool:
        """Make do with the views that were found, and tell whether they are enough."""
        found = strategy.broadcast(torch.cat(self._found)[: self._wanted] if self._found else None)
        batches, number = self._batches, 0 if found is None else len(found)
        self.release()
        if number < FEWEST_INPUTS:
            rank_zero_warn(
                f"`inputs='first_batch'`: the first {batches} batches hold views of {number} examples, at least "
                f"{FEWEST_INPUTS} are needed: information is not measured. Pass a tensor of inputs."
            )
            return False
        self.kept = found
        return True
