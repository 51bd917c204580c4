"""Short runs, and what they left in the event files."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synbench_lightning import ProbePlan, SynBenchCallback

SMALL = ProbePlan(forwards=768)


def probing(every: int = 5, **arguments: Any) -> SynBenchCallback:
    """A callback with a small plan, of the Gaussian tasks alone unless inputs are asked for."""
    chosen = {"plan": SMALL, "log_figures": False, "inputs": None, **arguments}
    return SynBenchCallback(every_n_train_steps=every, **chosen)


def trainer(*callbacks: Any, max_steps: int = 20, **arguments: Any) -> Trainer:
    """A quiet trainer on one CPU process, without logger and checkpoints unless asked for."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(callbacks=list(callbacks), max_steps=max_steps, **{**quiet, **arguments})


def curves(logger: TensorBoardLogger) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of every scalar in the event files of a logger."""
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def steps(callback: SynBenchCallback) -> list[int | None]:
    """The optimizer steps before each probe."""
    return [result.step for result in callback.history]
