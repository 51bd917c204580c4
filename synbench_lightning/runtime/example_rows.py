"""Match the rows of an encoder's input to the examples of a batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.representation.view_matching import (
    Layout,
    layout_of,
    row_changes,
    rows_of_examples,
)
from synbench_lightning.runtime.input_leaf import input_leaf
from synbench_lightning.runtime.structures import at, replaced, taken, tensors_in


class Exchanged(NamedTuple):
    """A batch in which some examples were permuted; ``examples (N,)`` is true for these."""

    batch: Any
    examples: Tensor


def exchanged(batch: Any, examples: int) -> Exchanged | None:
    """Permute a random third of the examples of a batch; ``None`` if that is not possible."""
    if examples < 4:
        return None
    order, chosen = torch.arange(examples), torch.arange(examples)[::2]
    chosen = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(examples))[: examples // 3 + 1]]
    order[chosen] = chosen.roll(1)
    other = taken(batch, order, examples)
    changed = torch.zeros(examples, dtype=torch.bool)
    for one, two in zip(tensors_in(batch), tensors_in(other), strict=True):
        if one.shape != two.shape:  # a list of as many crops as examples, which was permuted
            return None
        if one.ndim > 1 and len(one) == examples:
            changed |= row_changes(one, two).bool()
    return Exchanged(other, changed) if changed.any() else None


class ExampleRows:
    """Selects one view of each example from the encoder's input in one call.

    The input may contain several views of each example, in blocks or interleaved, or a list of crops of several sizes.
    Rows are matched to examples by which rows change when examples of the batch are permuted.
    """

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self.column = 0

    def trace(self, inputs: Any, others: Any, examples: Tensor) -> None:
        """Infer the layout from the rows that change with the permuted examples."""
        leaf, other = input_leaf(inputs), input_leaf(others)
        if leaf is None or other is None or leaf.listed or (leaf.path, leaf.rows) != (other.path, other.rows):
            return
        one, two = at(inputs, leaf.path), at(others, leaf.path)
        if one.shape == two.shape:
            self.layout = layout_of(examples, row_changes(one, two))

    def unknown(self, inputs: Any, examples: int) -> bool:
        """Whether there are several rows per example in an unknown order."""
        leaf = input_leaf(inputs)
        several = leaf is not None and not leaf.listed and leaf.rows > examples and leaf.rows % examples == 0
        return several and self.layout is None

    def choose(self, one: Any, other: Any, examples: int) -> bool:
        """Select the view that differs between two readings of a batch; returns whether any does.

        Of several crops, the largest that differs is selected.
        """
        leaf = input_leaf(one)
        if leaf is None or not (leaf.listed or self.layout):
            return _differ(one, other)
        for self.column in range(len(at(one, leaf.path)) if leaf.listed else leaf.rows // examples):
            if _differ(self.of(one, examples), self.of(other, examples)):
                return True
        self.column = 0
        return False

    def of(self, inputs: Any, examples: int) -> Any:
        """The selected view of each example of a batch."""
        leaf = input_leaf(inputs)
        if leaf is None:
            return inputs
        if leaf.listed:
            crops = sorted(at(inputs, leaf.path), key=torch.numel, reverse=True)
            return replaced(inputs, leaf.path, [crops[self.column]])
        if self.layout is None or leaf.rows == examples or leaf.rows % examples:
            return inputs
        return taken(inputs, rows_of_examples(self.layout, examples, leaf.rows)[:, self.column], leaf.rows)


def _differ(one: Any, other: Any) -> bool:
    sides = [list(tensors_in(side)) for side in (one, other)]
    return len(sides[0]) != len(sides[1]) or not all(_same(*pair) for pair in zip(*sides, strict=True))


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    difference = (one - other).abs().double().square().mean()
    return bool(difference <= 1e-6 * other.abs().double().square().mean())
