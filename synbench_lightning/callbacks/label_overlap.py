"""Whether labelled inputs, which should be held out, are among those that training is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synbench_lightning.runtime.structures import leaves

WATCHED = 100
"""Batches in which they are looked for."""
VALUES = 32
"""Values of an example that are compared first; all of them only where these are equal."""
DUPLICATES = 0.01
"""Up to this fraction of them, and one in any case, may be in the training data by chance: there are duplicates."""


class LabelOverlap:
    """Looks for labelled inputs in the first batches of training, value by value.

    What the training step makes of a batch is not seen, so an input is recognized where the batch holds it as the
    encoder takes it: not under augmentations, nor on another scale.

    Args:
        inputs: ``(N, *input_shape)``, or a structure of tensors with N rows, of which the largest is looked for.

    Example:
        >>> x = torch.randn(40, 3, 4, 4)
        >>> overlap = LabelOverlap(x)
        >>> overlap.see([torch.randn(8, 3, 4, 4), torch.arange(8)]), overlap.see({"image": x[:10].clone()}) is None
        (None, False)
    """

    def __init__(self, inputs: Any) -> None:
        usable = [leaf for _, leaf in leaves(inputs) if leaf.ndim > 1 and not leaf.is_complex()]
        self._inputs = None
        self._batches, self._found = 0, set[int]()
        if isinstance(inputs, list) or not usable:
            return
        own = max(usable, key=Tensor.numel)
        self._inputs = own.detach().cpu().flatten(1)
        self._shape, self._dtype = own.shape[1:], own.dtype  # inputs that were read may be in half precision
        self._places = torch.linspace(0, self._inputs.shape[1] - 1, VALUES).long().unique()
        self._rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(self._keys(self._inputs)):
            self._rows.setdefault(key, []).append(row)

    def see(self, batch: Any) -> str | None:
        """Look at a batch of training; a sentence once there is something to be said."""
        if self._inputs is None:
            return None
        self._batches += 1
        for _, leaf in leaves(batch):
            if leaf.ndim == len(self._shape) + 1 and leaf.shape[1:] == self._shape and not leaf.is_complex():
                self._look_at(leaf.detach().flatten(1), self._inputs)
        total, found = len(self._inputs), len(self._found)
        done = found > max(1, DUPLICATES * total)
        if done or self._batches == WATCHED:
            self._inputs = None
        if not done:
            return None
        batches = "the first batch" if self._batches == 1 else f"the first {self._batches} batches"
        return (
            f"SynBench: {found} of the {total} inputs of `labels` are in {batches} of training. The readout of labels "
            "that a run memorizes misleads: give labelled examples that are held out (their labels may be wrong)."
        )

    def _look_at(self, rows: Tensor, inputs: Tensor) -> None:
        """Note which of the inputs are among the rows ``(n, values)``."""
        for row, key in enumerate(self._keys(rows)):
            candidates = [own for own in self._rows.get(key, ()) if own not in self._found]
            if candidates:
                values = rows[row].cpu().to(inputs.dtype)
                self._found.update(own for own in candidates if torch.equal(inputs[own], values))

    def _keys(self, rows: Tensor) -> list[bytes]:
        """Some values of each row, as bytes."""
        some = rows[:, self._places.to(rows.device)].to(self._dtype).cpu().float() + 0.0  # which makes -0 to 0
        return [row.tobytes() for row in some.numpy()]
