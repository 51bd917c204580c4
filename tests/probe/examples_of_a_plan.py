"""The examples that `evaluate` shows an encoder, and their features, for tests that make the score from features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from synbench_lightning.probe.families import task_family
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.proxy_samples import ProxySamples

SHAPE = (12,)


def encoder() -> nn.Module:
    """A small encoder that loses something."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(12, 10), nn.ReLU())


def encoded(plan: ProbePlan) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Features ``(N, D)``, labels ``(N,)`` and scale of every cell of the task dc, in the order of `evaluate`."""
    model = encoder()
    samples = ProxySamples(task_family("dc", SHAPE), plan, normalize=None, seed=0, device=torch.device("cpu"))
    for cell in samples.cells:
        found, labels = [], []
        for block in samples.examples([cell]).blocks:
            examples = torch.empty(plan.signs * block.vectors, *SHAPE)
            samples.write(block, examples)
            with torch.no_grad():
                found.append(model(examples))
            signs = samples.signs[block.first : block.first + block.vectors]
            labels.append((signs > 0).long() if plan.signs == 1 else torch.tensor([1, 0]).repeat_interleave(len(signs)))
        yield torch.cat(found), torch.cat(labels), plan.scales[cell[1]]
