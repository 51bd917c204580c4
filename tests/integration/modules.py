"""LightningModules that are easy to disturb: each keeps something that a careless probe would change."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


class Plain(LightningModule):
    """Dropout and BatchNorm in an encoder, a head, Adam; remembers the order of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = nn.Sequential(
            nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8)
        )
        self.head = nn.Linear(8, 12)
        self.seen: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        self.seen.append(float(x.sum()))
        return self.loss(x)

    def loss(self, x: Tensor) -> Tensor:
        return nn.functional.mse_loss(self.head(self.encoder(x)), x)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        data = torch.randn(96, 12, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(data), batch_size=8, shuffle=True)


class FrozenParts(Plain):
    """A BatchNorm in evaluation mode, a frozen layer, and a `train` that keeps them so."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder[0].requires_grad_(False)  # type: ignore[index]
        self.train()

    def train(self, mode: bool = True) -> FrozenParts:
        super().train(mode)
        self.encoder[1].eval()  # type: ignore[index]
        return self


class RandomAugmentation(Plain):
    """Draws from torch's global generator in each step."""

    def loss(self, x: Tensor) -> Tensor:
        return super().loss(x + 0.1 * torch.randn_like(x) * float(torch.rand(())))


class TwoOptimizers(Plain):
    """Manual optimization of encoder and head in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            loss = super().training_step(batch, batch_idx)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.encoder.parameters()), torch.optim.SGD(self.head.parameters(), lr=0.1)


class InBackward(Plain):
    """Each parameter has an optimizer of its own, unknown to Lightning, that steps once its gradient is there."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.optimizer_of = {one: torch.optim.Adam([one], lr=1e-2) for one in self.parameters()}
        for one in self.parameters():
            one.register_post_accumulate_grad_hook(self.step)

    def step(self, parameter: Tensor) -> None:
        self.optimizer_of[parameter].step()  # type: ignore[index]
        self.optimizer_of[parameter].zero_grad()  # type: ignore[index]

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        self.manual_backward(super().training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return []


class Teacher(Plain):
    """A teacher that is an average of the student, its target, updated after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.encoder).requires_grad_(False)

    def loss(self, x: Tensor) -> Tensor:
        return super().loss(x) + nn.functional.mse_loss(self.encoder(x), self.teacher(x))

    def on_train_batch_end(self, *_: Any) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            slow.data.lerp_(fast.data, 0.1)


class Compiled(Plain):
    """A compiled encoder (with a backend that needs no compiler)."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = 0

        def backend(graph: Any, _: Any) -> Any:
            self.graphs += 1
            return graph.forward

        torch._dynamo.reset()
        self.encoder = torch.compile(self.encoder, backend=backend)  # type: ignore[assignment]


class Checkpointed(Plain):
    """Activations are computed again in the backward pass, with the random state of the forward."""

    def loss(self, x: Tensor) -> Tensor:
        hidden: Tensor = checkpoint(self.encoder, x, use_reentrant=False)
        return nn.functional.mse_loss(self.head(hidden), x)


class Hooked(Plain):
    """A forward hook that counts in a buffer, and one whose noise is part of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.register_buffer("calls", torch.zeros(()))
        self.encoder.register_forward_hook(self.count)

    @staticmethod
    def count(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        module.calls += 1  # type: ignore[operator]
        return output + 0.01 * torch.randn_like(output) * module.calls  # type: ignore[operator]


class Lazy(Plain):
    """A lazy layer that was initialised before the fit."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.LazyBatchNorm1d(), nn.Linear(16, 8))
        self.encoder(torch.zeros(2, 12))


class Workers(Plain):
    """A shuffling DataLoader with worker processes."""

    def train_dataloader(self) -> DataLoader[Any]:
        dataset = super().train_dataloader().dataset
        return DataLoader(dataset, batch_size=8, shuffle=True, num_workers=1, persistent_workers=True)


class Queue(Plain):
    """A queue of earlier features in a buffer, replaced by assignment in the encoder's forward (as in MoCo)."""

    def __init__(self) -> None:
        super().__init__()
        inner = self.encoder

        class Queued(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner
                self.register_buffer("queue", torch.zeros(4, 8))

            def forward(self, x: Tensor) -> Tensor:
                z: Tensor = self.inner(x)
                self.queue = torch.cat([z[:1].detach(), self.queue])[:4]
                return z + 0.1 * self.queue.mean(0)

        self.encoder = Queued()


class PlainState(Plain):
    """State that is no buffer: own generators, a counter, a queue, a cache, a buffer made in the first forward."""

    def __init__(self) -> None:
        super().__init__()
        inner = self.encoder

        class Stateful(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner
                self.generator = torch.Generator().manual_seed(0)
                self.numpy = np.random.default_rng(0)
                self.steps = 0
                self.queue = torch.zeros(8)
                self.cache: dict[str, Tensor] = {}
                self.history: list[float] = []
                self.register_buffer("unset", None)

            def forward(self, x: Tensor) -> Tensor:
                self.steps += 1
                self.cache.setdefault("table", torch.rand(8))
                if not hasattr(self, "centre"):
                    self.register_buffer("centre", x.mean())
                z: Tensor = self.inner(x)
                self.queue = 0.9 * self.queue + 0.1 * z.mean(0).detach()
                self.queue += 0.01
                self.unset = self.queue.clone()
                self.history.append(float(z.detach().mean()))
                noise = torch.rand(8, generator=self.generator) * float(self.numpy.random())
                scale = 1 + 0.001 * self.steps + 0.001 * len(self.history)
                return scale * z + noise + self.queue + self.cache["table"] + self.centre

        self.encoder = Stateful()


class Containers(Plain):
    """State in containers, in an object of its own class, in a module that is not registered, and in a closure."""

    def __init__(self) -> None:
        super().__init__()
        inner = self.encoder

        class Statistics:
            def __init__(self) -> None:
                self.mean, self.calls = torch.zeros(8), [0]

        class Containing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner
                self.means = deque([torch.zeros(8)], maxlen=4)
                self.nested = {"running": [{"mean": torch.zeros(8)}]}
                self.array = np.zeros(8)
                self.old_generator = np.random.RandomState(0)
                self.statistics = Statistics()
                self.outside = [nn.BatchNorm1d(8)]
                self.adjacency = torch.eye(8).to_sparse()
                self.ticks = _ticking()

            def forward(self, x: Tensor) -> Tensor:
                z: Tensor = self.outside[0](self.inner(x))
                mean = z.detach().mean(0)
                self.means.append(mean)
                self.nested["running"][0]["mean"].lerp_(mean, 0.1)
                self.array += mean.numpy()
                self.statistics.mean += mean
                self.statistics.calls[0] += 1
                kept = [*self.means, self.nested["running"][0]["mean"], torch.from_numpy(self.array).float()]
                noise = float(self.old_generator.rand()) + 0.001 * self.ticks() + 0.001 * self.statistics.calls[0]
                mixed: Tensor = torch.sparse.mm(self.adjacency, z.T).T
                return mixed + 0.1 * torch.stack(kept).mean(0) + 0.1 * self.statistics.mean + 0.01 * noise

        self.encoder = Containing()


def _ticking() -> Any:
    ticks = 0

    def tick() -> int:
        nonlocal ticks
        ticks += 1
        return ticks

    return tick


class Written(Plain):
    """A forward that writes parameters: max-norm, a clamp, prototypes that move, and values from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        inner = self.encoder

        class Writing(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner
                self.prototypes = nn.Parameter(torch.zeros(4, 8), requires_grad=False)
                self.shift = nn.Parameter(torch.zeros(8))
                self.steps = 0

            def forward(self, x: Tensor) -> Tensor:
                weight = self.inner[0].weight
                weight.data = torch.renorm(weight.data, 2, 0, 0.5)
                self.inner[4].weight.data.clamp_(-0.2, 0.2)
                z: Tensor = self.inner(x)
                if self.steps == 0:
                    self.shift.data.copy_(-z.detach().mean(0))
                if self.steps > 10:  # later than the first probes
                    self.prototypes.lerp_(z.detach()[:4], 0.1)
                self.steps += 1
                return z + self.shift + self.prototypes.mean(0)

        self.encoder = Writing()


class Pruned(Plain):
    """Pruned weights, whose hook leaves them in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.prune()

    def prune(self) -> None:
        prune.l1_unstructured(self.encoder[0], "weight", amount=0.1)  # type: ignore[index]

    def on_train_epoch_end(self) -> None:
        self.prune()
