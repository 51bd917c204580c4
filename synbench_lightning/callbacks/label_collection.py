"""Collect held-out labels from the run itself: the classes in the batches of its validation loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from synbench_lightning.callbacks.reread_views import READ_SECONDS, kept
from synbench_lightning.checks import is_integer
from synbench_lightning.probe.labelled_inputs import FEWEST_LABELLED, MOST_LABELLED
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import TrainingExamples, UnreadableError, seed_of
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.step_replay import NotReachedError, StepReplay
from synbench_lightning.runtime.structures import Path, joined, leaves, mapped, taken

BATCH = 128  # mutants: memory and time alone
"""Examples read in one batch."""


class HeldOutLabels(NamedTuple):
    """Encoder inputs and their labels, or ``None``; ``sentence`` describes them or says why there are none."""

    pair: tuple[Any, Tensor] | None
    sentence: str


def held_out_labels(
    trainer: Trainer, pl_module: LightningModule, call: EncoderCall | None, shape: Sequence[int] | None, seed: int
) -> HeldOutLabels:
    """Up to 512 labelled examples of the first validation loader, the same on every process.

    Labels are the first integers in a batch, one per example, that repeat. Inputs are those of the encoder in the
    validation step, or in the training step if the validation step does not call it. Labels of training examples are
    never used: they would reward a network that memorizes them.

    Args:
        trainer: in a fit.
        pl_module: that it trains.
        call: the encoder's; ``None`` where it was not observed.
        shape: of the input, where it was not.
        seed: of the selection of examples.
    """
    loaders: Any = trainer.val_dataloaders
    if isinstance(loaders, (list, tuple)):
        loaders = loaders[0] if loaders else None
    if loaders is None:
        return HeldOutLabels(None, "there is no validation loader")
    own = None if shape is None else tuple(shape)
    reason = ""
    for step in ("validation_step", "training_step"):
        try:
            inputs, labels, path = _read(trainer, StepReplay(trainer, pl_module, call, own, step), loaders, seed)
        except (UnreadableError, NotReachedError, ValueError) as error:
            reason = reason or str(error)
            continue
        name = "batch" + "".join(f"[{key!r}]" for key in path)
        sentence = f"{len(labels)} held-out examples of the validation loader, with `{name}` for labels"
        return HeldOutLabels((inputs, labels), f"{sentence} ({len(labels.unique())} classes)")
    return HeldOutLabels(None, f"the validation loader has none: {reason}")


def _read(trainer: Trainer, replay: StepReplay, loader: Any, seed: int) -> tuple[Any, Tensor, Path]:
    batches = trainer.strategy.broadcast(_batches(loader, seed) if trainer.is_global_zero else None)
    if isinstance(batches, str):
        raise UnreadableError(batches)
    assert batches is not None
    read, found, path = [], list[Tensor](), None
    with replay.ready():
        for number, batch in enumerate(batches):
            path = _label_path(batch) if path is None else path
            labels = None if path is None else dict(leaves(batch)).get(path)
            inputs = replay.everywhere(batch, seed_of(seed, number))
            if labels is None or num_examples(inputs) != len(labels):
                raise NotReachedError("the number of encoder inputs differs from the number of labels")
            read.append(mapped(inputs, kept))
            found.append(labels.detach().cpu())
    whole, labels = joined(read), torch.cat(found)
    if whole is None or path is None or len(labels) < FEWEST_LABELLED:
        raise UnreadableError(f"{len(labels)} labelled examples of one shape, at least {FEWEST_LABELLED} are needed")
    rows = torch.arange(min(len(labels), MOST_LABELLED))
    return taken(whole, rows, len(labels)), labels[rows], path


def _batches(loader: Any, seed: int) -> list[Any] | str:
    """Batches of validation examples, read in a separate process, or the reason why they cannot be read."""
    try:
        examples = TrainingExamples(loader, seed)
        chunks = examples.chunks(MOST_LABELLED, whole=True)[:1]
        (indices,) = chunks[0]
        parts = [[indices[start : start + BATCH]] for start in range(0, len(indices), BATCH)]
        found = examples.read(parts, ((0, part) for part in range(len(parts))), READ_SECONDS)
        return [read.batch for read in found if read.batch is not None] or "they take too long to read"
    except UnreadableError as error:
        return str(error)


def _label_path(batch: Any) -> Path | None:
    """The path to the first integers ``(N,)`` in a batch that repeat; ``None`` if there are none."""
    for path, leaf in leaves(batch):
        whole = is_integer(leaf)
        if leaf.ndim == 1 and whole and 2 <= len(leaf.unique()) <= len(leaf) / 2:
            return path
    return None
