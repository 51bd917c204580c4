"""Hooks on the encoder, whoever has registered them and whatever they fill, leave training as it is without probes."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.loggers import CSVLogger, Logger
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torchmetrics import MeanMetric

from tests.callbacks.runs import probing, steps, trainer
from tests.integration import modules
from tests.integration.test_training_unchanged import assert_identical

KEPT: deque[Tensor] = deque(maxlen=6)
CALLS = 0


class Reads(modules.Plain):
    """A step that mixes what somebody has kept of earlier features into its loss."""

    def kept(self) -> Any:
        return self.trainer.callbacks[0].kept  # type: ignore[attr-defined]

    def loss(self, x: Tensor) -> Tensor:
        loss = super().loss(x)
        for features in list(self.kept()):
            loss = loss + 0.1 * nn.functional.mse_loss(self.encoder(x).mean(0), features)
        return loss


class Recorder(Callback):
    """Keeps the last mean features and counts, through a hook of one kind or another."""

    of_class: ClassVar[list[float]] = []

    def __init__(self) -> None:
        self.kept: deque[Tensor] = deque(maxlen=6)
        self.calls, self.mean, self.handles = 0, MeanMetric(), list[Any]()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.handles = [self.register(trainer, pl_module)]

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        for handle in self.handles:
            handle.remove()

    def register(self, trainer: Any, pl_module: Any) -> Any:
        return pl_module.encoder.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, _: Any, output: Any) -> None:
        self.calls += 1
        self.of_class.append(float(output.detach().sum()))
        self.mean.update(output.detach())
        self.kept.append(output.detach().mean(0))

    def seen(self) -> Any:
        return self.calls, float(self.mean.compute()), len(self.of_class)


class Closure(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        return pl_module.encoder.register_forward_hook(lambda *arguments: self.keep(*arguments))


class Partial(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        return pl_module.encoder.register_forward_hook(functools.partial(Partial.keep, self))


class BeforeTheForward(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        return pl_module.encoder.register_forward_pre_hook(lambda module, args: self.keep(module, (), args[0][:, :8]))


class OnAllModules(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if module is pl_module.encoder:
                self.keep(module, args, output)

        return register_module_forward_hook(keep)


class BeforeAllForwards(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        encoder = pl_module.encoder
        return register_module_forward_pre_hook(
            lambda module, args: self.keep(module, (), args[0][:, :8]) if module is encoder else None
        )


class ChangesTheFeatures(Recorder):
    """A hook of a callback that is part of what the encoder computes."""

    def keep(self, module: nn.Module, args: Any, output: Any) -> Any:
        super().keep(module, args, output)
        return output + 0.01 * self.calls


class StopsTheRun(Recorder):
    """Stops where features are large: those of some probes are."""

    def keep(self, module: nn.Module, args: Any, output: Any) -> None:
        super().keep(module, args, output)
        if not module.training:
            self.trainer.should_stop = True

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.trainer = trainer
        super().on_fit_start(trainer, pl_module)


class ThroughTheTrainer(Reads):
    """A hook of the module, and a forward, that write to a callback."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self.trainer.callbacks[0].keep(module, args, output)  # type: ignore[attr-defined]


class Idle(Recorder):
    def register(self, trainer: Any, pl_module: Any) -> Any:
        return pl_module.register_forward_hook(lambda *_: None)


def keep_globally(module: nn.Module, args: Any, output: Any) -> None:
    global CALLS
    CALLS += 1
    _remember(output.detach().mean(0))


def _remember(features: Tensor) -> None:
    KEPT.append(features)


class Global(Reads):
    """A plain function, and variables of its file."""

    def __init__(self) -> None:
        super().__init__()
        global CALLS
        CALLS = 0
        KEPT.clear()
        self.encoder.register_forward_hook(keep_globally)

    def kept(self) -> Any:
        return KEPT


class InForward(Reads):
    """An encoder whose forward writes a variable of its file and an attribute of its class."""

    def __init__(self) -> None:
        super().__init__()
        inner = self.encoder
        KEPT.clear()

        class Encoder(nn.Module):
            calls = 0

            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> Tensor:
                z: Tensor = self.inner(x)
                type(self).calls += 1
                KEPT.append(z.detach().mean(0))
                return z + 0.01 * self.calls

        self.encoder = Encoder()

    def kept(self) -> Any:
        return KEPT


class KeepingLogger(Logger):
    """A logger of the user's own that watches the encoder."""

    name, version = "own", 0

    def __init__(self) -> None:
        super().__init__()
        self.kept: deque[Tensor] = deque(maxlen=6)
        self.calls = 0

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def watch(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.calls += 1
        self.kept.append(output.detach().mean(0))


class WatchedByALogger(Reads):
    def on_fit_start(self) -> None:
        self.encoder.register_forward_hook(self.logger.watch)  # type: ignore[union-attr]

    def kept(self) -> Any:
        return self.logger.kept  # type: ignore[union-attr]


def outcome(make: type[modules.Plain], first: Callback, *callbacks: Any, **arguments: Any) -> Any:
    Recorder.of_class.clear()
    seed_everything(0)
    model = make()
    run = trainer(first, *callbacks, max_steps=30, **arguments)
    run.fit(model)
    seen = first.seen() if isinstance(first, Recorder) and first.calls else None
    return model.state_dict(), run.optimizers[0].state_dict(), model.seen, seen, CALLS, run.global_step


ROWS: dict[str, tuple[type[modules.Plain], type[Recorder]]] = {
    "a bound method of a callback": (Reads, Recorder),
    "a closure over a callback": (Reads, Closure),
    "a partial with a callback": (Reads, Partial),
    "before the forward": (Reads, BeforeTheForward),
    "on all modules": (Reads, OnAllModules),
    "before the forward of all modules": (Reads, BeforeAllForwards),
    "part of the encoder": (Reads, ChangesTheFeatures),
    "through the trainer": (ThroughTheTrainer, Idle),
    "a plain function": (Global, Idle),
    "in the forward": (InForward, Idle),
    "a stop of the run": (Reads, StopsTheRun),
}


@pytest.mark.parametrize("row", ROWS)
def test_what_a_hook_fills_is_as_without_probes(row):
    make, recorder = ROWS[row]
    callback = probing(every=7)
    assert_identical(outcome(make, recorder()), outcome(make, recorder(), callback))
    assert steps(callback) == [0, 7, 14, 21, 28, 30]


def test_what_a_logger_keeps_through_a_hook_is_as_without_probes():
    plain, probed = KeepingLogger(), KeepingLogger()
    one = outcome(WatchedByALogger, Idle(), logger=plain)
    assert_identical(one, outcome(WatchedByALogger, Idle(), probing(every=7), logger=probed))
    assert plain.calls == probed.calls


def test_hooks_run_in_probes():
    class Halving(Recorder):
        def keep(self, module, args, output):
            return torch.zeros_like(output) if self.trainer.global_step else output

        def on_fit_start(self, trainer, pl_module):
            self.trainer = trainer
            super().on_fit_start(trainer, pl_module)

    callback = probing(every=7)
    with pytest.warns(UserWarning, match="collapsed"):
        trainer(Halving(), callback, max_steps=7).fit(modules.Plain())
    assert callback.history[0].score() > 0.2
    assert callback.history[1].score() == 0


def test_a_file_that_a_hook_writes_is_named():
    class Writes(Recorder):
        def keep(self, module, args, output):
            self.file.write(f"{float(output.detach().mean())}\n")

        def on_fit_start(self, trainer, pl_module):
            self.file = open("features.txt", "w")  # noqa: SIM115
            super().on_fit_start(trainer, pl_module)

        def on_fit_end(self, trainer, pl_module):
            super().on_fit_end(trainer, pl_module)
            self.file.close()

    with pytest.warns(UserWarning, match=r"cannot be restored: \S*\.file\."):
        trainer(Writes(), probing(every=7), max_steps=7).fit(modules.Plain())


class Logs(modules.Plain):
    """Logs in forward, in every way that there is; metrics are updated there too."""

    def __init__(self) -> None:
        super().__init__()
        self.average = MeanMetric()
        self.encoder.register_forward_hook(self.after)

    def after(self, module: nn.Module, args: Any, output: Tensor) -> None:
        assert self.logger is not None
        values = {"mean": output.detach().mean(), "size": len(output)}
        self.average(output.detach())
        self.log("average", self.average, on_step=True, on_epoch=True)
        self.log_dict({f"dict/{name}": float(value) for name, value in values.items()}, on_step=True, on_epoch=True)
        self.trainer.callbacks[0].log("by_callback", values["mean"])  # type: ignore[attr-defined]
        self.logger.log_metrics({"direct": float(values["mean"])}, step=self.trainer.global_step)
        self.logger.experiment.log_metrics({"experiment": float(values["size"])}, step=self.trainer.global_step)  # type: ignore[attr-defined]
        assert "csv" in self.logger.log_dir  # type: ignore[operator]
        self.print("called")


@pytest.mark.parametrize("every", [1, 7])
def test_nothing_that_a_forward_logs_comes_from_a_probe(every, capsys):
    def logged(*callbacks: Any) -> Any:
        seed_everything(0)
        logger = CSVLogger("csv", name="", version=f"{len(callbacks)}_{every}", flush_logs_every_n_steps=1)
        run = trainer(Idle(), *callbacks, max_steps=30, logger=logger, log_every_n_steps=1)
        run.fit(Logs())
        text = capsys.readouterr().out.count("called")
        metrics = {key: float(value) for key, value in run.callback_metrics.items() if "synbench" not in key}
        rows = [
            {key: value for key, value in row.items() if "synbench" not in key} for row in logger.experiment.metrics
        ]
        with open(logger.experiment.metrics_file_path) as file:
            header, *lines = [line.rstrip("\n").split(",") for line in file]
        mine = [at for at, key in enumerate(header) if "synbench" not in key]
        written = [{header[at]: line[at] for at in mine} for line in lines]
        return metrics, rows, text, [row for row in written if any(row[key] for key in row if key != "step")]

    assert logged() == logged(probing(every=every))
