"""Hand figures to the loggers that have a call for them."""

from __future__ import annotations

from importlib.util import find_spec

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from synbench_lightning.result import ProbeResult


def log_figure(trainer: Trainer, key: str, result: ProbeResult, threshold: float, step: int) -> None:
    """Draw the robustness-accuracy curve of a result into every TensorBoard logger, on the first process."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    if not (loggers and trainer.is_global_zero and find_spec("matplotlib")):
        return
    from synbench_lightning.plots import pixels

    try:
        image = pixels(result.plot(threshold=threshold))
        for logger in loggers:
            logger.experiment.add_image(key, image, step, dataformats="HWC")
    except Exception as error:  # a picture is not worth a run
        rank_zero_warn(f"The figure {key} could not be drawn: {type(error).__name__}: {error}")
