"""Collect the views that training steps feed to the encoder, for examples that cannot be read again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from synbench_lightning.callbacks.reread_views import ReadViews, kept, kept_views, wanted
from synbench_lightning.functional.representation.view_matching import Layout, belong_together, rows_of_examples
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS, INPUT_FORWARDS
from synbench_lightning.runtime.call_recorder import Key, watch_calls
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_rows import ExampleRows, exchanged
from synbench_lightning.runtime.input_leaf import input_leaf
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.step_replay import NotReachedError, StepReplay
from synbench_lightning.runtime.structures import Arguments, at, checksum, joined, mapped, replaced, taken, tensors_in

PAIR_BYTES = 2**28  # mutants: memory and time alone
"""Memory for the views; at least 32 examples are stored in any case."""
MOST_STEPS = 1000


class StepViews:
    """Collects encoder inputs in training steps: two views of about 1,024 examples, or one of 128; one of 512 texts.

    Two views are two calls, two crops in a list, or rows of one call that change together when examples of the batch
    are exchanged. As a check, two views of an example must be closer to each other than to those of other examples.

    Args:
        call: the encoder's.
        seed: of the randomness in repeated steps.
    """

    def __init__(self, call: EncoderCall, seed: int) -> None:
        self.call, self.seed = call, seed
        self._layout: tuple[Layout, int] | None = None
        self.steps = 0
        self._views: list[list[Any]] = [[], []]
        self._rows = 0
        self._most = INPUT_FORWARDS // 2
        self._stop: Callable[[], None] | None = None
        self._calls: list[Arguments] = []

    def begin(self, pl_module: LightningModule) -> None:
        """Start recording the encoder calls of a step."""
        self._calls = []
        key: Key = (self.call.path, self.call.method)

        def see(arguments: Arguments) -> None:
            self._calls.append(self.call.kept(mapped(arguments, kept)))

        self._stop = watch_calls(pl_module, key, see)

    def end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> bool:
        """End the step; return whether enough was collected. Every process makes this call.

        Args:
            trainer: in a fit.
            pl_module: that it trains.
            batch: of the step, on the device.
        """
        self.abandon()
        self.steps += 1
        if self.steps == 1:
            self._layout = self._traced(trainer, pl_module, batch)
        views = views_of_calls(self._calls)
        self._calls = []
        for own, one in zip(self._views, views, strict=False):
            own.append(one)
        if views:
            leaf = input_leaf(views[0])
            several = 1 if self._layout is None else self._layout[1]
            self._rows += 1 if leaf is None else leaf.rows // several
            size = sum(tensor.nbytes for tensor in tensors_in(views[0]))
            fitting = PAIR_BYTES // max(1, size) * (1 if leaf is None else leaf.rows)
            self._most = min(self._most, max(FEWEST_INPUTS, fitting))
        pairs = bool(self._views[1]) or (self._layout is not None and self._layout[1] > 1)
        enough = self._most if pairs else min(self._most, wanted(self.call).examples)
        return self._rows >= enough or self.steps >= MOST_STEPS

    def abandon(self) -> None:
        """Stop recording calls."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _traced(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[Layout, int] | None:
        """The order of a call's rows and their number per example; ``None`` if they cannot be determined."""
        examples = next((len(tensor) for tensor in tensors_in(batch) if tensor.ndim), 0)
        swapped, rows = exchanged(batch, examples), ExampleRows()
        if not trainer.strategy.reduce_boolean_decision(swapped is not None, all=True) or swapped is None:
            return None
        try:
            replay = StepReplay(trainer, pl_module, self.call)
            with replay.ready():
                inputs, others = (replay.everywhere(one, self.seed, transferred=True) for one in (batch, swapped.batch))
        except (NotReachedError, ValueError):
            return None
        rows.trace(inputs, others, swapped.examples)
        leaf = input_leaf(inputs)
        return None if rows.layout is None or leaf is None else (rows.layout, leaf.rows // examples)

    def found(self, trainer: Trainer) -> ReadViews:
        """The views collected on the first process: two of each example if available, else one."""
        views = self._pairs()
        number = self._most if len(views) == 2 else wanted(self.call).examples
        whole = [joined(view) for view in views] if views[0] else []
        if whole and all(one is not None for one in whole) and (leaf := input_leaf(whole[0])) is not None:
            rows = torch.arange(min(leaf.rows, number))
            found = ReadViews([[taken(one, rows, leaf.rows)] for one in whole], len(rows), "")
        else:
            found = kept_views(views, "", number)
        result: ReadViews = trainer.strategy.broadcast(found)
        return result

    def _pairs(self) -> list[list[Any]]:
        """Two matching views by step, from two calls or from the blocked or interleaved rows of one; else one view."""
        first, second = self._views
        if len(first) == len(second) > 0:
            return [first, second] if _belong(first, second) else [first]
        leaves = [input_leaf(call) for call in first]
        if self._layout is None or self._layout[1] < 2:
            return [first]
        layout, several = self._layout
        parts: list[list[Any]] = [[], []]
        for call, leaf in zip(first, leaves, strict=True):
            if leaf is not None and not leaf.listed and leaf.rows % several == 0:
                rows = rows_of_examples(layout, leaf.rows // several, leaf.rows)
                for side, part in enumerate(parts):
                    part.append(taken(call, rows[:, side], leaf.rows))
        return parts if parts[0] and _belong(*parts) else [first]


def views_of_calls(calls: list[Arguments]) -> list[Any]:
    """The inputs of a step's first two distinct encoder calls of one shape, or two crops; else of one call."""
    leaves = [input_leaf(call) for call in calls]
    if not calls:
        return []
    first, leaf = calls[0], leaves[0]
    if leaf is None:
        return calls[:2]
    value = at(first, leaf.path)
    if leaf.listed:
        largest = [crop for crop in value if tuple(crop.shape[1:]) == leaf.shape]
        return [replaced(first, leaf.path, [crop]) for crop in largest[:2]]
    for call, other in zip(calls[1:], leaves[1:], strict=True):
        fits = other is not None and (other.path, other.shape, other.rows) == (leaf.path, leaf.shape, leaf.rows)
        if fits and checksum(at(call, leaf.path)) != checksum(value):
            return [first, call]
    return [first]


def _belong(ones: list[Any], others: list[Any]) -> bool:
    """Whether the rows of two views match, over all steps."""
    pairs = []
    for one, other in zip(ones, others, strict=True):
        leaf = input_leaf(one)
        if leaf is None:
            return False
        sides = [at(side, leaf.path) for side in (one, other)]
        first, second = (side[0] if leaf.listed else side for side in sides)
        if first.shape == second.shape and len(first) > 1:
            pairs.append((first, second))
    return belong_together(*pairs)
