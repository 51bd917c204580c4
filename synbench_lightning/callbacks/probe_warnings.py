"""Warnings about the probes of a run: incomparable values, collapse, tasks with score 0, a fall below the best."""

from __future__ import annotations

import math

from torch import Tensor

from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.runtime.lightning_packages import rank_zero_info, rank_zero_warn

CLEAR = 3.0
"""Number of standard errors by which a value has to fall, by convention: 1 in 700 by chance."""
FALLEN = {
    "score": "it discards directions that the proxy tasks vary while it gets better at its own task",
    "information": "it discards what distinguishes the inputs from each other while it gets better at its own task",
    "readout": "it discards what the given labels depend on while it gets better at its own task",
}
"""What a fall may mean besides over-training, by the value that has fallen."""
UNSEEN = 0.01
"""Score below which the encoder counts as insensitive to a task."""


class ProbeWarnings:
    """Warn, once each, about what the losses and probes of a run show.

    Args:
        threshold: threshold accuracy of the logged scores.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._losses: tuple[Tensor | float, int] = (0.0, 0)  # sum and number of those since the last probe
        self._best: tuple[float, float, float | None] | None = None  # value, its standard error, training loss
        self._name = ""
        self._fallen = False

    def trained(self, loss: Tensor) -> None:
        """Record the loss of a training step."""
        total, count = self._losses
        self._losses = total + loss.detach().mean(), count + 1

    def probed(self, result: ProbeResult, before: ProbeResult | None) -> None:
        """Check a new probe against the one before it (``None`` for the first)."""
        if before is None:
            self._first(result)
        elif not before.compares(result):
            rank_zero_warn(
                f"The SynBench scores up to step {before.step}, from the checkpoint, were made with other arguments "
                "and are not comparable to those from here on, and neither is a best score among them. "
                f"Before: {before.settings}. Now: {result.settings}."
            )
        if result.collapsed and not (before and before.collapsed):
            rank_zero_warn("The representation has collapsed: the features are constant for all examples, score 0.")
        self._fall(result)

    def _first(self, result: ProbeResult) -> None:
        if not result.tasks:
            rank_zero_info(f"SynBench: the representation has {result.feature_dim} dimensions.")
            return
        score = result.score(threshold=self.threshold)
        rank_zero_info(f"SynBench: the representation has {result.feature_dim} dimensions, score {score:.3f}.")
        scores = result.task_scores(threshold=self.threshold)
        unseen = [task for task, value in scores.items() if value < UNSEEN]
        if unseen and not result.collapsed:
            rank_zero_info(
                f"SynBench: the score of {', '.join(unseen)} is 0: the encoder is insensitive to that task "
                "(does it standardize each input, or average over positions?). If that stays so, exclude it with "
                "`tasks=`."
            )

    def _fall(self, result: ProbeResult) -> None:
        """Say when the score falls below its best, by more than noise, while the training loss improves.

        Where the information about inputs or the readout of labels is measured, the better takes the score's place.
        """
        total, count = self._losses
        loss, self._losses = float(total) / count if count else None, (0.0, 0)
        if result.best_key == "score":
            value, error = result.score(threshold=self.threshold), result.standard_error(threshold=self.threshold)
        else:
            value = getattr(result, result.best_key) or 0.0
            error = getattr(result, f"{result.best_key}_error")
        name, error = result.best_key, error or 0.0
        if name != self._name:
            self._name, self._best = name, None
        if self._best is None or value > self._best[0]:
            self._best, self._fallen = (value, error, loss), False
            return
        best, its_error, before = self._best
        if before is None:  # the best came before the first step
            self._best = best, its_error, loss
            return
        lower = best - value > CLEAR * math.hypot(error, its_error)
        if lower and loss is not None and loss < before and not self._fallen:
            self._fallen = True
            rank_zero_info(
                f"SynBench: the {name} has fallen from {best:.3f} to {value:.3f}, more than its noise, while the "
                f"training loss went from {before:.4g} to {loss:.4g}. Either the encoder over-trains, or "
                f"{FALLEN[name]}: only downstream data can decide."
            )
