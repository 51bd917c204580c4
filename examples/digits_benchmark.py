"""A benchmark of seven labelled tasks, evaluated in full while a small encoder is pretrained on scanned digits.

What `hill_climb_digits.py` judges its methods on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from pretrain_digits import SimCLR, TwoViews, standardize
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from synbench_lightning import ProbeResult, SynBenchCallback
from synbench_lightning.functional.dynamics import task_curves
from synbench_lightning.functional.readout import class_log_probabilities

CHECKPOINTS, EVERY, BATCH_SIZE, SUPPORT = 40, 25, 64, 100


class Task(NamedTuple):
    """Labelled images ``(n, 1, 8, 8)``: a support set for the readout, and the points of the benchmark."""

    support: Tensor
    support_labels: Tensor
    images: Tensor
    labels: Tensor


def benchmark(images: Tensor, digits: Tensor, held_out: Tensor) -> dict[str, Task]:
    """Five questions about the digits that pretraining did not see, and two tasks that have nothing to do with them."""
    labels = {
        "digit": digits,
        "parity": digits % 2,
        "size": (digits >= 5).long(),  # small or large
        "loops": torch.isin(digits, torch.tensor([0, 6, 8, 9])).long(),  # a closed line, or none
        "writer": (torch.arange(len(digits)) >= len(digits) // 2).long(),  # the file goes from writer to writer
    }
    rng = np.random.default_rng(0)
    few, many = held_out[:300], held_out[300:]
    tasks = {}
    for name, label in labels.items():
        support = torch.from_numpy(rng.choice(few.numpy(), SUPPORT, replace=False))
        tasks[name] = Task(images[support], label[support], images[many], label[many])
    for name, (x, label) in (("photo", photos(rng)), ("tumour", tumours())):
        order = torch.from_numpy(rng.permutation(len(x)))
        support, many = order[:SUPPORT], order[SUPPORT:]
        tasks[name] = Task(x[support], label[support], x[many], label[many])
    return tasks


def photos(rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Patches of scikit-learn's two photographs: which of them is it from?"""
    patches, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        grey = nn.functional.avg_pool2d(torch.tensor(photo).float().mean(2)[None, None] / 255, 2)[0, 0]
        windows = grey.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 1, 8, 8)
        patches.append(windows[torch.from_numpy(rng.choice(len(windows), 350, replace=False))])
        labels.append(torch.full((350,), label))
    return torch.cat(patches), torch.cat(labels)


def tumours() -> tuple[Tensor, Tensor]:
    """The thirty measurements of the breast cancer set, laid out as pixels: the encoder was not made for them."""
    found = load_breast_cancer()
    measures = torch.tensor((found.data - found.data.mean(0)) / found.data.std(0)).float()
    pixels = nn.functional.pad(measures, (0, 34)).reshape(-1, 1, 8, 8)
    return pixels * 0.376 + 0.305, torch.tensor(found.target)  # so that they are standardized like the digits


class Recorder(Callback):
    """Evaluates the whole benchmark at each checkpoint."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        self.tasks = tasks
        self.log_likelihoods: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.evaluate(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % EVERY == 0:
            self.evaluate(pl_module)

    @torch.no_grad()
    def evaluate(self, pl_module: LightningModule) -> None:
        pl_module.eval()
        found = []
        for task in self.tasks.values():
            support, features = (pl_module.encoder(standardize(x)) for x in (task.support, task.images))  # type: ignore[operator]
            log_probabilities = class_log_probabilities(support, task.support_labels, features)
            found.append(log_probabilities.gather(1, task.labels[:, None])[:, 0])
        self.log_likelihoods.append(torch.cat(found))
        pl_module.train()


@dataclass
class Run:
    """One pretraining run: the benchmark in full at each checkpoint, and the SynBench probes beside it."""

    curves: Tensor  # (T, n) log-likelihood of the right label
    tasks: Tensor  # (n,)
    labels: Tensor  # (n,)
    names: list[str]
    probes: list[ProbeResult]
    half: int = CHECKPOINTS // 2  # checkpoints to select on

    @property
    def truth(self) -> Tensor:
        """The benchmark at the later checkpoints."""
        return task_curves(self.curves, self.tasks)[self.half :].mean(1)


def pretrain(seed: int) -> Run:
    seed_everything(seed, verbose=False)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    target = torch.tensor(digits.target)
    train, held_out = train_test_split(torch.arange(len(target)), test_size=900, stratify=target, random_state=0)
    tasks = benchmark(images, target, held_out)
    dataset = TwoViews(images[train], target[train])
    steps = EVERY * (CHECKPOINTS - 1)
    sampler = RandomSampler(dataset, num_samples=steps * BATCH_SIZE)
    recorder, synbench = Recorder(tasks), SynBenchCallback(every_n_train_steps=EVERY)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[recorder, synbench], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(SimCLR(), DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler))
    sizes = torch.tensor([len(task.labels) for task in tasks.values()])
    return Run(
        torch.stack(recorder.log_likelihoods),
        torch.arange(len(tasks)).repeat_interleave(sizes),
        torch.cat([task.labels for task in tasks.values()]),
        list(tasks),
        synbench.history,
    )
