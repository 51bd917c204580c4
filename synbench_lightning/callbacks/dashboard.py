"""What a logger shows beside the points: figures, a page of charts, the score in the table of hyperparameters."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from lightning.fabric.utilities.logger import _convert_params, _flatten_dict
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.tensorboard.summary import hparams

from synbench_lightning.probe.result import ProbeResult

SHARE = 0.02
"""Figures between the first probe and the last one are left out while drawing them takes more of the time."""


class Dashboard:
    """The figures and charts of one callback's probes, on the first process.

    TensorBoard gets images, the charts and the table; Wandb and MLflow get the figures by their own calls; other
    loggers have none for figures, and nothing is said.

    Args:
        prefix: of the logged keys.
        threshold: threshold accuracy of the logged scores.
    """

    def __init__(self, prefix: str, threshold: float) -> None:
        self.prefix, self.threshold = prefix, threshold
        self._step = 0  # of the last probe, on the loggers' axis
        self._drawn: int | None = None  # and of the probe in the figures drawn last
        self._started = self._spent = 0.0

    def open(self, trainer: Trainer, pl_module: LightningModule, further: Mapping[str, Sequence[str]]) -> None:
        """Lay out the charts, and give the score a column in the table; the first of several callbacks does for all.

        They are given by their prefixes, with the keys ("information", "readout") that are logged beside the score.

        This comes before Lightning logs the hyperparameters: TensorBoard takes the first of several tables.
        """
        self._drawn, self._started, self._spent = None, time.perf_counter(), 0.0
        if self.prefix == next(iter(further)):
            try:
                self._lay_out(trainer, pl_module, further)
            except Exception as error:  # a page is not worth a run, and the table is written past Lightning's own call
                rank_zero_warn(f"The charts of {self.prefix} could not be laid out: {type(error).__name__}: {error}")

    def _lay_out(self, trainer: Trainer, pl_module: LightningModule, further: Mapping[str, Sequence[str]]) -> None:
        parameters: dict[str, Any] = {}
        for holder in (pl_module, getattr(trainer, "datamodule", None)):
            if holder is not None and holder._log_hyperparams:
                parameters |= holder.hparams_initial
        parameters.pop("_class_path", None)
        for logger in _of_first_process(trainer):
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(_layout(further))
                if parameters:
                    flat = logger._sanitize_params(_flatten_dict(_convert_params(parameters)))
                    metrics = [
                        *(f"{prefix}/score" for prefix in further),
                        *(f"{prefix}/{key}" for prefix, keys in further.items() for key in keys),
                        *(["hp_metric"] if logger._default_hp_metric else []),
                    ]
                    for summary in hparams(flat, dict.fromkeys(metrics, 0.0)):
                        logger.experiment._get_file_writer().add_summary(summary)

    def update(self, trainer: Trainer, history: Sequence[ProbeResult], metrics: Mapping[str, float], step: int) -> None:
        """Show a new probe: its band, and figures of it if they do not take too much of the time."""
        self._step, error = step, metrics.get(f"{self.prefix}/score_se", 0.0)
        for logger in _of_first_process(trainer):
            if isinstance(logger, TensorBoardLogger):
                for side, sign in (("low", -1), ("high", 1)):
                    score = metrics[f"{self.prefix}/score"]
                    logger.experiment.add_scalar(f"{self.prefix}_band/{side}", score + sign * error, step)
        elapsed = time.perf_counter() - self._started
        if self._drawn is None or self._spent <= SHARE * elapsed:
            self._draw(trainer, history)

    def close(self, trainer: Trainer, history: Sequence[ProbeResult]) -> None:
        """Figures of the last probe, where they were left out."""
        if self._drawn not in (None, self._step):
            self._draw(trainer, history)

    def _draw(self, trainer: Trainer, history: Sequence[ProbeResult]) -> None:
        loggers = [logger for logger in _of_first_process(trainer) if isinstance(logger, SHOWS_FIGURES)]
        step = self._drawn = self._step
        if not (loggers and find_spec("matplotlib")):
            return
        from synbench_lightning import plots

        start = time.perf_counter()
        try:
            figures = {
                "curve": plots.robustness_accuracy_figure(history[-1], threshold=self.threshold),
                "scales": plots.scale_figure(history[-1]),
                "task_map": plots.task_map_figure(history, threshold=self.threshold),
            }
            for name, figure in figures.items():
                image = plots.pixels(figure)
                for logger in loggers:
                    key = f"{self.prefix}/{name}"
                    if isinstance(logger, TensorBoardLogger):
                        logger.experiment.add_image(key, image, step, dataformats="HWC")
                    elif isinstance(logger, WandbLogger):
                        logger.log_image(key, [image], step)
                    elif isinstance(logger, MLFlowLogger):
                        logger.experiment.log_figure(logger.run_id, figure, f"{key}/step_{step:08d}.svg")
        except Exception as error:  # a picture is not worth a run
            rank_zero_warn(f"The figures of {self.prefix} could not be drawn: {type(error).__name__}: {error}")
        self._spent += time.perf_counter() - start


SHOWS_FIGURES = (TensorBoardLogger, WandbLogger, MLFlowLogger)


def _of_first_process(trainer: Trainer) -> list[Any]:
    return list(trainer.loggers) if trainer.is_global_zero else []


CHARTS = {"information": "information about inputs, nats", "readout": "readout of a few labels"}


def _layout(further: Mapping[str, Sequence[str]]) -> dict[str, dict[str, list[Any]]]:
    """Charts of TensorBoard's page "Custom scalars": the title, the kind, and regular expressions of the keys."""
    pages: dict[str, dict[str, list[Any]]] = {}
    for prefix, keys in further.items():
        # In a category of its own, since TensorBoard shows the charts with a margin after all others.
        band = [f"{prefix}/score", f"{prefix}_band/low", f"{prefix}_band/high"]
        pages[f"{prefix} score"] = {"score, ± 1 standard error": ["Margin", band]}
        pages[prefix] = {
            **{CHARTS[key]: ["Multiline", [f"{prefix}/{key}$"]] for key in keys},
            "worst case": ["Multiline", [f"{prefix}/{key}$" for key in ("worst", "smoothed_worst", "cvar", "mean")]],
            "tasks": ["Multiline", [f"{prefix}/task/.*"]],
            "robustness": ["Multiline", [f"{prefix}/score$", rf"{prefix}/score_eps_[\d.]+$"]],
            "effective rank": ["Multiline", [f"{prefix}/effective_rank$"]],
            "time in probes, as a share": ["Multiline", [f"{prefix}/overhead$"]],
        }
    return pages
