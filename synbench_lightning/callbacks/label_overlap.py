"""Detect labeled inputs, which should be held out, among the training inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from synbench_lightning.runtime.structures import leaves

WATCHED = 100  # mutants: memory and time alone
"""Batches to search."""
VALUES = 32  # mutants: memory and time alone
"""Values of an example to compare first; all values are compared only if these are equal."""
DUPLICATES = 0.01
"""Fraction of the labeled inputs, and one in any case, that may also be in the training data as duplicates."""


class LabelOverlap:
    """Searches the first training batches for the labeled inputs, value by value.

    An input is recognized only if the batch contains exactly what the encoder takes: not if it was augmented or
    rescaled, since transformations inside the training step are not tracked.

    Args:
        inputs: ``(N, *input_shape)``, or a structure of tensors with N rows, of which the largest is compared.

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
        self._shape, self._dtype = own.shape[1:], own.dtype  # collected inputs may be in half precision
        self._places = torch.linspace(0, self._inputs.shape[1] - 1, VALUES).long().unique()  # mutants: time alone
        self._rows: dict[bytes, list[int]] = {}
        for row, key in enumerate(self._keys(self._inputs)):
            self._rows.setdefault(key, []).append(row)

    def see(self, batch: Any) -> str | None:
        """Search a training batch; return a warning once enough inputs were found."""
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
            f"SynBench: {found} of the {total} inputs of `labels` are in {batches} of training. The readout is "
            "misleading for labels that a run memorizes: give held-out labeled examples (their labels may be noisy)."
        )

    def _look_at(self, rows: Tensor, inputs: Tensor) -> None:
        """Record which of the inputs are among the rows ``(n, values)``."""
        for row, key in enumerate(self._keys(rows)):
            candidates = [own for own in self._rows.get(key, ()) if own not in self._found]
            if candidates:
                values = rows[row].cpu().to(inputs.dtype)
                self._found.update(own for own in candidates if torch.equal(inputs[own], values))

    def _keys(self, rows: Tensor) -> list[bytes]:
        """Some values of each row, as bytes."""
        some = rows[:, self._places.to(rows.device)].to(self._dtype).cpu().float() + 0.0  # turns -0 into 0
        return [row.tobytes() for row in some.numpy()]
