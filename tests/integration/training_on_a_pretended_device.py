"""A fit with both callbacks on a device without float64, which prints what it found; the test runs it by itself."""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from synbench_lightning import (
    BenchmarkCallback,
    LabelledTask,
    ProbePlan,
    SynBenchCallback,
    SynBenchScore,
    TaskRobustLoss,
    evaluate,
    labelled_proxies,
    task_family,
)
from tests.encoders import Autoencoder
from tests.integration import pretended_device


class Pretended(Accelerator):
    """The accelerator of the device, as Lightning wants it."""

    def setup_device(self, device: torch.device) -> None:
        pass

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        return {}

    def teardown(self) -> None:
        pass

    @staticmethod
    def parse_devices(devices: Any) -> Any:
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> Any:
        return [pretended_device.DEVICE]

    @staticmethod
    def auto_device_count() -> int:
        return 1

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def name() -> str:
        return pretended_device.NAME


class Where(Callback):
    """Sees on which device the model is while it trains."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.device = pl_module.device.type


def fit(probed: bool, dropout: float = 0.2, on_device: bool = True) -> dict[str, Any]:
    """Weights and results of a short training."""
    seed_everything(0)
    pretended_device.backend.manual_seed(3)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 1, 8, 8, generator=generator)
    labelled = LabelledTask("sign", x, (x[:, 0, 0, 0] > 0).long())
    synbench = SynBenchCallback(
        tasks=[*task_family("dc", (1, 8, 8)), labelled], plan=ProbePlan(forwards=1024), inputs=x, batch_size=128,
        every_n_train_steps=2, normalize=(0.5, 1.0),
    )  # fmt: skip
    benchmark = BenchmarkCallback(
        labelled_proxies("dc", (1, 8, 8), (1.0,), 128), support=40, warmup=1, budget=0.5, every_n_train_steps=2
    )
    where = Where()
    strategy = SingleDeviceStrategy(accelerator=Pretended(), device=pretended_device.DEVICE) if on_device else "auto"
    trainer = Trainer(
        max_steps=4, strategy=strategy, callbacks=[where, synbench, benchmark] if probed else [where], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        **({} if on_device else {"accelerator": "cpu"}),
    )  # fmt: skip
    model = Autoencoder()
    model.encoder[4].p = dropout
    trainer.fit(model)
    return {
        "weights": [parameter.detach().cpu().flatten().tolist() for parameter in model.parameters()],
        "device": where.device,
        "scores": [result.score(threshold=0.7) for result in synbench.history],
        "information": [result.information for result in synbench.history],
        "benchmark": [result.value for result in benchmark.history],
        "generator": pretended_device.backend.get_rng_state().tolist(),
    }


def transfers(forwards: int, batch_size: int) -> int:
    """How often a probe waits for the device."""
    encoder = Autoencoder().encoder.to(pretended_device.NAME)
    plan = ProbePlan(forwards=forwards)
    pretended_device.synchronised.clear()
    evaluate(encoder, (1, 8, 8), plan=plan, batch_size=batch_size, device=pretended_device.DEVICE)
    return len(pretended_device.synchronised)


def metric(device: str = pretended_device.NAME) -> dict[str, Any]:
    """The metric on the device."""
    plan = ProbePlan(num_scales=8)
    found, generator = SynBenchScore(plan=plan).to(device), torch.Generator().manual_seed(0)
    labels = torch.tensor([1] * 256 + [0] * 256)
    for scale in plan.scales:
        noise = torch.randn(256, 16, generator=generator).repeat(2, 1)
        features = noise + scale * (2 * labels[:, None] - 1) / 4
        found.update(features.to(device), labels.to(device), scale)
    value = found.compute()
    return {"value": value.item(), "device": value.device.type}


def loss(device: str = pretended_device.NAME) -> list[float]:
    """The gradient of the robust loss on the device."""
    losses = torch.tensor([0.9, 1.0, 1.1]).to(device).requires_grad_()
    TaskRobustLoss(3).to(device)(losses).backward()
    return [] if losses.grad is None else losses.grad.cpu().tolist()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with pretended_device.machine():
        answer: dict[str, Any] = {
            "probed": fit(True), "alone": fit(False), "without_dropout": fit(True, dropout=0),
            "transfers": [transfers(2048, 512), transfers(2048, 32)], "metric": metric(), "loss": loss(),
        }  # fmt: skip
    answer["cpu"] = fit(True, dropout=0, on_device=False)
    answer["metric_on_cpu"], answer["loss_on_cpu"] = metric("cpu"), loss("cpu")
    json.dump(answer, sys.stdout)
