"""What holds on the CPU holds on a GPU. Without one, all of it is left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything

from synbench_lightning import BenchmarkCallback, ProbePlan, SynBenchCallback, evaluate
from tests.callbacks.runs import probing, steps, trainer
from tests.distributed.test_processes import run
from tests.encoders import Autoencoder
from tests.integration import modules
from tests.integration.test_training_unchanged import ROWS, assert_identical, ema, outcome

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ON_THE_HOST = {"state in containers", "state that is no buffer"}  # theirs are tensors and arrays of the CPU


class CudaGraphs(modules.Plain):
    """An encoder whose kernels are recorded once and played again."""

    def __init__(self) -> None:
        super().__init__()
        torch._dynamo.reset()
        self.encoder = torch.compile(self.encoder, mode="reduce-overhead")  # type: ignore[assignment]


class DrawingThere(modules.Plain):
    """Augmentation on the device, from its own generator."""

    def loss(self, x: torch.Tensor) -> torch.Tensor:
        return super().loss(x + 0.1 * torch.randn_like(x) * torch.rand((), device=x.device))


HERE: dict[str, tuple[type[modules.Plain], dict[str, Any]]] = {
    **{name: row for name, row in ROWS.items() if name not in ON_THE_HOST},
    "augmentation on the device": (DrawingThere, {}),
    "16-mixed": (modules.Plain, {"precision": "16-mixed"}),
    "cudagraphs": (CudaGraphs, {}),
    "cudagraphs, 16-mixed": (CudaGraphs, {"precision": "16-mixed"}),
    "cudnn.benchmark": (modules.Plain, {"benchmark": True}),
}


@pytest.fixture(autouse=True)
def the_same_kernels_each_time(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def left(make: type[modules.Plain], callbacks: list[Any], **arguments: Any) -> dict[str, Any]:
    """What training left behind, the device's random state included."""
    found = outcome(make, callbacks, accelerator="gpu", **arguments)
    return {**found, "device": torch.cuda.get_rng_state()}


@pytest.mark.filterwarnings("ignore:Probes measure the weights in training")
@pytest.mark.parametrize("row", HERE)
def test_training_is_the_same_to_the_bit(row):
    make, arguments = HERE[row]
    averaging = ema if arguments.get("averaging") else list
    rest = {key: value for key, value in arguments.items() if key != "averaging"}
    callback = probing(every=7, inputs="auto")
    plain, probed = left(make, averaging(), **rest), left(make, [*averaging(), callback], **rest)
    assert steps(callback)[:2] in ([0, 7], [0, 8])
    assert_identical(plain, probed)


def test_training_is_the_same_to_the_bit_beside_a_benchmark_and_views():
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(3))
    tasks = {"sign": torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())}
    views = probing(
        every=7, inputs=x, views=lambda batch: batch + 0.1 * torch.randn_like(batch), labels=(x[:, 0] > 0).long()
    )
    callbacks = [views, BenchmarkCallback(tasks, support=30, every_n_train_steps=4)]
    assert_identical(left(DrawingThere, []), left(DrawingThere, callbacks))
    assert views.history[-1].information is not None


@pytest.mark.parametrize("precision", [None, torch.float16, torch.bfloat16])
def test_scores_are_those_of_the_cpu(precision):
    seed_everything(0)
    encoder = Autoencoder().encoder
    x = torch.randn(64, 1, 8, 8)
    labels = (x[:, 0, 0, 0] > 0).long()
    arguments: dict[str, Any] = {"inputs": x, "views": lambda batch: batch + 0.1 * torch.randn_like(batch)}
    cpu = evaluate(encoder, (1, 8, 8), labels=labels, **arguments)
    with torch.autocast("cuda", precision, enabled=precision is not None):
        gpu = evaluate(encoder.cuda(), (1, 8, 8), labels=labels, **arguments)
    assert gpu.score() == pytest.approx(cpu.score(), abs=4 * 2**0.5 * cpu.standard_error())  # of other noise vectors
    tolerance = 1e-3 if precision is None else 0.03
    assert gpu.information == pytest.approx(cpu.information, rel=tolerance)  # views and labelled inputs are the same
    assert gpu.readout == pytest.approx(cpu.readout, abs=tolerance)


class Watched(SynBenchCallback):
    """Raises where a hook of the second step or a later one waits for the device."""

    def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
        with waiting_raises(trainer.global_step):
            super().on_train_batch_start(trainer, *arguments)

    def on_before_optimizer_step(self, trainer: Any, *arguments: Any) -> None:
        with waiting_raises(trainer.global_step):
            super().on_before_optimizer_step(trainer, *arguments)

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        with waiting_raises(trainer.global_step):
            super().on_train_batch_end(trainer, *arguments)


@contextmanager
def waiting_raises(step: int) -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error" if step > 0 else "default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_steps_without_a_probe_never_wait_for_the_device():
    def fit(every: int) -> list[int | None]:
        callback = Watched(encoder="encoder", every_n_train_steps=every, probe_at_end=False, log_figures=False)
        trainer(callback, max_steps=10, accelerator="gpu").fit(modules.Plain())
        return steps(callback)

    assert fit(1000) == [0]
    with pytest.warns(UserWarning, match="synchronizing"):
        fit(5)


@pytest.mark.parametrize("parts", [None, "all", "root", "fsdp1", "fsdp1, layers"], ids=str)
def test_strategies_train_undisturbed(tmp_path, parts):
    weights = []
    for probes in (False, True):
        folder = tmp_path / str(probes)
        folder.mkdir()
        (found,), _ = run(folder, world=1, sharded=parts, probes=probes, accelerator="gpu")
        assert not found["error"]
        weights.append(found["weights"])
    assert [result["step"] for result in found["history"]] == [0, 5, 10, 15]
    assert weights[0] == weights[1]


def test_a_probe_gives_its_memory_back():
    encoder = Autoencoder().encoder.cuda()
    plan = ProbePlan(forwards=2048)
    evaluate(encoder, (1, 8, 8), plan=plan)
    before = torch.cuda.memory_allocated()
    evaluate(encoder, (1, 8, 8), plan=plan)
    assert torch.cuda.memory_allocated() <= before
