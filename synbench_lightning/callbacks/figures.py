"""Hand figures to the loggers that have a call for them."""

from __future__ import annotations

from importlib.util import find_spec

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from synbench_lightning.result import ProbeResult


def log_figure(trainer: Trainer, key: str, result: ProbeResult, threshold: float, step: int) -> None:
    """Draw the robustness-accuracy curve of a result into every TensorBoard logger, on the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not (loggers and trainer.is_global_zero and find_spec("matplotlib")):
        return
    from synbench_lightning.plots import pixels

    image = pixels(result.plot(threshold=threshold))
    for logger in loggers:
        logger.experiment.add_image(key, image, step, dataformats="HWC")
