import math

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import BenchmarkCallback, BenchmarkResult, SynBenchEarlyStopping, labelled_proxies
from synbench_lightning.functional.benchmark.signal_to_noise import signal_and_noise
from synbench_lightning.functional.representation.class_probabilities import class_log_probabilities
from tests.callbacks.runs import curves, probing, steps, trainer
from tests.encoders import Autoencoder
from tests.integration.test_resume import SaveBefore

KEYS = {f"benchmark/value{end}" for end in ("", "_se", "_low", "_high")}
KEYS |= {f"benchmark_tasks/{task}{end}" for task in ("easy", "hard") for end in ("", "_low", "_high")}
KEYS |= {f"benchmark_details/{name}" for name in ("points", "probe_seconds", "overhead")}
GENERATOR = torch.Generator().manual_seed(0)
LEVELS = {"easy": torch.rand(200, generator=GENERATOR).square(), "hard": 2 * torch.rand(100, generator=GENERATOR)}
DRIFTS = {name: torch.randn(len(level), generator=GENERATOR).abs() for name, level in LEVELS.items()}
NUMBERED = {
    name: TensorDataset(torch.stack([level, DRIFTS[name], torch.arange(len(level)) + 1000.0 * index], 1))
    for index, (name, level) in enumerate(LEVELS.items())
}
"""Points that say how well they will be answered: a level, a drift over the steps, and a number."""


def scripted(module, batch, step=None):
    """Log-likelihoods that are known for every step."""
    level, drift, _ = batch[0].T
    now = module.trainer.global_step if step is None else step
    return -level * torch.exp(-0.02 * now * drift)


def truth(step):
    """The benchmark and its tasks at a step."""
    means = [scripted(None, dataset.tensors, step).double().mean().item() for dataset in NUMBERED.values()]
    return sum(means) / 2, means


def benchmark(every=5, **arguments):
    given = {"log_likelihood": scripted, "budget": 0.2, "warmup": 3, "audit_every": None, **arguments}
    return BenchmarkCallback(given.pop("tasks", NUMBERED), every_n_train_steps=every, **given)


def pictures(n=150):
    """Two questions about images (1, 8, 8)."""
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return {
        "side": TensorDataset(x, (x[..., :4].mean((1, 2, 3)) > 0).long()),
        "sum": TensorDataset(x, torch.arange(n) % 3),
    }


def test_documented_keys_have_one_point_for_each_evaluation_at_its_step():
    logger, callback = TensorBoardLogger("runs"), benchmark(audit_every=2)
    trainer(callback, max_steps=33, logger=logger, log_every_n_steps=50).fit(Autoencoder())
    found = curves(logger)
    for key in KEYS:
        assert [step for step, _ in found[key]] == [0, 5, 10, 15, 20, 25, 30, 33], key
    assert [step for step, _ in found["benchmark_details/detectable_difference"]] == [15, 20, 25, 30, 33]
    assert [step for step, _ in found["benchmark_details/audit_error"]] == [20, 30]
    assert [step for step, _ in found["benchmark_details/decision_accuracy"]] == [10, 15, 20, 25, 30, 33]
    ratios = {f"benchmark_{key}_signal_to_noise" for key in ("tasks/easy", "tasks/hard")}
    ratios |= {"benchmark_details/signal_to_noise"}
    for key in ratios:
        assert [step for step, _ in found[key]] == [20, 25, 30, 33], key
    rest = ("detectable_difference", "audit_error", "audit_error_se", "decision_accuracy")
    details = {f"benchmark_details/{name}" for name in rest}
    assert {key for key in found if key.startswith("benchmark")} == KEYS | ratios | details


def test_signal_and_noise_are_those_of_the_values_so_far_and_silent_tasks_are_named(caplog):
    def answered(module, batch):
        """One task rises with the steps; the other goes up and down without an order."""
        level, _, number = batch[0].T
        step = module.trainer.global_step
        moved = torch.where(number < 1000, 0.02 * step, torch.tensor(step * 37 % 101 / 101))
        return -level.clamp(0.0, 1.0) - 2.0 + moved

    callback = benchmark(log_likelihood=answered, warmup=9)
    with caplog.at_level("INFO"):
        trainer(callback, max_steps=60).fit(Autoencoder())
    assert [result.signal is None for result in callback.history] == [True] * 4 + [False] * 9
    last = callback.history[-1]
    series = torch.tensor([[result.value, *result.task_values] for result in callback.history], dtype=torch.float64)
    signal, noise, _ = signal_and_noise(series)
    assert (last.signal, *last.task_signals) == pytest.approx(tuple(signal.tolist()))
    assert (last.noise, *last.task_noises) == pytest.approx(tuple(noise.tolist()))
    assert last.silent_tasks == ("hard",)
    assert "Tasks that tell nothing so far, in no other than random order: hard." in caplog.text
    assert last.decision_accuracy == 1.0  # every point of a task moves alike
    assert BenchmarkResult.from_dict(last.to_dict()) == last


def test_in_the_warm_up_the_values_are_exact():
    callback = benchmark()
    trainer(callback, max_steps=10).fit(Autoencoder())
    for result in callback.history:
        value, tasks = truth(result.step)
        assert result.complete
        assert result.num_points == 300
        assert result.value == pytest.approx(value, rel=1e-6)
        assert list(result.task_values) == pytest.approx(tasks, rel=1e-6)
        assert result.standard_error == 0
        assert result.interval == pytest.approx((value, value), rel=1e-6)


def test_after_the_warm_up_only_the_selection_is_evaluated():
    seen = {}

    def recorded(module, batch):
        seen.setdefault(module.trainer.global_step, []).extend(batch[0][:, 2].tolist())
        return scripted(module, batch)

    callback = benchmark(log_likelihood=recorded)
    trainer(callback, max_steps=25).fit(Autoencoder())
    assert [len(points) for points in seen.values()] == [300, 300, 300, 60, 60, 60]
    assert sorted(seen[15]) == sorted(seen[20]) == sorted(seen[25])
    assert [result.complete for result in callback.history] == [True, True, True, False, False, False]


@pytest.mark.parametrize("method", ["clusters", "residual", "random"])
def test_the_intervals_of_predictions_cover_over_many_draws(method):
    held, wide = [], []
    for seed in range(12):
        callback = benchmark(seed=seed, method=method)
        trainer(callback, max_steps=20).fit(Autoencoder())
        for result in callback.history[3:]:
            value, tasks = truth(result.step)
            held.append(result.interval[0] <= value <= result.interval[1])
            held += [low <= task <= high for task, (low, high) in zip(tasks, result.task_intervals, strict=True)]
            wide.append(result.interval[1] - result.interval[0])
    assert sum(held) / len(held) > 0.85
    assert max(wide) < 0.5


def test_an_audit_of_all_other_points_finds_the_exact_error():
    callback = benchmark(audit_every=2, audit=1.0)
    trainer(callback, max_steps=30).fit(Autoencoder())
    audited = [result for result in callback.history if result.audit_error is not None]
    assert [result.step for result in audited] == [20, 30]
    for result in audited:
        assert result.audit_error == pytest.approx(result.value - truth(result.step)[0], abs=1e-6)
        assert result.audit_standard_error == pytest.approx(0, abs=1e-9)


def test_small_audits_draw_other_points_each_time_and_are_about_right():
    seen = {}

    def recorded(module, batch):
        seen.setdefault(module.trainer.global_step, set()).update(batch[0][:, 2].tolist())
        return scripted(module, batch)

    callback = benchmark(audit_every=1, audit=0.2, log_likelihood=recorded)
    trainer(callback, max_steps=40).fit(Autoencoder())
    selected = set.intersection(*(seen[step] for step in range(15, 41, 5)))
    assert len(selected) == 60
    assert len({frozenset(seen[step] - selected) for step in range(15, 41, 5)}) == 6
    for result in callback.history[3:]:
        error = result.value - truth(result.step)[0]
        assert abs(result.audit_error - error) < 5 * result.audit_standard_error


def test_the_detectable_difference_shrinks_with_the_budget():
    found = []
    for budget in (0.05, 0.2, 1.0):
        callback = benchmark(budget=budget)
        trainer(callback, max_steps=15).fit(Autoencoder())
        found.append(callback.history[-1].detectable_difference)
    assert found[0] > found[1] > 0 == found[2]


def test_the_built_in_readout_is_that_of_the_features_of_the_same_weights():
    callback, model = benchmark(log_likelihood=None, tasks=pictures(), support=60, warmup=9), Autoencoder()
    trainer(callback, max_steps=10).fit(model)
    model.eval()
    for index, (name, dataset) in enumerate(pictures().items()):
        x, y = dataset.tensors
        support = callback.benchmark._support[index]
        rest = torch.ones(150, dtype=torch.bool)
        rest[support] = False
        with torch.no_grad():
            expected = class_log_probabilities(model.encoder(x[support]), y[support], model.encoder(x[rest]))
        right = expected.gather(1, y[rest, None])[:, 0]
        torch.testing.assert_close(callback.curves[-1][index * 90 :][:90], right.float(), rtol=1e-4, atol=1e-4)
        assert callback.history[-1].task_values[callback.history[-1].tasks.index(name)] == pytest.approx(
            right.mean().item(), abs=1e-5
        )


def test_a_resumed_run_goes_on_with_the_same_points_and_values():
    whole = benchmark(audit_every=2)
    trainer(whole, SaveBefore(22), max_steps=40).fit(Autoencoder())
    resumed = benchmark(audit_every=2)
    trainer(resumed, max_steps=40).fit(Autoencoder(), ckpt_path="saved.ckpt")

    def values(callback):
        return [{**result.to_dict(), "seconds": 0} for result in callback.history]

    assert values(resumed) == values(whole)
    assert torch.equal(resumed.selection.indices, whole.selection.indices)


@pytest.mark.parametrize("step", [2, 7, 12, 17])
def test_a_run_resumed_in_or_after_the_warm_up_has_the_same_steps(step):
    first = benchmark()
    trainer(first, SaveBefore(step), max_steps=25).fit(Autoencoder())
    resumed = benchmark()
    trainer(resumed, max_steps=25).fit(Autoencoder(), ckpt_path="saved.ckpt")
    assert steps(resumed) == steps(first) == [0, 5, 10, 15, 20, 25]
    assert [result.num_points for result in resumed.history] == [300, 300, 300, 60, 60, 60]


def test_another_benchmark_than_that_of_the_checkpoint_is_warmed_up_again():
    trainer(benchmark(), SaveBefore(22), max_steps=25).fit(Autoencoder())
    resumed = benchmark(tasks={"easy": NUMBERED["easy"]})
    with pytest.warns(UserWarning, match="benchmark of the checkpoint was another one"):
        trainer(resumed, max_steps=40).fit(Autoencoder(), ckpt_path="saved.ckpt")
    assert [(result.step, result.num_points) for result in resumed.history[-4:]] == [
        (25, 200), (30, 200), (35, 200), (40, 40),
    ]  # fmt: skip


def test_checkpoints_load_with_weights_only():
    run = trainer(benchmark(), max_steps=20)
    run.fit(Autoencoder())
    run.save_checkpoint("run.ckpt")
    state = torch.load("run.ckpt", weights_only=True)["callbacks"]
    (key,) = [key for key in state if key.startswith("Benchmark")]
    assert state[key]["curves"].shape == (3, 300)
    assert len(BenchmarkResult.from_dict(state[key]["history"][0]).tasks) == 2


def test_early_stopping_and_checkpoints_work_on_its_keys():
    def peaked(module, batch):
        return scripted(module, batch, 0) - abs(module.trainer.global_step - 20) / 100

    saving = ModelCheckpoint("kept", "{step}", monitor="benchmark/value", mode="max", every_n_train_steps=5)
    stop = SynBenchEarlyStopping(monitor="benchmark/value", patience=3)
    run = trainer(saving, stop, benchmark(log_likelihood=peaked), max_steps=100, enable_checkpointing=True)
    run.fit(Autoencoder())
    assert run.global_step == 35
    assert "step=20" in saving.best_model_path


def test_it_stands_beside_the_score():
    logger = TensorBoardLogger("runs")
    trainer(benchmark(), probing(), max_steps=5, logger=logger).fit(Autoencoder())
    found = curves(logger)
    assert len(found["synbench/score"]) == len(found["benchmark/value"]) == 2


def test_a_data_loader_says_how_examples_become_a_batch():
    lengths = torch.arange(1, 31)
    items = [torch.ones(int(length)) for length in lengths]

    def padded(rows):
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    callback = benchmark(
        tasks={"length": DataLoader(items, collate_fn=padded)}, log_likelihood=lambda module, batch: -batch.sum(1)
    )
    trainer(callback, max_steps=5).fit(Autoencoder())
    assert callback.history[0].value == pytest.approx(-lengths.double().mean().item())


def test_an_evaluation_that_fails_is_left_out_and_training_goes_on():
    def failing(module, batch):
        return scripted(module, batch) * (math.nan if module.trainer.global_step == 20 else 1)

    callback = benchmark(log_likelihood=failing)
    with pytest.warns(UserWarning, match=r"benchmark evaluation after step 20 failed.*finite and at most 0.*'easy'"):
        trainer(callback, max_steps=30).fit(Autoencoder())
    assert steps(callback) == [0, 5, 10, 15, 25, 30]


def test_proxy_tasks_are_a_benchmark():
    tasks = labelled_proxies("default", (1, 8, 8), scales=(0.5, 4.0), examples=400)
    assert list(tasks) == ["dc@0.5", "dc@4", "cos_1@0.5", "cos_1@4", "cos_2@0.5", "cos_2@4"]
    x, y = tasks["dc@4"].tensors
    shift = x[y == 1].mean(0) - x[y == 0].mean(0)
    torch.testing.assert_close(shift, torch.full((1, 8, 8), 2 * 4.0 / 8), rtol=0, atol=0.45)
    assert torch.equal(labelled_proxies("dc", (1, 8, 8), (4.0,), 400)["dc@4"].tensors[0], x)
    torch.manual_seed(0)
    callback = BenchmarkCallback(tasks, every_n_train_steps=5)
    trainer(callback, max_steps=5).fit(Autoencoder())
    values = dict(zip(tasks, callback.history[0].task_values, strict=True))
    assert values["dc@4"] > values["dc@0.5"] > math.log(0.5) - 0.1
    assert values["dc@4"] > -0.45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": {}}, "`tasks` must be a non-empty mapping of names to datasets"),
        ({"tasks": {"a/b": NUMBERED["easy"]}}, "`tasks` must be a non-empty string without '/'"),
        ({"tasks": {"a": iter([])}}, "`tasks`: 'a' must be a dataset with a length and items by index"),
        ({"log_likelihood": None, "support": 199}, "`tasks`: 'easy' has 200 examples; at least 201 are needed"),
        ({"budget": 0.0}, r"`budget` must be a fraction of the items in \(0, 1\]"),
        ({"audit": 1.5}, r"`audit` must be a fraction of the items in \(0, 1\]"),
        ({"warmup": 0}, "`warmup` must be an integer of at least 1"),
        ({"method": "anchors"}, "`method` must be 'residual', 'clusters' or 'random'"),
        ({"log_likelihood": "no"}, "`log_likelihood` must be a callable"),
        ({"encoder": "encoder"}, "`encoder` and `log_likelihood` are mutually exclusive"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        benchmark(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"log_likelihood": lambda module, batch: batch[0]}, r"must return a floating-point tensor of shape \(200,\)"),
        ({"log_likelihood": lambda module, batch: batch[0][:, 0] + 1}, "must be finite and at most 0"),
        ({"log_likelihood": None, "support": 40}, r"'easy' must be pairs \(input, label\)"),
        (
            {
                "log_likelihood": None,
                "tasks": {"rare": TensorDataset(torch.rand(99, 1, 8, 8), torch.arange(99))},
                "support": 20,
            },
            "The readout of the task 'rare', of 20 examples.*two examples of each",
        ),
    ],
)
def test_answers_that_are_none_are_refused_in_the_first_evaluation(arguments, message):
    with pytest.raises(ValueError, match=message):
        trainer(benchmark(**arguments), max_steps=5).fit(Autoencoder())
