"""What is to be watched stands first, and who monitors a key by an old name is told the new one."""

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch.utils.data import TensorDataset

from synbench_lightning import BenchmarkCallback, SynBenchEarlyStopping
from synbench_lightning.cli.run_files import runs_in
from tests.callbacks.runs import curves, probing, trainer
from tests.callbacks.test_views import Pairs, jitter
from tests.encoders import Autoencoder

X = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
Y = (X.mean((1, 2, 3)) > 0).long()
WAYS = [
    ({}, "score"),
    ({"inputs": X}, "information"),
    ({"inputs": X, "views": jitter}, "information"),
    ({"labels": (X, Y)}, "readout"),
    ({"inputs": X, "labels": Y}, "readout"),
    ({"inputs": X, "views": jitter, "labels": Y}, "information"),
    ({"inputs": "auto"}, "information"),
]


@pytest.mark.parametrize(("arguments", "monitored"), WAYS)
def test_the_key_to_monitor_comes_first_and_a_few_others_beside_it(arguments, monitored):
    logger = TensorBoardLogger("runs")
    callback = probing(**arguments)
    trainer(callback, max_steps=10, logger=logger, log_every_n_steps=50).fit(Pairs())
    watched, *others = sorted({key.split("/")[0] for key in curves(logger) if key.startswith("synbench")})
    assert watched == "synbench"
    layers = ["synbench_layers"] * bool(callback.history[-1].layers)
    assert others == ["synbench_details", *layers, "synbench_tasks"]
    assert bool(layers) == (monitored != "score")
    keys = sorted(key for key in curves(logger) if key.startswith("synbench/"))
    assert keys[0] == f"synbench/{monitored}" == callback.monitored(callback.history[-1])
    assert 4 <= len(keys) <= 8
    assert {key.removesuffix("_se").split("/")[1] for key in keys} <= {"information", "readout", "score", "worst"}


def test_the_value_of_a_benchmark_comes_first_too():
    logger = TensorBoardLogger("runs")
    tasks = {"side": TensorDataset(X, Y), "a": TensorDataset(X, 1 - Y)}
    callback = BenchmarkCallback(tasks, support=10, warmup=1, every_n_train_steps=5, prefix="mine")
    trainer(callback, max_steps=10, logger=logger, log_every_n_steps=50).fit(Autoencoder())
    keys = sorted(key for key in curves(logger) if key.startswith("mine"))
    assert keys[:4] == ["mine/value", "mine/value_high", "mine/value_low", "mine/value_se"]
    assert {key.split("/")[0] for key in keys[4:]} == {"mine_details", "mine_tasks"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("synbench/mean", "synbench_details/mean"),
        ("synbench/score_eps_0.20", "synbench_details/score_eps_0.20"),
        ("synbench/task/dc", "synbench_tasks/dc"),
    ],
)
def test_who_monitors_an_old_name_is_told_the_new_one_when_the_fit_starts(old, new, recwarn):
    checkpoint = ModelCheckpoint(monitor=old, mode="max", every_n_train_steps=5)
    run = trainer(
        probing(probe_at_start=False), probing(prefix="deep"), checkpoint, max_steps=1, enable_checkpointing=True
    )
    run.fit(Autoencoder())
    told = [str(warning.message) for warning in recwarn if "monitor=" in str(warning.message)]
    assert len([text for text in told if f"(monitor={old!r}): that key is now called {new!r}" in text]) == 1
    assert not [text for text in told if "Did you mean" in text]
    with pytest.raises(ValueError, match=f"that key is now called '{new}'"):
        trainer(probing(), SynBenchEarlyStopping(old), max_steps=1).fit(Autoencoder())


@pytest.mark.parametrize("key", ["synbench_details/gap", "synbench_tasks/cos_1", "synbench/worst_se"])
def test_a_key_of_any_section_is_monitored(key, recwarn):
    stop = SynBenchEarlyStopping(key, mode="min")
    stock = EarlyStopping(key, mode="min")
    trainer(
        probing(every=1), probing(prefix="synbench_b"), stop, stock, max_steps=4, limit_train_batches=2
    ).fit(Autoencoder())  # fmt: skip
    assert max(stop.best_score, stock.best_score) < 1.2  # both have seen it
    assert not [warning for warning in recwarn if "that key" in str(warning.message)]


def test_information_with_noise_gives_way_to_a_readout_and_says_where_it_went():
    checkpoint = ModelCheckpoint(monitor="synbench/information", mode="max", every_n_train_steps=5)
    run = trainer(probing(inputs=X, labels=Y), checkpoint, max_steps=1, enable_checkpointing=True)
    with pytest.warns(UserWarning, match="Did you mean 'synbench_details/information'"):
        run.fit(Autoencoder())


@pytest.mark.parametrize("other", ["synbench_details", "synbench_tasks"])
def test_prefixes_whose_keys_would_mix_are_refused(other):
    with pytest.raises(ValueError, match=rf"have the prefixes \['synbench', '{other}'\].*its own `prefix=`"):
        trainer(probing(), probing(prefix=other)).fit(Autoencoder())


def test_a_log_with_the_old_names_is_read_as_one_with_the_new_ones(tmp_path):
    callback = probing()
    trainer(callback, max_steps=5, logger=CSVLogger(tmp_path)).fit(Autoencoder())
    (path,) = tmp_path.rglob("metrics.csv")
    (now,) = runs_in(tmp_path)
    text = path.read_text().replace("synbench_details/", "synbench/").replace("synbench_tasks/", "synbench/task/")
    path.write_text(text)
    (before,) = runs_in(tmp_path)
    assert before.points == now.points
    assert {"score", "effective_rank", "overhead", "task/dc"} <= set(before.points[5])
