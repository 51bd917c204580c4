"""A benchmark of seven labelled tasks, evaluated in full while a small encoder is pretrained on scanned digits.

What `hill_climb_digits.py` judges its methods on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from pretrain_digits import MEAN, STD, SimCLR, TwoViews, standardize
from sklearn.datasets import load_breast_cancer, load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from synbench_lightning import BenchmarkCallback, ProbeResult, SynBenchCallback
from synbench_lightning.functional.benchmark.curve_correlation import task_curves

CHECKPOINTS, EVERY, BATCH_SIZE = 40, 25, 64


def benchmark(images: Tensor, digits: Tensor, held_out: Tensor) -> dict[str, TensorDataset]:
    """Five questions about the digits that pretraining did not see, and two tasks that have nothing to do with them."""
    labels = {
        "digit": digits,
        "parity": digits % 2,
        "size": (digits >= 5).long(),  # small or large
        "loops": torch.isin(digits, torch.tensor([0, 6, 8, 9])).long(),  # a closed line, or none
        "writer": (torch.arange(len(digits)) >= len(digits) // 2).long(),  # the file goes from writer to writer
    }
    tasks = {name: TensorDataset(standardize(images[held_out]), label[held_out]) for name, label in labels.items()}
    return {**tasks, "photo": photos(), "tumour": tumours()}


def photos() -> TensorDataset:
    """Patches of scikit-learn's two photographs: which of them is it from?"""
    rng = np.random.default_rng(0)
    patches, labels = [], []
    for label, photo in enumerate(load_sample_images().images):
        grey = nn.functional.avg_pool2d(torch.tensor(photo).float().mean(2)[None, None] / 255, 2)[0, 0]
        windows = grey.unfold(0, 8, 8).unfold(1, 8, 8).reshape(-1, 1, 8, 8)
        patches.append(windows[torch.from_numpy(rng.choice(len(windows), 350, replace=False))])
        labels.append(torch.full((350,), label))
    return TensorDataset(standardize(torch.cat(patches)), torch.cat(labels))


def tumours() -> TensorDataset:
    """The thirty measurements of the breast cancer set, laid out as pixels: the encoder was not made for them."""
    found = load_breast_cancer()
    measures = torch.tensor((found.data - found.data.mean(0)) / found.data.std(0)).float()
    pixels = nn.functional.pad(measures, (0, 34)).reshape(-1, 1, 8, 8)
    return TensorDataset(standardize(pixels * STD + MEAN), torch.tensor(found.target))


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
    seed_everything(seed)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    target = torch.tensor(digits.target)
    train, held_out = train_test_split(torch.arange(len(target)), test_size=900, stratify=target, random_state=0)
    tasks = benchmark(images, target, held_out)
    dataset = TwoViews(images[train], target[train])
    steps = EVERY * (CHECKPOINTS - 1)
    sampler = RandomSampler(dataset, num_samples=steps * BATCH_SIZE)
    # A warm-up that does not end: every point at every checkpoint, to have a truth to judge by.
    evaluated = BenchmarkCallback(tasks, warmup=CHECKPOINTS + 1, every_n_train_steps=EVERY)
    synbench = SynBenchCallback(every_n_train_steps=EVERY)
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[evaluated, synbench], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(SimCLR(), DataLoader(dataset, batch_size=BATCH_SIZE, sampler=sampler))
    points = evaluated.benchmark
    labels = torch.cat([tasks[name].tensors[1][points.indices[name]] for name in tasks])
    return Run(torch.stack(evaluated.curves).double(), points.tasks, labels, list(tasks), synbench.history)
