"""Hand figures to the loggers that have a call for them."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.imports import RequirementCache

from synbench_lightning.result import ProbeResult

_MATPLOTLIB = RequirementCache("matplotlib")


def log_figure(trainer: Trainer, key: str, result: ProbeResult, threshold: float, step: int) -> None:
    """Draw the robustness-accuracy curve of a result into every TensorBoard logger, on the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not (loggers and trainer.is_global_zero and _MATPLOTLIB):
        return
    from synbench_lightning.plots import pixels

    image = pixels(result.plot(threshold=threshold))
    for logger in loggers:
        logger.experiment.add_image(key, image, step, dataformats="HWC")
