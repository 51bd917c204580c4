"""What one process of a distributed run does: train, and write down what it saw. Started by torchrun."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything, strategies
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import BenchmarkCallback, ProbePlan
from tests.callbacks.runs import SMALL, probing, trainer
from tests.distributed.leaving import leave
from tests.encoders import Autoencoder
from tests.integration import user_inputs, user_wrappers
from tests.integration.user_modules import Foreign, patches, transformer

HAS_FSDP = hasattr(strategies, "ModelParallelStrategy")
"""FSDP2, and FSDP1 on a CPU: since Lightning 2.3."""
PARTS = {"all": ["encoder", "decoder", ""], "children": ["encoder", "decoder"], "root": [""]}


class Sharded(Autoencoder):
    """FSDP2: encoder and decoder sharded, or the root, or all of them."""

    def __init__(self, parts: str) -> None:
        super().__init__()
        self.parts = parts

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        if not any(isinstance(module, FSDPModule) for module in self.modules()):
            for part in PARTS[self.parts]:
                fully_shard(self.get_submodule(part), mesh=mesh)

    def forward(self, x: Tensor) -> Tensor:
        reconstruction: Tensor = self.decoder(self.encoder(x))
        return reconstruction

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self(batch[0]), batch[0].flatten(1))


class FSDP1OnCPU(FSDPStrategy):
    """FSDP1 without a GPU: torch can, if the device is said; Lightning asks for a GPU of its own class only."""

    def _setup_model(self, model: nn.Module) -> nn.Module:
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"), **self.kwargs)


class Weights(Callback):
    """The whole weights at the end of training."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        fsdp1 = isinstance(trainer.strategy.model, FullyShardedDataParallel)
        whole = FullyShardedDataParallel.summon_full_params(trainer.strategy.model) if fsdp1 else nullcontext()
        with whole:
            named = [*pl_module.named_parameters(), *pl_module.named_buffers()]
            self.found = {name: full(value.detach()).tolist() for name, value in named}


class Skipping(Autoencoder):
    """Steps its optimizer by itself, and on the second process in every other batch only."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        if self.global_rank == 0 or batch_idx % 2:
            optimizer.step()


class Noised(Autoencoder):
    """Adds noise in its step, from a generator that each process has another one of."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not hasattr(self, "generator"):
            self.generator = torch.Generator().manual_seed(self.global_rank)
        x = batch[0] + 0.3 * torch.randn(batch[0].shape, generator=self.generator)
        return super().training_step([x], batch_idx)


class Lengths(Foreign):
    """Sequences, longer on the second process: what its encoder is given has another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = transformer()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens = patches(batch[0]).repeat(1, 1 + self.global_rank, 1)
        loss: Tensor = self.encoder(tokens).square().mean()
        return loss


def labelled() -> dict[str, Any]:
    """Two questions about images, 73 points each beside 40 that are support."""
    x = torch.randn(113, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return {
        "side": TensorDataset(x, (x[..., :4].mean((1, 2, 3)) > 0).long()),
        "none": TensorDataset(x, torch.arange(113) % 2),
    }


def full(value: Tensor) -> Tensor:
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # type: ignore[no-any-return]


def count(model: Any, encoder: nn.Module, _: Any, features: Tensor) -> Tensor:
    """Scale features by a growing factor, which is part of no buffer."""
    encoder.calls = getattr(encoder, "calls", [])  # type: ignore[assignment]
    encoder.calls.append(1)  # type: ignore[union-attr, operator]
    model.trainer.calls = getattr(model.trainer, "calls", 0) + 1
    return features * (1 + 1e-2 * (len(encoder.calls) + model.trainer.calls))  # type: ignore[arg-type]


def train(
    folder: str,
    world: int,
    sharded: str | None = None,
    fails_on: int | None = None,
    fails_at: int = 10,
    on_error: str = "warn",
    forwards: int = SMALL.forwards,
    num_scales: int = SMALL.num_scales,
    probes: bool = True,
    skipping: bool = False,
    benchmark: bool = False,
    inputs: bool = False,
    accelerator: str = "cpu",
    lengths_differ: bool = False,
    user: str | None = None,
    inner: bool = False,
    counting: bool = False,
) -> None:
    """Train an autoencoder; with ``fails_on`` the encoder raises on that rank at step ``fails_at``.

    With ``benchmark`` a benchmark is evaluated in place of the score; with ``inputs`` batches are larger, and
    information about the first one is measured. ``user`` names a module as users write them. With ``inner`` a layer
    of the encoder is probed; with ``counting`` its hook counts, in the module and in the trainer.
    """
    lengths: list[int] = []

    def encoder(module: Autoencoder, x: Tensor) -> Tensor:
        lengths.append(len(x))
        if module.global_rank == fails_on and module.trainer.global_step == fails_at:
            raise RuntimeError("out of luck")
        features: Tensor = module.encoder(x)
        return features

    seed_everything(0)
    kind: Any = Noised if inputs else Lengths if lengths_differ else Skipping if skipping else Autoencoder
    if user is not None:
        kind = getattr(user_inputs, user, None) or getattr(user_wrappers, user)
    model: Any = Sharded(sharded) if sharded in PARTS else kind()
    strategy: Any = "ddp"
    if sharded in PARTS:
        strategy = strategies.ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    elif sharded:
        of_lightning = FSDP1OnCPU if accelerator == "cpu" else FSDPStrategy
        strategy = of_lightning(auto_wrap_policy={nn.Linear} if sharded == "fsdp1, layers" else None)
    if counting:
        model.encoder.register_forward_hook(partial(count, model))
    plan = ProbePlan(forwards=forwards, num_scales=num_scales)
    through: Any = None if lengths_differ or inputs or user else "encoder" if sharded else encoder
    if inner:
        through = "encoder.1"
    callback: Any = probing(
        every=5,
        encoder=through,
        on_error=on_error,
        plan=plan,
        batch_size=32,
        inputs="auto" if inputs else None,
        input_shape=(64,) if inner else None,
    )
    if benchmark:
        callback = BenchmarkCallback(
            labelled(), 0.3, encoder=through, support=40, warmup=2, audit_every=1, audit=0.2, every_n_train_steps=5,
            batch_size=16, on_error=on_error,
        )  # fmt: skip
    logger = TensorBoardLogger(folder)
    weights = Weights()
    callbacks = [weights, callback] if probes else [weights]
    length: dict[str, Any] = {"max_steps": -1, "max_epochs": 3} if skipping else {"max_steps": 15}
    run = trainer(
        *callbacks, limit_train_batches=5, strategy=strategy, devices=world, logger=logger, accelerator=accelerator,
        **length,
    )  # fmt: skip
    start = time.monotonic()
    error = None
    try:
        dataset = model.train_dataloader().dataset
        run.fit(model, DataLoader(dataset, batch_size=40) if inputs else None)
    except Exception as failure:
        error = f"{type(failure).__name__}: {failure}"
    found = {
        "history": [result.to_dict() for result in callback.history],
        "monitored": {key: float(value) for key, value in run.callback_metrics.items()},
        "weights": weights.found if not error else {},
        "log_dir": logger.log_dir,
        "error": error,
        "seconds": time.monotonic() - start,
        "shown": sum(lengths),
    }
    (Path(folder) / f"rank{run.global_rank}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    train(**json.loads(sys.argv[1]))
