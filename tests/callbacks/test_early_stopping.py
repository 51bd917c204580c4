"""Judged on curves that are made to order: an encoder whose score is set by the step of training."""

import math
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from synbench_lightning import ProbePlan, SynBenchCallback, SynBenchEarlyStopping
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.encoders import Autoencoder


def scripted(levels, every=5):
    """A probing callback whose score falls with the noise that is added to the features: one level for each probe."""

    generators = {}  # the same noise in every probe, other noise in every batch

    def encoder(module, x):
        level = levels[min(module.trainer.global_step // every, len(levels) - 1)]
        generator = generators.setdefault(module.trainer.global_step, torch.Generator().manual_seed(0))
        return x.flatten(1)[:, :4] + level * torch.randn(len(x), 4, generator=generator)

    return probing(every, encoder=encoder, input_shape=(4,), tasks="dc", plan=ProbePlan(forwards=4096))


def test_the_run_ends_in_the_step_in_which_the_patience_does():
    callback = scripted([3.0, 2.0, 1.0, 1.5, 2.0, 0.1])
    stop = SynBenchEarlyStopping(patience=2)
    run = trainer(callback, stop, max_steps=100)
    run.fit(Autoencoder())
    assert run.global_step == 20
    assert steps(callback) == [0, 5, 10, 15, 20]
    assert stop.wait_count == stop.patience


def test_a_run_that_improves_goes_on_to_its_end_with_probes_between_epoch_ends():
    callback = scripted([4.0, 2.8, 2.0, 1.4, 0.9, 0.5, 0.1], every=6)
    run = trainer(SynBenchEarlyStopping(patience=1), callback, max_steps=36, limit_train_batches=4)
    run.fit(Autoencoder())
    assert run.global_step == 36


def test_the_order_of_the_callbacks_does_not_matter():
    stopped = []
    for first in (0, 1):
        pair = [scripted([1.0, 2.0, 3.0]), SynBenchEarlyStopping(patience=2)]
        run = trainer(pair[first], pair[1 - first], max_steps=50)
        run.fit(Autoencoder())
        stopped.append(run.global_step)
    assert stopped == [10, 10]


def test_min_steps_hold_and_an_improvement_until_then_keeps_the_run_going():
    levels = [1.0, 2.0, 2.0, 0.5, 0.6, 0.7]  # the patience of 2 is used up at step 10, step 15 is the best, 25 ends it
    run = trainer(scripted(levels), SynBenchEarlyStopping(patience=2), max_steps=100, min_steps=14)
    run.fit(Autoencoder())
    assert run.global_step == 25


def test_min_delta_is_the_least_improvement_that_counts():
    callback = scripted([1.0, 0.99, 0.98, 0.97])
    run = trainer(callback, SynBenchEarlyStopping(patience=2, min_delta=0.3), max_steps=100)
    run.fit(Autoencoder())
    assert run.global_step == 10


def test_a_resumed_run_keeps_its_patience():
    levels = [1.0, 2.0, 2.0, 2.0, 2.0]
    run = trainer(scripted(levels), SynBenchEarlyStopping(patience=3), max_steps=7)
    run.fit(Autoencoder())
    run.save_checkpoint("at7.ckpt")  # one probe without improvement is behind it, at step 5, and one at its end
    resumed = trainer(scripted(levels), SynBenchEarlyStopping(patience=3), max_steps=50)
    resumed.fit(Autoencoder(), ckpt_path="at7.ckpt")
    assert resumed.global_step == 10


def test_a_failed_probe_counts_for_nothing():
    def encoder(module, x):
        if module.trainer.global_step in (5, 10):
            raise RuntimeError("no luck")
        return x.flatten(1)[:, :4]

    callback = probing(5, encoder=encoder, input_shape=(4,), tasks="dc")
    run = trainer(callback, SynBenchEarlyStopping(patience=2), max_steps=100)
    with pytest.warns(UserWarning, match="is skipped"):
        run.fit(Autoencoder())
    assert run.global_step == 20


def test_a_monitored_key_that_nobody_logs_is_refused():
    with pytest.raises(ValueError, match=r"no callback of this trainer logs that key. Add `SynBenchCallback\(\)`"):
        trainer(SynBenchEarlyStopping()).fit(Autoencoder())
    with pytest.raises(ValueError, match=r"no callback of this trainer logs that key. Monitor 'probe/score'"):
        trainer(SynBenchEarlyStopping(), probing(prefix="probe")).fit(Autoencoder())
    with pytest.raises(ValueError, match=r"the probe does not log that key. It logs synbench/score, "):
        trainer(SynBenchEarlyStopping("synbench/best"), probing()).fit(Autoencoder())


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"min_delta": -0.1}, {"mode": "best"}])
def test_wrong_arguments_are_refused_by_name(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
        SynBenchEarlyStopping(**arguments)


def test_the_stock_early_stopping_works_where_intervals_fit(recwarn):
    run = trainer(
        scripted([1.0, 2.0, 3.0, 4.0], every=10),
        EarlyStopping("synbench/score", mode="max", patience=2),
        max_steps=100,
        limit_train_batches=10,
    )
    run.fit(Autoencoder())
    assert run.global_step == 30
    assert not [warning for warning in recwarn if "probe is made" in str(warning.message)]


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (
            EarlyStopping("synbench/score", mode="max", patience=4),
            r"counts as no improvement. Use `SynBenchEarlyStopping\(monitor='synbench/score', patience=4\)`",
        ),
        (
            ModelCheckpoint(monitor="synbench/score", mode="max", every_n_train_steps=20),
            r"saves every 20 steps, but a probe is made every 25 steps.*mode='max', every_n_train_steps=25\)`",
        ),
        (
            ModelCheckpoint(monitor="synbench/worst", mode="max"),
            r"saves every 1 epochs of 10 steps, but a probe is made every 25 steps.*every_n_train_steps=25\)`",
        ),
    ],
)
def test_intervals_that_do_not_fit_are_told_with_the_change_to_make(callback, message):
    run = trainer(probing(25), callback, max_steps=1, limit_train_batches=10, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=message):
        run.fit(Autoencoder())


def test_intervals_that_fit_are_told_nothing(recwarn):
    fitting = [
        ModelCheckpoint("a", monitor="synbench/score", mode="max", every_n_train_steps=10),
        ModelCheckpoint("b", monitor="synbench/score", mode="max"),
        EarlyStopping("synbench/score", mode="max"),
        SynBenchEarlyStopping(),
    ]
    trainer(probing(5), *fitting, max_steps=1, limit_train_batches=10, enable_checkpointing=True).fit(Autoencoder())
    assert not [warning for warning in recwarn if "probe is made" in str(warning.message)]


BY_SCORE = {"monitor": "synbench/score", "mode": "max"}


@pytest.mark.parametrize(
    ("every", "callback", "told"),
    [
        ({"every_n_epochs": 1}, EarlyStopping(**BY_SCORE), None),
        ({"every_n_epochs": 2}, EarlyStopping(**BY_SCORE), "but a probe is made every 2 epochs"),
        ({"every_n_epochs": 1}, ModelCheckpoint(**BY_SCORE), None),
        ({"every_n_epochs": 2}, ModelCheckpoint(every_n_epochs=4, **BY_SCORE), None),
        ({"every_n_epochs": 2}, ModelCheckpoint(every_n_epochs=3, **BY_SCORE), r"every 3 epochs.*every_n_epochs=2\)"),
        ({"every_n_epochs": 1}, ModelCheckpoint(every_n_train_steps=10, **BY_SCORE), "saves every 10 steps"),
        ({"every_n_train_steps": 20}, ModelCheckpoint(every_n_epochs=2, **BY_SCORE), None),
        (
            {"every_n_train_steps": 20},
            ModelCheckpoint(every_n_epochs=1, **BY_SCORE),
            "saves every 1 epochs of 10 steps",
        ),
        ({"every_n_train_steps": 5}, ModelCheckpoint(train_time_interval=timedelta(hours=1), **BY_SCORE), "of time"),
    ],
)
def test_epochs_and_steps_are_compared(recwarn, every, callback, told):
    probe = SynBenchCallback(plan=SMALL, log_figures=False, **every)
    trainer(probe, callback, max_steps=1, limit_train_batches=10, enable_checkpointing=True).fit(Autoencoder())
    about = [str(warning.message) for warning in recwarn if "a probe is made" in str(warning.message)]
    assert len(about) == (told is not None)
    assert told is None or re.search(told, about[0])


def test_a_score_that_is_minimised_is_told():
    run = trainer(probing(5), EarlyStopping("synbench/score"), max_steps=1, limit_train_batches=10)
    with pytest.warns(UserWarning, match=r"mode='min'\) prefers low scores: set mode='max'"):
        run.fit(Autoencoder())


def test_the_wish_of_another_callback_to_stop_is_kept_when_the_score_improves():
    class Wishing(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.should_stop or trainer.global_step == 10

    run = trainer(Wishing(), scripted([3.0, 2.0, 1.0, 0.5]), SynBenchEarlyStopping(), max_steps=20)
    run.fit(Autoencoder())
    assert run.global_step == 10


def test_min_epochs_hold_and_an_improvement_until_then_keeps_the_run_going():
    levels = [1.0, 2.0, 2.0, 0.5, 0.6, 0.7]  # the patience of 2 is used up at step 10, step 15 is the best, 25 ends it
    stop = SynBenchEarlyStopping(patience=2)
    run = trainer(scripted(levels), stop, max_steps=100, min_epochs=3, limit_train_batches=4)
    run.fit(Autoencoder())
    assert run.global_step == 25


@pytest.mark.parametrize(("level", "least", "told"), [(1.35, 2.0, 0), (1.5, 3.0, 1)])
def test_a_fall_is_told_from_three_standard_errors_on(caplog, level, least, told):
    seed_everything(0)  # a fall is told where the training loss improves
    callback = scripted([2.0, 1.0, level])
    with caplog.at_level("INFO"):
        trainer(callback, max_steps=10, limit_train_batches=10).fit(Autoencoder())
    _, best, last = callback.history
    fall = (best.score() - last.score()) / math.hypot(best.standard_error(), last.standard_error())
    assert least < fall < least + 1
    assert sum("the score has fallen from" in record.message for record in caplog.records) == told


def test_a_wish_to_stop_that_the_minimum_has_overruled_leaves_no_trace():
    stop = SynBenchEarlyStopping(patience=1)
    run = trainer(scripted([1.0, 2.0, 0.5]), stop, max_steps=10, min_steps=8, limit_train_batches=4)
    run.fit(Autoencoder())
    assert run.global_step == 10
    assert (stop.stopped_epoch, stop.wait_count) == (0, 0)
    assert getattr(stop, "stopping_reason", 0) in (0, type(getattr(stop, "stopping_reason", 0))(0))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"best_score": torch.zeros(2)}, "`best_score` must be a tensor with one number"),
        ({"best_score": 0.5}, "`best_score` must be a tensor with one number"),
        ({"wait_count": -1}, "`wait_count` must be an integer of at least 0"), ({"wait_count": 0}, None),
        ({"stopped_epoch": 0.5}, "`stopped_epoch` must be an integer of at least 0"),
    ],
)  # fmt: skip
def test_a_state_that_is_none_of_early_stopping_is_not_taken_up(recwarn, change, why):
    stop = SynBenchEarlyStopping(patience=3)
    known = stop.state_dict()
    stop.load_state_dict({**known, "wait_count": 2, "best_score": torch.tensor(0.5), **change})
    assert [why in str(one.message) for one in recwarn] == ([] if why is None else [True])
    assert (stop.wait_count, float(stop.best_score)) == (0, 0.5 if why is None else -torch.inf)


def test_the_probes_of_another_callback_are_not_judged():
    run = SimpleNamespace(callbacks=[], should_stop=False)
    stop = SynBenchEarlyStopping(patience=1)
    stop.on_probe_end(run, None, {"benchmark/value": 0.0, "benchmark_details/points": 5.0})
    assert (stop.wait_count, run.should_stop) == (0, False)
    with pytest.raises(ValueError, match=r"the probe does not log that key. It logs synbench/worst"):
        stop.on_probe_end(run, None, {"synbench/worst": 0.5})
