"""Short runs with one of the two Lightning packages, in a process of their own; prints what they left, as JSON.

Arguments: the modules to import, in this order; the first Lightning package among them makes the runs. With "ddp" as
first argument, one process of a distributed run, which is started by torchrun.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

ddp, names = sys.argv[1] == "ddp", [name for name in sys.argv[1:] if name != "ddp"]
for name in names:
    importlib.import_module(name)
package = next(name for name in names if name in ("lightning.pytorch", "pytorch_lightning"))
pl: Any = sys.modules[package]

from synbench_lightning import (  # noqa: E402
    BenchmarkCallback,
    ProbePlan,
    SynBenchCallback,
    SynBenchEarlyStopping,
)
from synbench_lightning.callbacks import progress  # noqa: E402

SMALL = ProbePlan(forwards=768)


class Module(pl.LightningModule):  # type: ignore[misc,name-defined]
    """Dropout and BatchNorm in an encoder that is not found by its name."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(12, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 8)
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(8, 12)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.head(self.trunk(batch[0])), batch[0])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to be seen."""

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Any:
        data = torch.randn(80, 12, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(data), batch_size=8, shuffle=True)


def probing(**arguments: Any) -> SynBenchCallback:
    return SynBenchCallback(**{"every_n_train_steps": 5, "plan": SMALL, "log_figures": False, **arguments})


def fit(*callbacks: Any, ckpt_path: str | None = None, **arguments: Any) -> tuple[Any, list[str]]:
    """A trainer that has fitted a new module, and what was warned of."""
    quiet = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False,
        "enable_progress_bar": False, "enable_model_summary": False, "max_steps": 20, "num_sanity_val_steps": 0,
    }  # fmt: skip
    pl.seed_everything(0)
    trainer = pl.Trainer(callbacks=list(callbacks), **{**quiet, **arguments})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Module(), ckpt_path=ckpt_path)
    return trainer, [str(one.message) for one in caught if "prob" in str(one.message)]


def weights(trainer: Any) -> dict[str, Any]:
    return {name: value.tolist() for name, value in trainer.lightning_module.state_dict().items()}


def history(callback: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in one.to_dict().items() if key != "seconds"} for one in callback.history]


def monitored(trainer: Any) -> dict[str, float]:
    timed = ("/overhead", "/probe_seconds")
    return {key: float(value) for key, value in trainer.callback_metrics.items() if not key.endswith(timed)}


def worsening() -> SynBenchCallback:
    """Scores that never improve on the first."""

    def encoder(module: Any, x: Tensor) -> Tensor:
        noise = torch.randn(len(x), 4, generator=torch.Generator().manual_seed(0))
        return x[:, :4] + 0.1 * module.trainer.global_step * noise

    return probing(encoder=encoder, input_shape=(12,), tasks="dc")


def runs() -> dict[str, Any]:
    found: dict[str, Any] = {}
    callback = probing()
    saving = pl.callbacks.ModelCheckpoint("all", "{step}", every_n_train_steps=5, save_top_k=-1)
    whole, told = fit(callback, saving, enable_checkpointing=True)
    found["fit"] = {"history": history(callback), "monitored": monitored(whole), "told": told}
    found["weights"], found["weights without a callback"] = weights(whole), weights(fit()[0])

    resumed = probing()
    trainer, told = fit(resumed, ckpt_path="all/step=10.ckpt")
    found["resume"] = {"steps": [one.step for one in resumed.history], "first": history(resumed)[:3], "told": told}

    stop = SynBenchEarlyStopping(patience=2)
    trainer, told = fit(stop, worsening(), max_steps=60)
    found["SynBenchEarlyStopping"] = {"steps": trainer.global_step, "best": float(stop.best_score), "told": told}

    best = pl.callbacks.ModelCheckpoint("best", "{step}", "synbench/score", mode="max", every_n_train_steps=5)
    trainer, told = fit(worsening(), best, enable_checkpointing=True)
    found["ModelCheckpoint"] = {
        "kept": best.best_model_path.rpartition("/")[2], "score": float(best.best_model_score), "told": told
    }  # fmt: skip

    trainer, told = fit(probing(every_n_train_steps=15), pl.callbacks.EarlyStopping("synbench/score", mode="max"))
    found["EarlyStopping"] = told
    late = pl.callbacks.ModelCheckpoint(monitor="synbench/score", mode="max", every_n_train_steps=7)
    found["stale ModelCheckpoint"] = fit(probing(), late, enable_checkpointing=True)[1]
    averaging = getattr(pl.callbacks, "EMAWeightAveraging", None)  # since Lightning 2.6
    found["averaging"] = fit(probing(), averaging())[1] if averaging else None

    logger = pl.loggers.TensorBoardLogger("logs")
    fit(probing(log_figures=True), logger=logger, log_every_n_steps=1)
    found["TensorBoard"] = tags(logger.log_dir)

    progress.DELAY_SECONDS = 0.0
    for kind in ("TQDMProgressBar", "RichProgressBar"):
        with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(shown):
            fit(probing(), getattr(pl.callbacks, kind)(), enable_progress_bar=True)
        found[kind] = [title in shown.getvalue() for title in ("SynBench probe", "synbench:")]

    x = torch.randn(80, 12, generator=torch.Generator().manual_seed(1))
    tasks = {"sign": TensorDataset(x, (x[:, 0] > 0).long())}
    benchmark = BenchmarkCallback(tasks, 0.3, warmup=2, support=20, encoder="trunk", every_n_train_steps=5)
    fit(benchmark)
    found["BenchmarkCallback"] = history(benchmark)

    alone = probing()
    pl.Trainer(callbacks=alone, max_steps=1, logger=False, enable_checkpointing=False).fit(Module())
    found["a callback that is in no list"] = history(alone)
    found["LightningCLI"] = history(from_command_line())
    return found


def tags(folder: str) -> dict[str, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(folder)
    events.Reload()
    scores = [(event.step, event.value) for event in events.Scalars("synbench/score")]
    images = {tag: [event.step for event in events.Images(tag)][-1] for tag in events.Tags()["images"]}
    return {"scores": scores, "images": images, "scalars": events.Tags()["scalars"]}


def from_command_line() -> Any:
    cli = importlib.import_module(f"{package}.cli").LightningCLI(
        Module,
        args=[
            "fit", "--trainer.callbacks+=synbench_lightning.SynBenchCallback", "--trainer.callbacks.plan.forwards=768",
            "--trainer.callbacks.every_n_train_steps=5", "--trainer.max_steps=10", "--trainer.logger=false",
            "--trainer.accelerator=cpu", "--trainer.enable_checkpointing=false",
        ],
        save_config_callback=None,
        seed_everything_default=0,
    )  # fmt: skip
    return next(callback for callback in cli.trainer.callbacks if isinstance(callback, SynBenchCallback))


def distributed() -> dict[str, Any]:
    callback = probing()
    trainer, told = fit(callback, strategy="ddp", devices=2, max_steps=10)
    return {
        "rank": trainer.global_rank, "history": history(callback), "weights": weights(trainer), "told": told,
        "monitored": monitored(trainer),
    }  # fmt: skip


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = distributed() if ddp else runs()
    packages = ("lightning", "lightning_fabric", "pytorch_lightning")
    outcome["imported"] = [one for one in packages if one in sys.modules]
    with open(f"found{outcome.get('rank', '')}.json", "w") as file:
        json.dump(outcome, file)
