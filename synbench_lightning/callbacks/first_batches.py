"""Views of examples, taken from the first training batches that hold several of each."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.probe.inputs import INPUT_FORWARDS
from synbench_lightning.probe.samples import NOISE_BUDGET_BYTES
from synbench_lightning.runtime.input_shape import views_of_shape


class FirstBatches:
    """Two views of about 1,024 examples, in half precision, from as many batches as that takes.

    Of large inputs fewer are taken, so that they fit the budget that noise has, 256 MiB: they go into checkpoints.

    Args:
        shape: of one input of the encoder.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.wanted = min(INPUT_FORWARDS // 2, NOISE_BUDGET_BYTES // (4 * prod(self.shape)))
        self.batches = 0
        self._found: list[Tensor] = []

    def add(self, batch: Any) -> bool:
        """Take the views of a further batch, and tell whether there are enough now."""
        views = views_of_shape(batch, self.shape)
        self.batches += 1
        if views is not None:
            self._found.append(views[:, :2].detach().cpu().half())
        return sum(map(len, self._found)) >= self.wanted

    @property
    def pairs(self) -> Tensor | None:
        """``(N, 2, *shape)``; ``None`` where none were found."""
        return torch.cat(self._found)[: self.wanted] if self._found else None
