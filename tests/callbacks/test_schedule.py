from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.demos.boring_classes import BoringModel, ManualOptimBoringModel
from lightning.pytorch.loggers import TensorBoardLogger

from synbench_lightning import SynBenchCallback
from synbench_lightning.callbacks.schedule import Schedule
from tests.callbacks.runs import SMALL, curves, probing, steps, trainer
from tests.encoders import Autoencoder


def test_accumulated_batches_count_as_one_step():
    logger, callback = TensorBoardLogger("runs"), probing(every=2)
    trainer(callback, max_steps=6, accumulate_grad_batches=3, logger=logger).fit(Autoencoder())
    assert steps(callback) == [0, 2, 4, 6]
    assert [step for step, _ in curves(logger)["synbench/score"]] == [0, 2, 4, 6]


class TwoOptimizers(ManualOptimBoringModel):
    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.step(batch))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.parameters(), lr=0.01), torch.optim.SGD(self.parameters(), lr=0.01)]


def test_several_optimizers_make_several_steps_but_one_on_the_loggers_axis():
    logger, callback = TensorBoardLogger("runs"), probing(every=5)
    trainer(callback, max_steps=20, logger=logger).fit(TwoOptimizers())
    assert steps(callback) == [0, 6, 10, 16, 20]  # the first even number at or after each multiple of five
    assert [step for step, _ in curves(logger)["synbench/score"]] == [0, 3, 5, 8, 10]


def test_probes_every_n_epochs():
    callback = SynBenchCallback(every_n_epochs=2, plan=SMALL)
    trainer(callback, max_steps=-1, max_epochs=5, limit_train_batches=3).fit(Autoencoder())
    assert steps(callback) == [0, 6, 12, 15]


def test_probes_at_start_and_end_can_be_left_out():
    callback = probing(every=8, probe_at_start=False, probe_at_end=False)
    trainer(callback, max_steps=20).fit(Autoencoder())
    assert steps(callback) == [8, 16]


def test_an_end_that_comes_unforeseen_is_probed_too():
    class Stopping(Autoencoder):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = self.trainer.global_step == 7

    logger, callback = TensorBoardLogger("runs"), probing(every=5)
    trainer(callback, max_steps=-1, max_epochs=3, logger=logger).fit(Stopping())
    assert steps(callback) == [0, 5, 7]
    assert [step for step, _ in curves(logger)["synbench/score"]] == [0, 5, 7]


def test_probes_above_the_allowed_overhead_are_put_off():
    callback = probing(every=1, max_overhead=1e-6)
    trainer(callback, max_steps=20).fit(Autoencoder())
    assert steps(callback) == [0]


def test_no_step_no_probe():
    callback = probing()
    trainer(callback, max_steps=0).fit(Autoencoder())
    trainer(callback, fast_dev_run=True).validate(BoringModel(), verbose=False)
    assert callback.history == []


@pytest.mark.parametrize(
    ("epochs", "settled", "owed", "step", "due"),
    [
        (None, 10, False, 14, False),
        (None, 10, False, 15, True),  # saved after the batch of a multiple and before its probe
        (None, 14, False, 16, True),
        (None, 10, True, 10, True),
        (1, 10, False, 15, False),  # the end of an epoch is not told by the step
        (1, 10, True, 10, True),
    ],
)
def test_a_resumed_run_makes_up_for_the_probe_that_its_checkpoint_was_saved_without(epochs, settled, owed, step, due):
    schedule = Schedule(5, epochs, at_start=True, at_end=True)
    schedule.last_step, schedule.owed = settled, owed
    resumed = Schedule(5, epochs, at_start=True, at_end=True)
    resumed.restore(schedule.state())
    assert resumed.due_at_first_batch(SimpleNamespace(global_step=step), begins=False) == due


@pytest.mark.parametrize("at_start", [True, False])
def test_a_run_that_begins_owes_nothing(at_start):
    schedule = Schedule(5, None, at_start=at_start, at_end=True)
    assert schedule.state() == {"last_step": 0, "owed": False, "uncounted": 0, "batches": 0}
    assert schedule.due_at_first_batch(SimpleNamespace(global_step=0), begins=True) == at_start


class OwnOptimizer(Autoencoder):
    """Steps an optimizer that Lightning does not know, or one that it knows where it does not count."""

    def __init__(self, where="step"):
        super().__init__()
        self.automatic_optimization, self.where = False, where
        self.own = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.own.zero_grad()
        self.manual_backward(loss)
        if self.where == "step":
            self.own.step()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.where == "batch end":
            self.optimizers().step()
        if self.where == "later" and self.trainer.fit_loop.total_batch_idx >= 69:
            self.where = "counted"

    def configure_optimizers(self):
        return [self.own] if self.where == "batch end" else []


class Later(OwnOptimizer):
    """Counted steps come only after 70 batches (a long accumulation by hand)."""

    def __init__(self):
        super().__init__("later")

    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        if self.where == "counted":
            self.optimizers().step()

    def configure_optimizers(self):
        return super(OwnOptimizer, self).configure_optimizers()


UNCOUNTED = r"No optimizer step was counted in (\d+) training batches.*`self.optimizers\(\).step\(\)`"


@pytest.mark.parametrize("where", ["step", "batch end"])
def test_steps_that_are_not_counted_are_told_once_and_batches_count_in_their_place(where):
    logger, callback = TensorBoardLogger("runs"), probing(every=20)
    with pytest.warns(UserWarning, match=UNCOUNTED) as told:
        trainer(callback, max_steps=-1, max_epochs=9, logger=logger).fit(OwnOptimizer(where))
    assert sum("No optimizer step" in str(one.message) for one in told) == 1
    assert steps(callback) == [0, 50, 60, 80, 90]
    assert [step for step, _ in curves(logger)["synbench/score"]] == [0, 50, 60, 80, 90]
    assert len({result.score() for result in callback.history}) == 5


class Scaled(OwnOptimizer):
    """Steps through a scaler of its own."""

    def __init__(self):
        super().__init__()
        self.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)

    def training_step(self, batch, batch_idx):
        self.own.zero_grad()
        self.scaler.scale(Autoencoder.training_step(self, batch, batch_idx)).backward()
        self.scaler.step(self.own)
        self.scaler.update()


class InAHook(OwnOptimizer):
    """Steps once the gradients are there, in the hook of a callback that comes before the one that probes."""

    def __init__(self):
        super().__init__("hook")

    class Stepping(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            pl_module.own.step()


class InBackward(OwnOptimizer):
    """Each parameter has an optimizer of its own, which steps as soon as its gradient is there."""

    def __init__(self):
        super().__init__("backward")
        self.optimizer_of = {one: torch.optim.SGD([one], lr=0.05) for one in self.parameters()}
        for one in self.parameters():
            one.register_post_accumulate_grad_hook(lambda parameter: self.optimizer_of[parameter].step())


class Adversarial(OwnOptimizer):
    """A discriminator makes its step first."""

    def __init__(self):
        super().__init__()
        self.discriminator = torch.nn.Linear(64, 1)
        self.other = torch.optim.SGD(self.discriminator.parameters(), lr=0.05)

    def training_step(self, batch, batch_idx):
        self.discriminator(batch[0].flatten(1)).mean().backward()
        self.other.step()
        super().training_step(batch, batch_idx)


class Automatic(Autoencoder):
    """A second optimizer, which is not Lightning's, steps in an automatic training step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        own = torch.optim.SGD(self.parameters(), lr=0.05)
        loss.backward(retain_graph=True)
        own.step()
        return Autoencoder.training_step(self, batch, batch_idx)


@pytest.mark.parametrize("make", [OwnOptimizer, Scaled, InAHook, InBackward, Adversarial, Automatic])
@pytest.mark.filterwarnings("ignore:No optimizer step was counted")
def test_the_first_probe_comes_before_the_first_step_whoever_makes_it(make):
    def first(**arguments):
        seed_everything(0)
        callback = probing(every=20, probe_at_end=False, **arguments)
        others = [InAHook.Stepping()] if make is InAHook else []
        trainer(*others, callback, max_steps=-1, max_epochs=1, limit_train_batches=2).fit(make())
        return callback.history[0]

    seen, before_the_batch = first(), first(encoder="encoder", input_shape=(1, 8, 8))
    assert seen.step == before_the_batch.step == 0
    assert seen.score() == before_the_batch.score()


def test_weights_that_are_written_by_hand_in_the_first_batch_are_probed_as_those_after_it():
    class ByHand(OwnOptimizer):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            for parameter in self.parameters():
                parameter.data.sub_(0.05 * parameter.grad)

    logger, callback = TensorBoardLogger("runs"), probing(every=20)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(callback, max_steps=-1, max_epochs=4, logger=logger).fit(ByHand("hand"))
    assert steps(callback) == [1, 20, 40]
    assert [step for step, _ in curves(logger)["synbench/score"]] == [1, 20, 40]


def test_a_short_run_without_a_counted_step_is_probed_at_its_end():
    callback = probing(every=20)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(callback, max_steps=-1, max_epochs=3).fit(OwnOptimizer())
    assert steps(callback) == [0, 30]

    class Stopping(OwnOptimizer):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = self.trainer.fit_loop.total_batch_idx == 6

    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(callback, max_steps=-1, max_epochs=3).fit(Stopping())
    assert steps(callback) == [0, 7]


def test_a_run_that_ends_before_its_first_step_is_not_taken_for_one_whose_steps_are_not_counted():
    class Stopping(Autoencoder):
        def on_train_batch_end(self, *_):
            self.trainer.should_stop = True

    callback = probing(every=20)
    trainer(callback, max_steps=-1, max_epochs=3, accumulate_grad_batches=4).fit(Stopping())
    assert steps(callback) == [0]


def test_epochs_without_a_counted_step_are_probed_too():
    callback = SynBenchCallback(every_n_epochs=2, plan=SMALL, log_figures=False)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(callback, max_steps=-1, max_epochs=9).fit(OwnOptimizer())
    assert steps(callback) == [0, 60, 80, 90]


@pytest.mark.parametrize("before_the_probe", [True, False])
@pytest.mark.parametrize("saved", [20, 50, 55, 60])
def test_a_resumed_run_goes_on_to_count_batches(saved, before_the_probe):
    class Save(Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.fit_loop.total_batch_idx + 1 == saved:
                trainer.save_checkpoint("saved.ckpt")

    first, resumed = probing(every=20), probing(every=20)
    order = [Save(), first] if before_the_probe else [first, Save()]
    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(*order, max_steps=-1, max_epochs=9).fit(OwnOptimizer())
    told = saved < 50 or (saved == 50 and before_the_probe)
    with pytest.warns(UserWarning, match=UNCOUNTED) if told else nullcontext():
        trainer(resumed, max_steps=-1, max_epochs=9).fit(OwnOptimizer(), ckpt_path="saved.ckpt")
    late = [51] if saved == 50 and before_the_probe else [50]  # the step at 50 was not known to be one
    assert steps(resumed) == [0, *late, 60, 80, 90]


def test_steps_that_are_counted_later_go_on_from_the_batches():
    callback = probing(every=20)
    with pytest.warns(UserWarning, match=UNCOUNTED):
        trainer(callback, max_steps=-1, max_epochs=10).fit(Later())
    assert steps(callback) == [0, 50, 60, 80, 100]


def test_intervals_are_whole_numbers_and_are_told_in_their_unit():
    assert [str(Schedule(5, epochs, True, True)) for epochs in (None, 2)] == ["5 steps", "2 epochs"]
    with pytest.raises(ValueError, match="`every_n_train_steps`"):
        Schedule(0, None, True, True)
    with pytest.raises(ValueError, match="`every_n_epochs`"):
        Schedule(5, 0, True, True)
