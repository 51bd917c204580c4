"""State of the run that a user's code reaches from the model: data sets, data modules, samplers, the trainer."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset, Sampler

from synbench_lightning.runtime.lightning_packages import lightning_classes, trainer_of
from synbench_lightning.runtime.named_in_code import MISSING

OF_THE_RUN = (Dataset, DataLoader, Sampler, Optimizer, LRScheduler)
OF_LIGHTNING = ("lightning.", "pytorch_lightning.", "lightning_fabric.")
COPY_BYTES = 2**24  # mutants: memory and time alone
"""Tensors and arrays that the run holds are copied up to this size."""
MOST_ELEMENTS = 1_000  # mutants: memory and time alone
"""Elements of containers with this many or more that the run holds are not followed."""
PROPERTIES = {"datamodule", "train_dataloader", "val_dataloaders", "strategy", "optimizers"}
"""Properties of a trainer that can be read without an effect."""


def belongs_to_run(value: Any) -> bool:
    """Whether an object belongs to the run rather than to the model; of these, what code names is restored."""
    if isinstance(value, (*OF_THE_RUN, *lightning_classes("LightningDataModule", "Trainer"))):
        return True
    return f"{type(value).__module__}.".startswith(OF_LIGHTNING)


def named_attributes(value: Any, names: Set[str]) -> dict[str, Any]:
    """The attributes of an object of the run with one of these names; `MISSING` for those that it does not have.

    A scheduler is small, and its ``step`` changes all that it holds: of it, all attributes count as named.
    """
    attributes = getattr(value, "__dict__", {})
    if isinstance(value, LRScheduler):
        names = names | attributes.keys()
    return {name: attributes.get(name, MISSING) for name in names}


def behind_trainer(trainer: Any, names: Set[str]) -> Iterator[tuple[str, Any]]:
    """What code that has these names reaches by the properties of a trainer."""
    yield from ((name, getattr(trainer, name, None)) for name in sorted(names & PROPERTIES))
    if names & {"lr_schedulers", "lr_scheduler_configs"}:
        yield from (("lr_schedulers", config.scheduler) for config in trainer.lr_scheduler_configs)


def packages_of_run(module: Any) -> set[str]:
    """The packages that the module in training, its datamodule and its callbacks come from; none outside a fit."""
    trainer: Any = trainer_of(module)
    owners = () if trainer is None else (module, getattr(trainer, "datamodule", None), *trainer.callbacks)
    return {type(one).__module__.partition(".")[0] for one in owners}
