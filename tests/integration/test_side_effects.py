"""What a forward does besides computing features: a run with probes has the same effects as one without."""

from __future__ import annotations

import itertools
import queue
import sys
import types
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm
from torch.utils.tensorboard import SummaryWriter

from tests.callbacks.runs import probing, steps, trainer
from tests.integration.modules import Plain
from tests.integration.test_training_unchanged import assert_identical


class Encoder(nn.Module):
    """An encoder that does something else in each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale(x)

    def scale(self, x: torch.Tensor) -> float:
        return 1.0


class Doing(Plain):
    encoder_class: type[nn.Module] = Encoder

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.encoder_class()


def fit(make: type[Plain], *callbacks: Any) -> Plain:
    torch.manual_seed(0)
    model = make()
    trainer(*callbacks, max_steps=12).fit(model)
    return model


def compared(make: type[Plain]) -> tuple[Plain, Plain]:
    """The module after a run without and with probes, whose weights are the same."""
    callback = probing(every=5)
    plain, probed = fit(make), fit(make, callback)
    assert steps(callback) == [0, 5, 10, 12]
    assert_identical(plain.state_dict(), probed.state_dict())
    return plain, probed


class Cycles(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.factors = itertools.cycle([1.0, 1.5, 2.0])

    def scale(self, x: torch.Tensor) -> float:
        return next(self.factors)


class Queues(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.queue = queue.Queue[float]()

    def scale(self, x: torch.Tensor) -> float:
        self.queue.put(float(x.detach().mean()))
        return 1.0 + (self.queue.get() if self.queue.qsize() > 3 else 0.0)


class Schedule:
    calls = 0


class CountsInAClass(Encoder):
    def scale(self, x: torch.Tensor) -> float:
        Schedule.calls += 1
        return 1.0 + Schedule.calls % 100 / 100


def remember(x: torch.Tensor, seen: list[float] = []) -> float:  # noqa: B006
    seen.append(float(x.detach().mean()))
    return 1.0 + seen[-1] + (seen[-4] if len(seen) > 4 else 0.0)


class RemembersInADefault(Encoder):
    def scale(self, x: torch.Tensor) -> float:
        return remember(x)


class ChangesTheLearningRate(Encoder):
    def scale(self, x: torch.Tensor) -> float:
        if not self.training:
            for group in self.trainer_of[0].trainer.optimizers[0].param_groups:
                group["lr"] /= 2
        return 1.0


class LearningRate(Doing):
    encoder_class = ChangesTheLearningRate

    def __init__(self) -> None:
        super().__init__()
        self.encoder.trainer_of = [self]


def norm_of_both_kinds() -> nn.Module:
    return nn.Sequential(spectral_norm(nn.Linear(12, 16)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(16, 8)))


@pytest.mark.parametrize("kind", [Cycles, Queues, CountsInAClass, RemembersInADefault])
@pytest.mark.filterwarnings("ignore:.*forwards are too few")
def test_state_that_a_forward_keeps_outside_of_its_buffers_is_as_without_probes(kind):
    def make() -> type[Plain]:
        Schedule.calls = 0
        remember.__defaults__[0].clear()
        return type("Keeps", (Doing,), {"encoder_class": kind})

    callback = probing(every=5)
    plain, probed = fit(make()), fit(make(), callback)
    assert steps(callback) == [0, 5, 10, 12]
    assert_identical(plain.state_dict(), probed.state_dict())


def test_spectral_norms_are_found_and_probed():
    compared(type("Normed", (Doing,), {"encoder_class": staticmethod(norm_of_both_kinds)}))


def test_a_learning_rate_that_a_forward_changes_in_evaluation_mode_is_as_without_probes():
    compared(LearningRate)


def test_nothing_of_a_probe_is_in_a_writer_of_the_user(tmp_path):
    class Writes(Encoder):
        number = 0

        def __init__(self) -> None:
            super().__init__()
            Writes.number += 1
            self.writer = SummaryWriter(str(tmp_path / f"{Writes.number}"))
            self.steps = 0

        def scale(self, x: torch.Tensor) -> float:
            self.writer.add_scalar("mean", float(x.detach().mean()), self.steps)
            self.writer.add_histogram("input", x.detach(), self.steps)
            self.steps += 1
            return 1.0

    def events(model: Plain) -> Any:
        model.encoder.writer.close()
        found = EventAccumulator(model.encoder.writer.log_dir)
        found.Reload()
        return [(e.step, e.value) for e in found.Scalars("mean")], [e.step for e in found.Histograms("input")]

    plain, probed = map(events, compared(type("Writing", (Doing,), {"encoder_class": Writes})))
    assert plain == probed
    assert [step for step, _ in plain[0]] == list(range(12))


def test_functions_of_a_trackers_package_do_nothing_in_a_probe(monkeypatch):
    rows: list[dict[str, int]] = []
    package = types.ModuleType("wandb")
    package.log, package.run = rows.append, None
    monkeypatch.setitem(sys.modules, "wandb", package)

    class Logs(Encoder):
        def scale(self, x: torch.Tensor) -> float:
            package.log({"examples": len(x)})
            return 1.0

    compared(type("Logging", (Doing,), {"encoder_class": Logs}))
    assert rows == [{"examples": 8}] * 24
    assert package.log == rows.append
