"""Figures of probes for loggers, and a page of charts for TensorBoard."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from synbench_lightning.callbacks.metric_keys import BAND, FIGURES, TASKS, name_of
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.runtime.lightning_packages import Trainer, lightning_classes, rank_zero_warn

SHARE = 0.02  # mutants: memory and time alone
"""Between the first and the last probe, figures are skipped while drawing exceeds this fraction of the time."""


class FigureLogger:
    """Logs the figures and charts of one callback's probes, on the first process.

    TensorBoard gets images and charts; Wandb and MLflow get the figures through their own APIs; other loggers have no
    API for figures and get none. A failure is reported once and never ends the run.

    Args:
        prefix: of the logged keys.
        threshold: threshold accuracy of the logged scores.
    """

    def __init__(self, prefix: str, threshold: float) -> None:
        self.prefix, self.threshold = prefix, threshold
        self._step = 0  # of the last probe, on the loggers' axis; mutants: not read before the first probe
        self._drawn: int | None = None  # the same for the figures drawn last
        self._started = self._spent = 0.0  # mutants: `open` sets both
        self._told: set[str] = set()  # failures already reported
        self._monitored: str | None = None  # the key on the first chart of the current layout

    def open(self) -> None:
        """Start a fit."""
        self._drawn, self._started, self._spent, self._told = None, time.perf_counter(), 0.0, set()
        self._monitored = None

    def update(
        self, trainer: Trainer, history: Sequence[ProbeResult], metrics: Mapping[str, float], monitored: str, step: int
    ) -> None:
        """Log a new probe: charts of its keys, its error band, and figures unless drawing takes too much time.

        Args:
            trainer: with the loggers.
            history: all probes, the new one last.
            metrics: its values by logged key.
            monitored: the key to monitor among them.
            step: of the probe, on the loggers' axis.
        """
        self._step, before, self._monitored = step, self._monitored, monitored
        for logger in _of_first_process(trainer):
            if isinstance(logger, lightning_classes("loggers.TensorBoardLogger")):
                if monitored != before:
                    with self._spared("charts"):
                        self._lay_out(logger, metrics, monitored)
                with self._spared("band"):
                    value, error = metrics[monitored], metrics.get(f"{monitored}_se", 0.0)
                    for side, sign in (("low", -1), ("high", 1)):
                        logger.experiment.add_scalar(self._band(monitored, side), value + sign * error, step)
        elapsed = time.perf_counter() - self._started
        if self._drawn is None or self._spent <= SHARE * elapsed:
            self._draw(trainer, history)

    def close(self, trainer: Trainer, history: Sequence[ProbeResult]) -> None:
        """Draw the figures of the last probe, if they were skipped."""
        if self._drawn not in (None, self._step):
            self._draw(trainer, history)

    def _band(self, key: str, side: str) -> str:
        return f"{self.prefix}{BAND}/{key.partition('/')[2]}_{side}"

    def _lay_out(self, logger: Any, metrics: Mapping[str, float], monitored: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # In a separate folder: TensorBoard shows one layout per run, and that of the run itself may be the user's.
        # A later layout in the folder replaces an earlier one.
        with SummaryWriter(os.path.join(logger.log_dir, f"{self.prefix}_charts")) as writer:
            writer.add_custom_scalars(self._layout(metrics, monitored))

    def _layout(self, metrics: Mapping[str, float], monitored: str) -> dict[str, dict[str, list[Any]]]:
        """Charts of TensorBoard's page "Custom scalars": title, kind, and keys.

        TensorBoard draws all lines of a run in one color, so each chart has a single line.
        """
        titles = {key: CHARTS[name] for key in metrics if (name := name_of(key, self.prefix)) in CHARTS}
        band = [monitored, *(self._band(monitored, side) for side in ("low", "high"))]
        return {
            self.prefix: {f"{titles.pop(monitored)} (± 1 standard error)": ["Margin", band]},
            f"{self.prefix}: other values": {title: _line(key) for key, title in titles.items()},
            f"{self.prefix}: task scores": {
                task: _line(key) for key in metrics if (task := key.removeprefix(f"{self.prefix}{TASKS}/")) != key
            },
        }

    def _draw(self, trainer: Trainer, history: Sequence[ProbeResult]) -> None:
        kinds = lightning_classes(*SHOWS_FIGURES)
        loggers = [logger for logger in _of_first_process(trainer) if isinstance(logger, kinds)]
        step = self._drawn = self._step
        start = time.perf_counter()
        with self._spared("figures"):
            if loggers and history[-1].tasks and find_spec("matplotlib"):
                from synbench_lightning import plots

                figures = {
                    "curve": plots.robustness_accuracy_figure(history[-1], threshold=self.threshold),
                    "scales": plots.scale_figure(history[-1]),
                    "task_map": plots.task_map_figure(history, threshold=self.threshold),
                }
                if history[-1].layers:
                    figures["layers"] = plots.layer_map_figure(history)
                images = {name: plots.pixels(figure) for name, figure in figures.items()}
                for logger in loggers:
                    with self._spared(f"figures for {type(logger).__name__}"):
                        self._show(logger, figures, images, step)
        self._spent += time.perf_counter() - start

    def _show(self, logger: Any, figures: Mapping[str, Any], images: Mapping[str, Any], step: int) -> None:
        for name, image in images.items():
            key = f"{self.prefix}{FIGURES}/{name}"
            if isinstance(logger, lightning_classes("loggers.TensorBoardLogger")):
                logger.experiment.add_image(key, image, step, dataformats="HWC")
            elif isinstance(logger, lightning_classes("loggers.WandbLogger")):
                logger.log_image(key, [image], step)
            else:
                logger.experiment.log_figure(logger.run_id, figures[name], f"{key}/step_{step:08d}.svg")

    @contextmanager
    def _spared(self, what: str) -> Iterator[None]:
        """Catch any exception inside, and report the first one of each kind."""
        try:
            yield
        except Exception as error:
            if what not in self._told:
                self._told.add(what)
                rank_zero_warn(
                    f"The {what} of {self.prefix} could not be logged and are skipped; training continues. "
                    f"{type(error).__name__}: {error}"
                )


SHOWS_FIGURES = ("loggers.TensorBoardLogger", "loggers.WandbLogger", "loggers.MLFlowLogger")


def _of_first_process(trainer: Trainer) -> list[Any]:
    return list(trainer.loggers) if trainer.is_global_zero else []


CHARTS = {
    "information": "information about the input (nats)",
    "readout": "readout of held-out labels (R²)",
    "score": "SynBench score",
    "worst": "worst-task score",
    "effective_rank": "effective rank of the features",
    "overhead": "fraction of training time in probes",
}
"""Titles of the charts, by name of the value."""


def _line(key: str) -> list[Any]:
    return ["Multiline", [f"^{re.escape(key)}$"]]
