"""Views that training steps give the encoder, where examples cannot be read again."""

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

PAIR_BYTES = 2**28
"""Views of more examples than fit are not kept, but of 32 at least."""
MOST_STEPS = 1000


class StepViews:
    """Collects what steps give the encoder: two views of about 1,024 examples, or one of 128; of texts one of 512.

    Two views are those of two calls, of crops in a list, or of rows of one call that change together when examples of
    the batch are exchanged. They are compared too: two views of an example are nearer to each other than to others.

    Args:
        call: the encoder's.
        seed: of what is random where a step is repeated.
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
        """A step begins: its calls of the encoder are seen."""
        self._calls = []
        key: Key = (self.call.path, self.call.method)

        def see(arguments: Arguments) -> None:
            self._calls.append(self.call.kept(mapped(arguments, kept)))

        self._stop = watch_calls(pl_module, key, see)

    def end(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> bool:
        """The step has ended; whether enough was seen. Every process makes this call.

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
        """See no further calls."""
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _traced(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[Layout, int] | None:
        """In which order a call is given several rows for each example, and how many; ``None`` if that is not seen."""
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
        """What was seen on the first process: two views of each example, or one where there are no two."""
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
        """Two views by step where they belong together: of two calls, or the halves or turns of one; else one view."""
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
    """What one step gave the encoder in its first two different calls of one shape, or as two crops; else in one."""
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
    """Whether the rows of two views belong together, over all steps."""
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
