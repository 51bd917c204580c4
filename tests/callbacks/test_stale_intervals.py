"""Which consumers of a probed value are warned of, for intervals that are written down."""

import math
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from synbench_lightning.callbacks.config_warnings import (
    best_key_warnings,
    interval_warnings,
    renamed_key_warnings,
    setup_warnings,
    unknown_key_warnings,
)
from synbench_lightning.callbacks.schedule import Schedule

KEY = "synbench/score"


class Listener:
    """Is notified of each probe."""


class Trains(torch.optim.SGD):
    """Has one of the two methods of an optimizer that averages."""

    def train(self):
        pass


def run(*callbacks, batches=10, accumulate=1, validation=None, epochs=1, schedulers=(), module=None, optimizers=()):
    """What is known of a trainer at the start of a fit; ``validation``: batches between validations."""
    return SimpleNamespace(
        callbacks=list(callbacks), num_training_batches=batches, accumulate_grad_batches=accumulate,
        enable_validation=validation is not None, val_check_batch=validation, check_val_every_n_epoch=epochs,
        val_check_interval=1.0 if validation == batches else 0.5, lr_scheduler_configs=list(schedulers),
        lightning_module=module or LightningModule(), optimizers=list(optimizers), strategy=None,
    )  # fmt: skip


def every(steps=1000, epochs=None):
    return Schedule(steps, epochs, True, True)


def warned(trainer, schedule, prefix="synbench"):
    return list(interval_warnings(trainer, prefix, schedule, Listener, "SynBenchCallback"))


def saved(monitor=KEY, **arguments):
    return ModelCheckpoint(monitor=monitor, mode="max", **arguments)


VALIDATED = {"validation": 10}
CHECKPOINTS = [
    ({}, {}, every(10), None),
    ({}, {}, every(4), "every 1 epochs of 10 steps, but a probe is made every 4 steps"),
    ({}, {}, every(epochs=1), None),
    ({}, {}, every(epochs=2), "every 1 epochs of 10 steps, but a probe is made every 2 epochs"),
    ({"every_n_epochs": 2}, {}, every(20), None),
    ({"every_n_epochs": 3}, {}, every(20), "every 3 epochs of 10 steps, but a probe is made every 20 steps"),
    ({"every_n_epochs": 4}, {}, every(epochs=2), None),
    ({"every_n_epochs": 3}, {}, every(epochs=2), "every 3 epochs of 10 steps"),
    ({}, {"batches": 11, "accumulate": 4}, every(3), None),  # the last step of an epoch has the batches that remain
    ({}, {"batches": 11, "accumulate": 4}, every(2), "every 1 epochs of 3 steps"),
    ({"every_n_epochs": 3}, {**VALIDATED, "epochs": 2}, every(60), None),  # both after six epochs
    ({"every_n_epochs": 3}, {**VALIDATED, "epochs": 2}, every(40), "every 6 epochs of 10 steps"),
    ({"save_on_train_epoch_end": True}, {**VALIDATED, "epochs": 2}, every(20), "every 1 epochs of 10 steps"),
    ({"save_on_train_epoch_end": False}, {**VALIDATED, "epochs": 2}, every(20), None),
    ({}, {"validation": 5}, every(5), None),
    ({}, {"validation": 5}, every(2), "at each validation, every 5 steps"),
    ({}, {"validation": 4, "accumulate": 2}, every(2), None),
    ({}, {"validation": 5}, every(epochs=1), "at each validation, every 5 steps, but a probe is made every 1 epochs"),
    ({}, {"validation": 20, "epochs": None}, every(20), None),
    ({}, {"validation": 20, "epochs": None}, every(10), None),
    ({"every_n_train_steps": 6}, {}, every(3), None),
    ({"every_n_train_steps": 6}, {}, every(4), "every 6 steps, but a probe is made every 4 steps"),
    ({"every_n_train_steps": 20}, {}, every(1, epochs=1), "every 20 steps, but a probe is made every 1 epochs"),
    ({"train_time_interval": timedelta(seconds=9)}, {}, every(1), "at intervals of time"),
    ({}, {"batches": math.inf}, every(epochs=1), None),
    ({}, {"batches": math.inf}, every(epochs=2), "every 1 epochs of inf steps"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "at", "schedule", "text"), CHECKPOINTS)
def test_a_checkpoint_is_warned_of_where_it_is_saved_without_a_probe(arguments, at, schedule, text):
    found = warned(run(saved(**arguments), **at), schedule)
    if text is None:
        assert found == []
        return
    [sentence] = found
    assert f"ModelCheckpoint(monitor='synbench/score') saves {text}" in sentence
    [change] = re.findall(r"`ModelCheckpoint\((.*)\)`", sentence)
    better = ModelCheckpoint(**eval(f"dict({change})"))  # what it says to write
    assert (better.monitor, better.mode) == (KEY, "max")
    at_the_end_of_epochs = {**at, "validation": None, "epochs": 1}
    assert warned(run(better, **at_the_end_of_epochs), schedule) == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("{epoch}-{synbench/score:.3f}", 1), ("{synbench_tasks/dc}", 1), ("{epoch}-{val_loss:.2f}", 0), (None, 0),
        ("{synbench2/score}", 0), ("{other/score}", 0),
    ],
)  # fmt: skip
def test_a_file_named_by_a_stale_value_is_warned_of(named, expected):
    assert len(warned(run(ModelCheckpoint(filename=named, save_top_k=-1)), every(4))) == expected
    assert len(warned(run(saved(filename=named)), every(4))) == 1  # of what it monitors alone
    assert warned(run(ModelCheckpoint(filename=named, save_top_k=-1)), every(5)) == []


class Reads(Callback):
    def __init__(self, monitor=KEY, mode=None):
        self.monitor, self.mode = monitor, mode


class Listens(Reads, Listener):
    pass


@pytest.mark.parametrize(
    ("at", "schedule", "expected"),
    [
        ({}, every(10), 0), ({}, every(11), 1), ({}, every(epochs=1), 0), ({}, every(epochs=2), 1),
        ({"validation": 5}, every(5), 0), ({"validation": 5}, every(6), 1),
        ({"validation": 6, "accumulate": 2}, every(3), 0), ({"validation": 6, "accumulate": 2}, every(4), 1),
        ({**VALIDATED, "epochs": 3}, every(30), 0), ({**VALIDATED, "epochs": 3}, every(31), 1),
        ({**VALIDATED, "epochs": None}, every(10), 0), ({**VALIDATED, "epochs": None}, every(11), 1),
        ({"batches": 10, "accumulate": 3}, every(4), 0), ({"batches": 10, "accumulate": 3}, every(5), 1),
        ({"batches": math.inf}, every(10**6), 0),
    ],
)  # fmt: skip
def test_who_reads_more_often_than_there_are_probes_is_warned_of(at, schedule, expected):
    stopping = EarlyStopping(KEY, mode="max", patience=7)
    [stops, reads] = [warned(run(one, **at), schedule) for one in (stopping, Reads())]
    assert (len(stops), len(reads)) == (expected, expected)
    if expected:
        assert "`SynBenchEarlyStopping(monitor='synbench/score', patience=7)`" in stops[0]
        assert "or `SynBenchCallback(every_n_epochs=1)`." in stops[0]
        assert reads[0].startswith("Reads(monitor='synbench/score') may check at the end of each epoch or validation")
    assert warned(run(Listens(), **at), schedule) == []


def test_early_stopping_at_the_end_of_epochs_reads_a_value_in_each():
    at = {**VALIDATED, "epochs": 3}
    assert warned(run(EarlyStopping(KEY, mode="max", check_on_train_epoch_end=False), **at), every(30)) == []
    assert len(warned(run(EarlyStopping(KEY, mode="max", check_on_train_epoch_end=True), **at), every(30))) == 1


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (KEY, True), ("synbench/worst", True), ("synbench_details/gap", False), ("synbench/score_se", False),
        ("synbench_details/probe_seconds", False), ("synbench_details/overhead", False), ("loss", False),
        ("synbench/detectable_difference", False), ("synbench/points", False),
    ],
)  # fmt: skip
def test_the_lowest_value_is_not_the_best_one_but_of_errors_and_costs(key, expected):
    told = "prefers low scores: set mode='max'."
    for consumer in (Reads(key, "min"), Listens(key, "min")):
        found = warned(run(consumer), every(5))
        kind = type(consumer).__name__
        assert found == ([f"{kind}(monitor='{key}', mode='min') {told}"] if expected else [])
        assert warned(run(type(consumer)(key, "max")), every(5)) == []


def plateau(monitor=KEY, interval="epoch", frequency=1, reduce=True, mode="max"):
    scheduler = ReduceLROnPlateau(torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1), mode=mode)
    return SimpleNamespace(
        scheduler=scheduler, monitor=monitor, interval=interval, frequency=frequency, reduce_on_plateau=reduce
    )


PLATEAUS = [
    ({}, {}, every(10), None, None),
    ({}, {}, every(11), "1 epochs", '"interval": "epoch", "frequency": 2'),
    ({"frequency": 2}, {}, every(20), None, None),
    ({"frequency": 2}, {}, every(21), "2 epochs", '"interval": "epoch", "frequency": 3'),
    ({}, {}, every(epochs=1), None, None),
    ({}, {}, every(epochs=3), "1 epochs", '"interval": "epoch", "frequency": 3'),
    ({"interval": "step"}, {}, every(10), "1 batches", '"interval": "step", "frequency": 10'),
    ({"interval": "step"}, {}, every(9), "1 batches", '"interval": "step", "frequency": 9'),
    ({"interval": "step"}, {}, every(11), "1 batches", '"interval": "epoch", "frequency": 2'),
    ({"interval": "step", "frequency": 9}, {}, every(9), None, None),
    ({"interval": "step", "frequency": 3}, {"accumulate": 2}, every(3), None, None),  # reads after six batches
    ({"interval": "step", "frequency": 3}, {"accumulate": 2}, every(4), "3 batches",
     '"interval": "step", "frequency": 8'),
    ({"interval": "step"}, {"accumulate": 2}, every(6), "1 batches", '"interval": "epoch", "frequency": 2'),
    ({"interval": "step"}, {}, every(1, epochs=1), "1 batches", '"interval": "epoch", "frequency": 1'),
    ({"reduce": False}, {}, every(99), None, None),
    ({"monitor": None}, {}, every(99), None, None),
    ({"monitor": "loss"}, {}, every(99), None, None),
]  # fmt: skip


@pytest.mark.parametrize(("config", "at", "schedule", "looks", "change"), PLATEAUS)
def test_a_scheduler_that_reads_a_value_twice_is_warned_of(config, at, schedule, looks, change):
    found = warned(run(schedulers=[plateau(**config)], **at), schedule)
    by_hand = LightningModule()
    by_hand.automatic_optimization = False
    assert warned(run(schedulers=[plateau(**config)], module=by_hand, **at), schedule) == []
    if looks is None:
        assert found == []
        return
    [text] = found
    assert text.startswith(f"ReduceLROnPlateau(monitor='synbench/score') checks every {looks}, but a probe is made")
    assert f"\"monitor\": 'synbench/score', {change}}}`" in text
    other = f", or `SynBenchCallback(every_n_epochs={config.get('frequency', 1)})`."
    assert text.endswith(other if config.get("interval") != "step" else "}`.")


class Other(Callback):
    """Another callback that logs, under a prefix that begins with the same letters."""

    def __init__(self, prefix):
        self.prefix = prefix


@pytest.mark.parametrize(
    ("key", "prefixes", "ours"),
    [
        ("synbench/score", [], True), ("synbench_tasks/dc", [], True), ("synbench2/score", [], False),
        ("synbench_two/score", [], True), ("synbench_two/score", ["synbench_two"], False),
        ("synbench_two_tasks/dc", ["synbench_two"], False), ("synbench/score", ["synbench", "synbench_two"], True),
    ],
)  # fmt: skip
def test_keys_of_another_callback_are_left_to_it(key, prefixes, ours):
    trainer = run(Reads(key), *map(Other, prefixes))
    assert len(warned(trainer, every(99))) == ours
    assert len(list(unknown_key_warnings(trainer, "synbench", ["synbench/worst"], Listener))) == ours


class Keeps(Callback):
    def __init__(self, **values):
        vars(self).update(values)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"key": KEY}, 1), ({"keys": ["loss", KEY]}, 1), ({"keys": ("loss", KEY)}, 1), ({"keys": {"a": KEY}}, 1),
        ({"monitor": None, "key": KEY}, 1), ({"monitor": "loss", "key": KEY}, 0), ({"key": "synbench/gap"}, 0),
        ({"keys": {KEY: "a"}}, 0), ({"one": KEY, "two": KEY}, 1), ({"monitor": 3}, 0),
    ],
)  # fmt: skip
def test_a_key_is_found_wherever_a_callback_keeps_it(values, found):
    assert len(warned(run(Keeps(**values)), every(99))) == found


KEYS = ["synbench/information", "synbench/information_se", "synbench/score", "synbench_tasks/dc"]


@pytest.mark.parametrize(
    ("monitor", "close"),
    [
        ("synbench/scor", "synbench/score"), ("synbench_details/information", "synbench/information"),
        ("synbench/zzz", None), ("synbench/score", ""), ("synbench_tasks/dc", ""), ("loss", ""),
        ("synbench/task/dc", ""),  # its name of before has a warning of its own
    ],
)  # fmt: skip
def test_a_key_that_is_not_logged_is_answered_with_those_that_are(monitor, close):
    found = list(unknown_key_warnings(run(Reads(monitor)), "synbench", KEYS, Listener))
    assert list(unknown_key_warnings(run(Listens(monitor)), "synbench", KEYS, Listener)) == []
    assert len(found) == (close != "")
    for text in found:
        assert text.startswith(f"Reads(monitor='{monitor}'): that key is not logged, and the callback will do nothing.")
        assert text.endswith("? The keys to watch are synbench/information, synbench/score.")
        assert close is None or f"Did you mean '{close}'?" in text


def test_of_a_scheduler_whose_key_is_not_logged_the_run_ends():
    [text] = unknown_key_warnings(run(schedulers=[plateau("synbench/scor")]), "synbench", KEYS, Listener)
    assert text.startswith("ReduceLROnPlateau(monitor='synbench/scor'): that key is not logged, and Lightning will end")
    others = [plateau("loss"), plateau(None), plateau("synbench/scor", reduce=False)]
    assert list(unknown_key_warnings(run(schedulers=others), "synbench", KEYS, Listener)) == []


@pytest.mark.parametrize(
    ("monitor", "key"), [("synbench/gap", "synbench_details/gap"), (KEY, None), ("synbench_details/gap", None)]
)
def test_a_key_of_before_is_answered_with_its_name_of_today(monitor, key):
    found = list(renamed_key_warnings(run(Reads(monitor)), "synbench", Listener))
    assert len(found) == (key is not None)
    assert all(f"Use `monitor={key!r}`." in text for text in found)
    assert list(renamed_key_warnings(run(Listens(monitor)), "synbench", Listener)) == []


@pytest.mark.parametrize(("monitor", "best"), [(KEY, "information"), (KEY, "score"), ("synbench/worst", "readout")])
def test_who_watches_the_score_is_told_of_what_says_more(monitor, best):
    found = list(best_key_warnings(run(Reads(monitor)), "synbench", best))
    assert len(found) == ((monitor, best) == (KEY, "information"))
    assert all("Monitor `synbench/information` instead" in text for text in found)


def test_callbacks_are_said_to_average_only_if_they_do():
    swa, own = StochasticWeightAveraging(0.1), Keeps(first=1, average=AveragedModel(torch.nn.Linear(2, 2)))
    kept, called = setup_warnings(run(Reads(), swa, Keeps(first=1), own))
    assert "not the averages that StochasticWeightAveraging computes. After the fit the module has the" in kept
    assert "not the averages that Keeps computes. To probe these, pass `encoder=`" in called


def test_an_optimizer_that_can_only_be_set_to_training_averages_nothing():
    trains = Trains([torch.zeros(1, requires_grad=True)], 0.1)
    assert list(setup_warnings(run(optimizers=[trains]))) == []
    trains.eval = lambda: None
    [text] = setup_warnings(run(optimizers=[trains]))
    assert "not the averages that Trains computes" in text


def hooked(base, *names, steps=False):
    """A class whose hooks read the score, and step a scheduler if asked for."""

    def read(self, *args):
        return self.trainer.callback_metrics["synbench/score"]

    def step(self, *args):
        self.lr_schedulers().step(self.trainer.callback_metrics["synbench/score"])

    return type("Own", (base,), dict.fromkeys(names, step if steps else read))


HOOKS = [
    (["on_train_batch_end"], every(1), None), (["on_train_batch_end"], every(2), "on_train_batch_end"),
    (["training_step"], every(2), "training_step"), (["validation_step"], every(10), None),
    (["on_validation_end"], every(11), "on_validation_end"), (["on_fit_end"], every(99), None),
    (["on_train_epoch_end"], every(11), "on_train_epoch_end"), (["on_train_epoch_end"], every(epochs=1), None),
    (["on_fit_end", "on_train_epoch_end", "training_step"], every(11), "on_train_epoch_end"),
]  # fmt: skip


@pytest.mark.parametrize("base", [LightningModule, Callback])
@pytest.mark.parametrize(("names", "schedule", "found"), HOOKS)
def test_code_that_reads_a_value_more_often_than_it_changes_is_warned_of_once(base, names, schedule, found):
    own = hooked(base, *names)()
    at = {"module": own} if base is LightningModule else {}
    texts = warned(run(*([] if at else [own]), **at), schedule)
    assert len(texts) == (found is not None)
    for text in texts:
        assert text.startswith(f"`Own.{found}` reads 'synbench/score', but a probe is made every {schedule}")


def test_code_of_who_is_notified_of_probes_may_read_what_it_likes():
    own, listening = hooked(Callback, "on_train_batch_end")(), hooked(Listens, "on_train_batch_end")("loss")
    assert warned(run(listening), every(99)) == []
    assert len(warned(run(listening, own), every(99))) == 1  # and another one is still looked at


@pytest.mark.parametrize(("automatic", "kind"), [(False, "plateau"), (True, "plateau"), (False, "other")])
def test_a_plateau_stepped_by_hand_is_warned_of_whenever_it_is_stepped(automatic, kind):
    own = hooked(LightningModule, "on_fit_start", "on_train_batch_end", steps=True)()
    own.automatic_optimization = automatic
    config = plateau("loss")
    if kind == "other":
        config.scheduler = torch.optim.lr_scheduler.StepLR(config.scheduler.optimizer, 1)
    [text] = warned(run(schedulers=[config], module=own), every(99))
    if (automatic, kind) == (False, "plateau"):
        assert text.startswith("`on_fit_start` steps ReduceLROnPlateau and reads 'synbench/score'")
    else:
        assert text.startswith("`Own.on_train_batch_end` reads 'synbench/score'")
