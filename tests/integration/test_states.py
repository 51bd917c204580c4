"""Only a resumed fit takes up a state, what another run has left is dropped, and no state keeps a run from going on."""

import copy
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import BenchmarkCallback, SynBenchCallback, SynBenchEarlyStopping
from synbench_lightning.callbacks.run_state import FORMAT
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.encoders import Autoencoder
from tests.integration.test_resume import SaveBefore
from tests.integration.user_inputs import Text
from tests.integration.user_wrappers import Classifies, ForwardIsTheTeacher

DATA = Path(__file__).parents[1] / "data"
IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TASKS = {"side": TensorDataset(IMAGES, (IMAGES[..., :4].mean((1, 2, 3)) > 0).long())}


class Model(Autoencoder):
    """An autoencoder that can be validated and tested, with a learning rate and a batch size to be found."""

    def __init__(self):
        super().__init__()
        self.lr, self.batch_size = 1e-3, 8

    def train_dataloader(self):
        return DataLoader(super().train_dataloader().dataset, batch_size=self.batch_size)

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    def validation_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)

    test_step = validation_step

    def predict_step(self, batch, batch_idx):
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def callbacks():
    benchmark = BenchmarkCallback(TASKS, 0.5, support=20, warmup=2, every_n_train_steps=5)
    return [probing(inputs=IMAGES), benchmark, SynBenchEarlyStopping(patience=9)]


def held(found):
    """What callbacks hold of their run."""
    synbench, benchmark, stop = found
    return (
        steps(synbench), steps(benchmark), len(benchmark.curves), benchmark.selection is None, stop.wait_count,
        float(stop.best_score),
    )  # fmt: skip


@pytest.mark.parametrize("function", ["validate", "test", "predict"])
def test_evaluations_with_a_checkpoint_take_no_state_from_it(function):
    found = callbacks()
    run, model = trainer(SaveBefore(7), *found, max_steps=15), Model()
    run.fit(model)
    before = held(found)
    getattr(run, function)(model, ckpt_path="saved.ckpt")
    assert held(found) == before
    run.fit_loop.epoch_loop.max_steps = 20
    run.fit(model)
    assert steps(found[0]) == steps(found[1]) == [0, 5, 10, 15, 20]


def test_another_trainer_begins_another_history():
    found = callbacks()
    trainer(*found, max_steps=15).fit(Model())
    another = trainer(*found, max_steps=8)
    another.fit(Model())
    assert steps(found[0]) == steps(found[1]) == [0, 5, 8]
    assert len(found[1].curves) == 2
    assert found[2].wait_count <= 3
    assert float(found[2].best_score) == pytest.approx(max(result.score() for result in found[0].history))


def test_another_module_begins_another_history():
    found = callbacks()
    run = trainer(*found, max_steps=8)
    run.fit(Model())
    run.fit_loop.epoch_loop.max_steps = 12
    run.fit(Model())
    assert steps(found[0]) == steps(found[1]) == [8, 10, 12]


@pytest.mark.parametrize("used", [True, False], ids=["after another run", "at first"])
def test_finders_before_a_fit_leave_its_history_alone(used):
    found, model = callbacks(), Model()
    if used:
        trainer(*found, max_steps=15).fit(Model())
    run = trainer(*found, max_steps=8)
    Tuner(run).lr_find(model, num_training=4)
    Tuner(run).scale_batch_size(model, max_trials=1, init_val=4)
    run.fit(model)
    assert steps(found[0]) == steps(found[1]) == [0, 5, 8]


@pytest.mark.parametrize("used", [True, False], ids=["after another run", "at first"])
@pytest.mark.parametrize(
    "finder", [lambda: LearningRateFinder(num_training_steps=4), lambda: BatchSizeFinder(max_trials=1, init_val=4)]
)
def test_finders_in_a_fit_leave_its_history_alone(finder, used):
    found = callbacks()
    if used:
        trainer(*found, max_steps=15).fit(Model())
    trainer(finder(), *found, max_steps=8).fit(Model())
    assert steps(found[0]) == steps(found[1]) == [0, 5, 8]


def test_finders_in_a_resumed_fit_leave_its_history_alone():
    trainer(*callbacks(), SaveBefore(7), max_steps=8).fit(Model())
    found = callbacks()
    trainer(LearningRateFinder(num_training_steps=4), *found, max_steps=12).fit(Model(), ckpt_path="saved.ckpt")
    assert steps(found[0]) == steps(found[1]) == [0, 5, 10, 12]


def test_a_resume_takes_nothing_over_from_the_run_before():
    trainer(*callbacks(), SaveBefore(7), max_steps=8).fit(Model())
    found = callbacks()
    trainer(*found, max_steps=35).fit(Model())
    trainer(*found, max_steps=12).fit(Model(), ckpt_path="saved.ckpt")
    assert steps(found[0]) == steps(found[1]) == [0, 5, 10, 12]
    assert len(found[1].curves) == 2


def test_a_resume_from_a_checkpoint_without_a_state_begins_a_history():
    trainer(SaveBefore(7), max_steps=8).fit(Model())
    found, model = callbacks(), Model()
    run = trainer(*found, max_steps=8)
    run.fit(model)
    run.fit_loop.epoch_loop.max_steps = 12
    run.fit(model, ckpt_path="saved.ckpt")
    assert steps(found[0]) == [7, 10, 12]


def test_a_copy_of_a_callback_begins_a_history_of_its_own():
    found = callbacks()
    trainer(*found, max_steps=8).fit(Model())
    copied = copy.deepcopy(found)
    assert held(copied) == held(found)
    trainer(*copied, max_steps=5).fit(Model())
    assert steps(copied[0]) == [0, 5]


class SaveOnException(Callback):
    """What `OnExceptionCheckpoint` does, without its advice."""

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint("cut.ckpt")


def cut_short(*callbacks, **arguments):
    """A fit that ends in an exception and saves then."""
    with suppress(SystemExit, RuntimeError, OSError):  # Ctrl-C is no exception before Lightning 2.5
        trainer(*callbacks, SaveOnException(), **arguments).fit(Autoencoder())


class Interrupt(Callback):
    """A listener that is interrupted, or a signal in it."""

    def __init__(self, error, step):
        self.error, self.step = error, step

    def on_probe_end(self, trainer, *_):
        if trainer.global_step == self.step:
            raise self.error


def interrupted(step, error=KeyboardInterrupt):
    def encoder(module, x):
        if module.trainer.global_step == step:
            raise error
        return module.encoder(x)

    return encoder


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("step", [0, 5, 10])
def test_a_probe_that_is_cut_short_is_made_when_the_run_goes_on(step, error):
    first = probing(encoder=interrupted(step, error), on_error="raise", probe_at_start=step == 0)
    cut_short(first, max_steps=15)
    assert step not in steps(first)
    resumed = probing(probe_at_start=step == 0)
    trainer(resumed, max_steps=15).fit(Autoencoder(), ckpt_path="cut.ckpt")
    assert steps(resumed) == [0, 5, 10, 15][step != 0 :]


def test_a_probe_at_the_end_of_an_epoch_that_is_cut_short_is_made_when_the_run_goes_on():
    def by_epoch(**arguments):
        return SynBenchCallback(every_n_epochs=1, plan=SMALL, log_figures=False, **arguments)

    first, whole = by_epoch(encoder=interrupted(16)), by_epoch()
    arguments = {"max_steps": -1, "max_epochs": 3, "limit_train_batches": 8}
    trainer(whole, **arguments).fit(Autoencoder())
    cut_short(first, **arguments)
    assert steps(first) == [0, 8]
    resumed = by_epoch()
    trainer(resumed, **arguments).fit(Autoencoder(), ckpt_path="cut.ckpt")
    assert steps(whole) == [0, 8, 16, 24]
    assert steps(resumed)[:3] == [0, 8, 16]


def test_an_evaluation_of_a_benchmark_that_is_cut_short_leaves_nothing():
    def benchmark(encoder):
        return BenchmarkCallback(TASKS, 0.5, support=20, warmup=3, every_n_train_steps=5, encoder=encoder)

    first = benchmark(interrupted(5))
    cut_short(first, max_steps=15)
    assert (steps(first), len(first.curves)) == ([0], 1)
    resumed = benchmark("encoder")
    trainer(resumed, max_steps=15).fit(Autoencoder(), ckpt_path="cut.ckpt")
    assert [(result.step, result.complete) for result in resumed.history] == [
        (0, True), (5, True), (10, True), (15, False),
    ]  # fmt: skip


class FailingLogger(CSVLogger):
    def log_metrics(self, metrics, step=None):
        if step == 10:
            raise OSError("no space left")
        super().log_metrics(metrics, step)


@pytest.mark.parametrize("where", ["listener", "logger"])
def test_a_probe_that_was_made_is_not_made_again_whatever_comes_after_it(where):
    first = probing()
    more = [Interrupt(KeyboardInterrupt, 10)] if where == "listener" else []
    logger = FailingLogger("csv") if where == "logger" else False
    cut_short(first, *more, max_steps=20, logger=logger)
    assert steps(first) == [0, 5, 10]
    resumed = probing()
    trainer(resumed, max_steps=20).fit(Autoencoder(), ckpt_path="cut.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20]


def with_states(states):
    """A checkpoint at step 10 that holds these states."""
    trainer(*callbacks(), SaveBefore(10), max_steps=10).fit(Model())
    saved = torch.load("saved.ckpt", weights_only=True)
    saved["callbacks"] = states
    torch.save(saved, "changed.ckpt")


def own_states():
    run = trainer(*callbacks(), max_steps=10)
    run.fit(Model())
    run.save_checkpoint("own.ckpt")
    return torch.load("own.ckpt", weights_only=True)["callbacks"]


@pytest.mark.parametrize("file", ["states_without_format.pt", f"states_format_{FORMAT}.pt"])
def test_states_of_earlier_versions_are_read(file):
    states = torch.load(DATA / file, weights_only=True)
    with_states(states)
    found = callbacks()
    # Without a format the points were drawn by a method that is no more: evaluations begin anew, the history is kept.
    was_another = pytest.warns(UserWarning, match="was another one, or evaluated otherwise.*'loss'")
    with nullcontext() if "format_" in file else was_another:
        trainer(*found, max_steps=20).fit(Model(), ckpt_path="changed.ckpt")
    assert steps(found[0]) == steps(found[1]) == [0, 5, 10, 15, 20]
    for callback in found[:2]:
        before = states[callback.state_key]["history"]
        kept = [result.to_dict() for result in callback.history[: len(before)]]
        assert [{key: new[key] for key in old} for old, new in zip(before, kept, strict=True)] == before


def changed_history(change):
    def of_state(state):
        change(state["history"][-1])
        return state

    return of_state


BROKEN = {
    "an unknown field": changed_history(lambda result: result.update(colour="red")),
    "a missing field": changed_history(lambda result: result.pop("seconds")),
    "a field of another type": changed_history(lambda result: result.update(step="ten")),
    "a result that is none": lambda state: {**state, "history": [3]},
    "no history": lambda state: {key: value for key, value in state.items() if key != "history"},
    "a history that is none": lambda state: {**state, "history": "long"},
    "no last step": lambda state: {key: value for key, value in state.items() if key != "last_step"},
    "a last step that is none": lambda state: {**state, "last_step": None},
    "a later format": lambda state: {**state, "format": FORMAT + 1},
    "garbage": lambda state: {"a": 1},
    "a text": lambda state: "garbage",
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.filterwarnings("default")
def test_a_state_that_cannot_be_read_begins_a_history_with_a_warning(broken):
    states = torch.load(DATA / f"states_format_{FORMAT}.pt", weights_only=True)
    with_states({key: BROKEN[broken](copy.deepcopy(state)) for key, state in states.items() if "Stopping" not in key})
    found = callbacks()
    with pytest.warns(UserWarning, match="Could not restore the state of .* It starts a new history") as told:
        trainer(*found, max_steps=20).fit(Model(), ckpt_path="changed.ckpt")
    assert sum("Could not restore" in str(warning.message) for warning in told) == 2
    assert steps(found[0]) == steps(found[1]) == [10, 15, 20]


def test_patience_that_cannot_be_read_begins_anew_with_a_warning():
    states = own_states()
    (key,) = [key for key in states if "Stopping" in key]
    states[key] = {"wait_count": "many", "best_score": None}
    with_states(states)
    found = callbacks()
    with pytest.warns(UserWarning, match="SynBenchEarlyStopping from the checkpoint: it has no 'stopped_epoch'"):
        trainer(*found, max_steps=20).fit(Model(), ckpt_path="changed.ckpt")
    assert torch.isfinite(found[2].best_score)


@pytest.mark.parametrize("make", [Text, ForwardIsTheTeacher, Classifies], ids=lambda make: make.__name__)
def test_the_call_of_the_encoder_goes_on_with_the_run(make, caplog):
    trainer(probing(), SaveBefore(7), max_steps=8).fit(make())
    state = next(iter(torch.load("saved.ckpt", weights_only=True)["callbacks"].values()))
    resumed = probing()
    caplog.clear()
    with caplog.at_level("INFO"):
        trainer(resumed, max_steps=12).fit(make(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 12]
    assert {result.input_shape for result in resumed.history} == {make.shape}
    said = next(record.message for record in caplog.records if "SynBench probes" in record.message)
    assert f"`{make.path}`" in said
    assert make.inside in said
    assert (state["call"]["path"], state["call"]["method"]) == tuple(f"{make.path}.".split(".")[:2])
    assert not any("training also calls" in record.message for record in caplog.records)  # nothing was looked for


def test_a_state_that_does_not_hold_the_call_has_it_found_again():
    trainer(probing(), SaveBefore(7), max_steps=8).fit(Text())
    checkpoint = torch.load("saved.ckpt", weights_only=True)
    for state in checkpoint["callbacks"].values():
        state["call"] = {"path": "text", "listed": False}  # as before version 0.1
    torch.save(checkpoint, "older.ckpt")
    resumed = probing()
    trainer(resumed, max_steps=12).fit(Text(), ckpt_path="older.ckpt")
    assert steps(resumed) == [0, 5, 10, 12]
    assert {result.input_shape for result in resumed.history} == {Text.shape}
