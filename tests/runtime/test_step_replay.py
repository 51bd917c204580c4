"""A step is run up to the encoder's call, on the way that training takes, and everything is as before afterwards."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning.runtime import module_snapshot
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.input_leaf import InputLeaf
from synbench_lightning.runtime.step_replay import NotReachedError, StepReplay
from synbench_lightning.runtime.structures import at
from tests.callbacks.runs import trainer
from tests.encoders import Autoencoder
from tests.integration.test_training_unchanged import assert_identical

CALL = EncoderCall("encoder", input=InputLeaf(("args", 0), (1, 8, 8), 8))
BATCH = [torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(8)]


class Replaying(Callback):
    """Calls a function in the second step, and keeps what it returns or raises."""

    def __init__(self, function):
        self.function, self.found, self.error = function, None, None

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 1:
            try:
                self.found = self.function(trainer, pl_module)
            except Exception as error:
                self.error = error


def given(trainer, pl_module, call=CALL, seeds=(1, 1, 2), **arguments):
    replay = StepReplay(trainer, pl_module, call, **arguments)
    with replay.ready():
        return [replay.inputs(BATCH, seed)[0].args[0] for seed in seeds]


def fit(make, function=given, datamodule=None):
    """What the function gave, in a run that ends as it does without it."""
    states = []
    for callbacks in ([], [Replaying(function)]):
        torch.manual_seed(0), random.seed(0), np.random.seed(0)
        model = make()
        run = trainer(*callbacks, max_steps=4)
        data = None if datamodule is None else datamodule()
        run.fit(model, datamodule=data)
        own = [data.count if data else 0, getattr(model, "count", 0), getattr(model, "seen", [])]
        progress = run.fit_loop.state_dict()
        states.append([model.state_dict(), [one.state_dict() for one in run.optimizers], own, progress])
        states[-1].append([random.random(), np.random.rand(), torch.rand(())])
    assert_identical(*states)
    if callbacks[0].error is not None:
        raise callbacks[0].error
    return callbacks[0].found


class Prepared(Autoencoder):
    """Whatever comes before the encoder: a hook, noise, counters, layers and their statistics."""

    def __init__(self):
        super().__init__()
        self.norm, self.count, self.seen = nn.BatchNorm2d(1), 0, []
        self.generator, self.rng = torch.Generator().manual_seed(2), np.random.default_rng(2)

    def on_train_batch_start(self, batch, batch_idx):
        self.scale = 2.0

    def training_step(self, batch, batch_idx):
        self.count += 1
        self.seen.append(batch_idx)
        x = self.norm(batch[0]) * self.scale + random.random() + np.random.rand() + self.rng.random()
        x = x + torch.randn(x.shape, generator=self.generator) + nn.functional.dropout(x, 0.5, self.training)
        return super().training_step([x], batch_idx)


def test_what_is_random_depends_on_the_seed_alone_and_training_ends_as_without():
    one, again, other = fit(Prepared)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert (one == 0).sum() == 0
    assert one.shape == (8, 1, 8, 8)


OF_THE_FILE = torch.Generator()


class DrawsFromTheFile(Autoencoder):
    """Has its generator in a variable of the file."""

    def __init__(self):
        super().__init__()
        OF_THE_FILE.manual_seed(7)

    def training_step(self, batch, batch_idx):
        return super().training_step([batch[0] + torch.randn(1, generator=OF_THE_FILE)], batch_idx)


def test_what_is_drawn_from_a_generator_of_the_file_depends_on_the_seed_alone():
    one, again, other = fit(DrawsFromTheFile)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_the_encoder_is_given_what_comes_before_it_and_nothing_after_it_is_run():
    class Failing(Autoencoder):
        def training_step(self, batch, batch_idx):
            found = super().training_step([2 * batch[0]], batch_idx)
            assert torch.is_grad_enabled()
            return found

    one, *_ = fit(Failing)
    assert torch.equal(one, 2 * BATCH[0])


class WithHooks(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.count = 0

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(80, 1, 8, 8), torch.zeros(80)), batch_size=8)

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.count += 1
        return [batch[0] + 1 + dataloader_idx, batch[1]]


class Hooked(Autoencoder):
    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return super().transfer_batch_to_device([batch[0] + dataloader_idx, batch[1]], device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [3 * batch[0] + dataloader_idx, batch[1]]


@pytest.mark.filterwarnings("ignore:You have overridden `")
def test_the_transfer_hooks_are_those_that_training_has():
    assert torch.equal(fit(Hooked)[0], 3 * BATCH[0])
    assert torch.equal(fit(Autoencoder, datamodule=WithHooks)[0], BATCH[0] + 1)
    assert torch.equal(fit(Hooked, datamodule=WithHooks)[0], 3 * (BATCH[0] + 1))


def test_what_a_datamodule_s_hook_draws_depends_on_the_seed_alone():
    class Drawing(WithHooks):
        def __init__(self):
            super().__init__()
            self.generator = torch.Generator().manual_seed(5)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return super().on_before_batch_transfer([batch[0] + torch.rand(1, generator=self.generator), batch[1]], 0)

    one, again, other = fit(Autoencoder, datamodule=Drawing)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_what_the_module_does_with_a_batch_before_its_step_is_done():
    class Started(Autoencoder):
        def on_train_batch_start(self, batch, batch_idx):
            self.gain = 2 + batch_idx

        def training_step(self, batch, batch_idx):
            gain, self.gain = self.gain, float("nan")
            return super().training_step([gain * batch[0]], batch_idx)

    assert torch.equal(fit(Started)[0], 2 * BATCH[0])


def test_an_encoder_that_was_not_seen_is_given_the_input_of_its_shape():
    found = fit(Hooked, lambda *both: given(*both, call=None, shape=(1, 8, 8)))
    assert torch.equal(found[0], 3 * BATCH[0])
    with pytest.raises(NotReachedError, match=r"the batch holds no input of shape \(4,\)"):
        fit(Hooked, lambda *both: given(*both, call=None, shape=(4,)))


def test_a_method_and_a_later_call_are_seen():
    class ByMethod(Autoencoder):
        def embed(self, x, *, scale):
            return self.encoder(x * scale)

        def training_step(self, batch, batch_idx):
            return (self.embed(batch[0], scale=1.0) - self.embed(batch[0], scale=2.0)).square().mean()

    call = EncoderCall("", "embed", InputLeaf(("args", 0), (1, 8, 8), 8), calls=2)

    def both(trainer, pl_module):
        replay = StepReplay(trainer, pl_module, call)
        with replay.ready():
            found = replay.inputs(BATCH, 0, calls=2)
            with pytest.raises(NotReachedError, match="`training_step` calls the encoder 2 times"):
                replay.inputs(BATCH, 0, calls=3)
        assert "embed" not in vars(pl_module)
        return [at(one, ("kwargs", "scale")) for one in found]

    assert fit(ByMethod, both) == [1.0, 2.0]


class Manual(Autoencoder):
    """Steps an optimizer before it calls the encoder."""

    before = "step"

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad()
        if self.before == "backward":
            self.manual_backward(self.decoder(torch.ones(2, 16)).mean())
        if self.before == "step":
            optimizer.step()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()
        self.untoggle_optimizer(optimizer)


@pytest.mark.parametrize("before", ["step", "backward"])
def test_a_step_of_an_optimizer_before_the_encoder_is_not_made(before):
    with pytest.raises(NotReachedError, match="it updates weights before it calls the encoder"):
        fit(type("Stepping", (Manual,), {"before": before}))


def test_a_step_that_is_not_made_does_not_reach_the_strategy():
    """Which may have scaled gradients before it calls the optimizer."""

    def refused(trainer, pl_module):
        made = []
        trainer.strategy.optimizer_step = lambda *args, **kwargs: made.append(args)
        try:
            with pytest.raises(NotReachedError, match="it updates weights"):
                given(trainer, pl_module)
        finally:
            del trainer.strategy.optimizer_step
        return made

    assert fit(Manual, refused) == []


def test_a_module_without_optimizers_is_replayed():
    class Without(Autoencoder):
        def configure_optimizers(self):
            return None

        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    def begun(trainer, pl_module):
        trainer.should_stop = True
        return given(trainer, pl_module)

    model, run = Without(), Replaying(begun)
    with pytest.warns(UserWarning, match="returned `None`"):
        trainer(run, max_epochs=1, max_steps=-1).fit(model)
    assert run.error is None
    assert torch.equal(run.found[0], BATCH[0])


def test_optimizers_by_hand_are_no_obstacle_after_the_encoder():
    assert torch.equal(fit(type("After", (Manual,), {"before": ""}))[0], BATCH[0])


def test_a_generator_in_the_module_is_not_advanced():
    class Iterating(Autoencoder):
        def __init__(self):
            super().__init__()
            self.noise = (x for x in torch.randn(100, 1))

        def training_step(self, batch, batch_idx):
            return super().training_step([batch[0] + next(self.noise)], batch_idx)

    with pytest.raises(ValueError, match=r"Iterating\.noise is an iterator"):
        fit(Iterating)


def test_a_step_that_fails_or_takes_an_iterator_says_so():
    class Picky(Autoencoder):
        def training_step(self, batch, batch_idx):
            if not torch.is_grad_enabled():
                raise KeyError("mask")
            return super().training_step(batch, batch_idx)

    with pytest.raises(NotReachedError, match="`training_step` failed before the encoder was called: KeyError: 'mask'"):
        fit(Picky)


def test_a_generator_of_a_loader_that_the_module_holds_goes_on_where_it_was():
    class Holding(Autoencoder):
        def __init__(self):
            super().__init__()
            self.loader = super().train_dataloader()
            self.loader = DataLoader(self.loader.dataset, 8, shuffle=True, generator=torch.Generator().manual_seed(4))

        def train_dataloader(self):
            return self.loader

        @property
        def count(self):
            return self.loader.generator.get_state()

    fit(Holding)


class Decisions:
    """Of this process and one other."""

    def __init__(self, strategy, other):
        self.strategy, self.other = strategy, other

    def __getattr__(self, name):
        return getattr(self.strategy, name)

    def reduce_boolean_decision(self, decision, all):
        return (decision and self.other) if all else (decision or self.other)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("other", [False, True])
def test_a_step_that_fails_on_one_process_counts_on_all(fails, other, monkeypatch):
    class Picky(Autoencoder):
        def training_step(self, batch, batch_idx):
            if fails and batch[0].shape[-1] == 8 and torch.equal(batch[0], BATCH[0] + 1):
                raise KeyError("mask")
            return super().training_step(batch, batch_idx)

    kept = BATCH[0] + 1
    batch = [kept.clone(), BATCH[1]]

    def everywhere(trainer, pl_module):
        replay = StepReplay(trainer, pl_module, CALL)
        replay.trainer = type("Two", (), {"__getattr__": lambda _, name: getattr(trainer, name)})()
        replay.trainer.strategy = Decisions(trainer.strategy, other)
        with replay.ready():
            return replay.everywhere(batch, 1).args[0]

    if fails or other:
        said = "KeyError: 'mask'" if fails else "another process failed; its log has the reason"
        with pytest.raises(NotReachedError, match=said):
            fit(Picky, everywhere)
    else:
        assert torch.equal(fit(Picky, everywhere), kept)
    assert torch.equal(batch[0], kept)


def test_a_step_may_change_its_batch_which_is_used_again():
    class InPlace(Autoencoder):
        def training_step(self, batch, batch_idx):
            batch[0].mul_(2)
            return super().training_step(batch, batch_idx)

    def twice(trainer, pl_module):
        replay = StepReplay(trainer, pl_module, CALL)
        with replay.ready():
            return [replay.everywhere(BATCH, 1).args[0] for _ in range(2)]

    before = BATCH[0].clone()
    for found in fit(InPlace, twice):
        assert torch.equal(found, 2 * before)
    assert torch.equal(BATCH[0], before)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_modules_have_the_modes_that_the_step_has_in_training_or_validation():
    class PartlyFrozen(Autoencoder):
        def on_train_batch_start(self, batch, batch_idx):
            self.decoder.eval()

        def validation_step(self, batch, batch_idx):
            return self.encoder(batch[0])

    def modes(trainer, pl_module):
        found = []
        for step in ("training_step", "validation_step"):
            replay = StepReplay(trainer, pl_module, CALL, step=step)
            with replay.ready():
                found.append([part.training for part in (pl_module, pl_module.encoder, pl_module.decoder)])
            found.append([part.training for part in (pl_module, pl_module.encoder, pl_module.decoder)])
        return found

    assert fit(PartlyFrozen, modes) == [[True, True, False], [True, True, False], [False] * 3, [True, True, False]]


def test_a_step_is_given_the_index_of_a_batch_where_it_takes_one():
    class Several(Autoencoder):
        def training_step(self, *given):
            return super().training_step([given[0][0] + len(given) + given[1]], 0)

    class Alone(Autoencoder):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    assert torch.equal(fit(Several)[0], BATCH[0] + 2)
    assert torch.equal(fit(Alone)[0], BATCH[0])


@pytest.mark.filterwarnings("ignore:You have overridden `")
def test_transfer_hooks_are_applied_unless_they_were():
    def given(trainer, pl_module):
        replay = StepReplay(trainer, pl_module, CALL)
        with replay.ready():
            both = [replay.everywhere(BATCH, 1), replay.everywhere(BATCH, 1, transferred=True)]
            both += replay.inputs(BATCH, 1, transferred=True)
        return [one.args[0] / BATCH[0] for one in both]

    for found, factor in zip(fit(Hooked, given), (3, 1, 1), strict=True):
        torch.testing.assert_close(found, torch.full_like(found, factor))


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_a_step_runs_in_its_own_precision_and_a_batch_begins_in_training_alone():
    class Both(Autoencoder):
        def on_train_batch_start(self, batch, batch_idx):
            self.begun = batch_idx

        def validation_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

    def seen(trainer, pl_module):
        found, plugin = [], trainer.precision_plugin
        for name in ("train_step_context", "val_step_context"):
            original = getattr(plugin, name)
            setattr(plugin, name, lambda name=name, original=original: (found.append(name), original())[1])
        for step in ("training_step", "validation_step"):
            replay = StepReplay(trainer, pl_module, CALL, step=step)
            with replay.ready():
                pl_module.begun = None
                replay.inputs(BATCH, 1)
                found.append(pl_module.begun)
        del plugin.train_step_context, plugin.val_step_context
        return found

    assert fit(Both, seen) == ["train_step_context", 0, "val_step_context", None]


def test_an_encoder_within_another_module_is_seen():
    class Nested(Autoencoder):
        def __init__(self):
            super().__init__()
            self.model = nn.ModuleDict({"encoder": self.encoder, "other": nn.Linear(1, 1)})

        def training_step(self, batch, batch_idx):
            self.model["other"](torch.ones(1))
            return super().training_step(batch, batch_idx)

    call = EncoderCall("model.encoder.1", input=InputLeaf(("args", 0), (64,), 8))
    found, *_ = fit(Nested, lambda *both: given(*both, call=call))
    assert torch.equal(found, BATCH[0].flatten(1))


def test_a_datamodule_with_hooks_of_its_own_and_much_data_is_not_copied(monkeypatch):
    monkeypatch.setattr(module_snapshot, "COPY_BYTES", 0)
    assert torch.equal(fit(Autoencoder, datamodule=WithHooks)[0], BATCH[0] + 1)
