import gc
import pickle
import weakref
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel, DemoModel, ManualOptimBoringModel
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.utils.data import DataLoader

from synbench_lightning import GaussianTask, ProbePlan, SynBenchCallback, evaluate
from tests.callbacks.runs import SMALL, curves, probing, steps, trainer
from tests.encoders import Autoencoder, Batches

KEYS = {f"synbench/{name}" for name in ("score", "score_se", "worst", "worst_se")}
KEYS |= {f"synbench_tasks/{name}" for name in ("dc", "cos_1", "cos_2")}
KEYS |= {f"synbench_details/{name}" for name in (
    "score_eps_0.20", "mean", "cvar", "gap", "accuracy", "probe_seconds", "overhead", "smoothed_worst", "mean_se",
    "cvar_se", "smoothed_worst_se", "gap_se", "effective_rank", "alpha_req", "feature_std",
)}  # fmt: skip


def test_documented_keys_have_one_point_for_each_probe_at_its_step():
    logger = TensorBoardLogger("runs")
    callback = probing(every=25)
    trainer(callback, max_steps=60, logger=logger, log_every_n_steps=50).fit(Autoencoder())
    found = curves(logger)
    assert {key for key in found if key.startswith("synbench")} == KEYS
    for key in KEYS:
        assert [step for step, _ in found[key]] == [0, 25, 50, 60], key
    assert [value for _, value in found["synbench/score"]] == pytest.approx([r.score() for r in callback.history])
    assert steps(callback) == [0, 25, 50, 60]


def test_the_logged_values_follow_from_the_result():
    callback = probing()
    run = trainer(callback, max_steps=5)
    run.fit(Autoencoder())
    result, logged = callback.history[-1], run.callback_metrics
    assert logged["synbench/score"] == pytest.approx(result.score("dc", 0.0, 0.7))
    assert logged["synbench_details/score_eps_0.20"] == pytest.approx(result.score("dc", 0.2, 0.7))
    scores = sorted(result.task_scores().values())
    assert logged["synbench/worst"] == pytest.approx(scores[0])
    assert logged["synbench_details/mean"] == pytest.approx(sum(scores) / 3)
    assert logged["synbench_details/gap"] == pytest.approx(sum(scores) / 3 - scores[0])
    assert 0 < logged["synbench_details/overhead"] < 1


def test_the_score_in_training_is_that_of_evaluate_on_the_same_weights():
    model, callback = Autoencoder(), probing()
    trainer(callback, max_steps=10).fit(model)
    offline = evaluate(model.encoder, (1, 8, 8), tasks="default", plan=SMALL)
    assert callback.history[-1].accuracy == offline.accuracy
    assert callback.history[-1].bound == offline.bound


def test_training_with_and_without_probes_is_the_same_to_the_bit():
    weights = []
    for callbacks in ([], [probing(every=3)]):
        seed_everything(0)
        model = Autoencoder()
        trainer(*callbacks, max_steps=30).fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_model_checkpoint_files_weights_under_their_own_score():
    class Recorder(Autoencoder):
        seen: dict[int, float] = {}  # noqa: RUF012

    callback = probing(every=5)
    checkpoint = ModelCheckpoint(
        "checkpoints", "{step}", monitor="synbench/score", mode="max", save_top_k=-1, every_n_train_steps=5
    )
    trainer(checkpoint, callback, max_steps=20, enable_checkpointing=True).fit(Recorder())
    assert len(checkpoint.best_k_models) == 4
    for path, score in checkpoint.best_k_models.items():
        saved = torch.load(path, weights_only=True)
        model = Autoencoder()
        model.load_state_dict(saved["state_dict"])
        assert evaluate(model.encoder, (1, 8, 8), tasks="default", plan=SMALL).score() == pytest.approx(score.item())
    best = max(callback.history[1:], key=lambda result: result.score())
    assert f"step={best.step}" in checkpoint.best_model_path


def test_a_resumed_run_goes_on_with_the_same_curve():
    seed_everything(0)
    whole = probing(every=5)
    trainer(whole, max_steps=40, enable_checkpointing=True, default_root_dir="whole").fit(Autoencoder())
    seed_everything(0)
    first = probing(every=5)
    saving = ModelCheckpoint("checkpoints", every_n_train_steps=10, save_top_k=-1)
    trainer(first, saving, max_steps=40, enable_checkpointing=True).fit(Autoencoder())
    assert first.history[0].accuracy == whole.history[0].accuracy
    for path in sorted(p for p in saving.best_k_models if "step=40" not in p):
        resumed = probing(every=5)
        run = trainer(resumed, max_steps=40, enable_checkpointing=False)
        run.fit(Autoencoder(), ckpt_path=path)
        assert steps(resumed) == steps(whole) == list(range(0, 41, 5))


@pytest.mark.filterwarnings("ignore:`Looking.on_train_batch_start` reads", "ignore:`Looking.training_step` reads")
def test_a_resumed_run_has_the_last_value_to_monitor_before_its_first_probe():
    seen = []

    class Looking(Autoencoder):
        def on_train_batch_start(self, *_):
            seen.append(self.trainer.callback_metrics.get("synbench/score"))

    first = probing(every=5)
    run = trainer(first, max_steps=10)
    run.fit(Autoencoder())
    run.save_checkpoint("at10.ckpt")
    trainer(probing(every=5), max_steps=12).fit(Looking(), ckpt_path="at10.ckpt")
    assert seen[0] == pytest.approx(first.history[-1].score())


def test_the_same_callback_in_a_second_trainer_starts_a_history_of_its_own():
    callback = probing()
    trainer(callback, max_steps=10).fit(Autoencoder())
    trainer(callback, max_steps=5).fit(Autoencoder())
    assert steps(callback) == [0, 5]


def test_a_run_after_one_that_failed_starts_a_history_of_its_own():
    class Failing(Autoencoder):
        def training_step(self, batch, batch_idx):
            raise KeyError("a bug")

    callback = probing()
    with pytest.raises(KeyError):
        trainer(callback, max_steps=10).fit(Failing())
    torch.manual_seed(7)
    trainer(callback, max_steps=5).fit(model := Autoencoder())
    assert steps(callback) == [0, 5]
    assert callback.history[1].score() == evaluate(model.encoder, (1, 8, 8), tasks="default", plan=SMALL).score()


def test_after_the_fit_the_callback_lets_go_of_the_module():
    callback, model = probing(encoder=reading_encoder), Autoencoder()
    trainer(callback, max_steps=5).fit(model)
    copied = pickle.loads(pickle.dumps(callback))
    assert copied.history == callback.history
    assert len(pickle.dumps(callback)) < 20_000
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def reading_encoder(module, x):
    return module.encoder(x)


def test_two_callbacks_with_different_prefixes_log_side_by_side():
    logger = TensorBoardLogger("runs")
    deep = probing(prefix="hidden", encoder=lambda module, x: module.encoder[1](x.flatten(1)), input_shape=(1, 8, 8))
    trainer(probing(), deep, max_steps=5, logger=logger).fit(Autoencoder())
    found = curves(logger)
    assert len(found["hidden/score"]) == len(found["synbench/score"]) == 2
    assert found["hidden/score"] != found["synbench/score"]


def test_several_loggers_and_none():
    loggers = [TensorBoardLogger("tb"), CSVLogger("csv")]
    trainer(probing(), max_steps=5, logger=loggers).fit(Autoencoder())
    assert len(curves(loggers[0])["synbench/score"]) == 2
    header = Path(loggers[1].log_dir, "metrics.csv").read_text().splitlines()[0]
    assert "synbench/score" in header.split(",")


def test_a_later_probe_that_fails_is_left_out_and_training_goes_on():
    def encoder(module, x):
        if module.trainer.global_step == 10:
            raise RuntimeError("out of luck")
        return module.encoder(x)

    callback = probing(encoder=encoder)
    with pytest.warns(UserWarning, match=r"probe after step 10 failed and is skipped.*RuntimeError: out of luck"):
        trainer(callback, max_steps=20).fit(Autoencoder())
    assert steps(callback) == [0, 5, 15, 20]


@pytest.mark.parametrize(("on_error", "fails_at"), [("warn", 0), ("raise", 0), ("raise", 10)])
def test_the_first_probe_raises_in_either_case_and_later_ones_where_asked(on_error, fails_at):
    def encoder(module, x):
        if module.trainer.global_step == fails_at:
            raise RuntimeError("out of luck")
        return module.encoder(x)

    with pytest.raises(RuntimeError, match="out of luck"):
        trainer(probing(encoder=encoder, on_error=on_error), max_steps=20).fit(Autoencoder())


def test_what_is_probed_is_said_once(caplog):
    with caplog.at_level("INFO"):
        trainer(probing(), max_steps=10).fit(Autoencoder())
    said = [record.message for record in caplog.records if "SynBench probes" in record.message]
    assert len(said) == 1
    assert "`encoder`, a Sequential, with inputs of shape (1, 8, 8), every 5 steps: 768 forwards" in said[0]


def test_checkpoints_load_with_weights_only():
    run = trainer(probing(), max_steps=5)
    run.fit(Autoencoder())
    run.save_checkpoint("run.ckpt")
    state = torch.load("run.ckpt", weights_only=True)["callbacks"]
    (key,) = [key for key in state if key.startswith("SynBench")]
    assert len(state[key]["history"]) == 2


class Views(Autoencoder):
    """Batches ([view, view], label, filename)."""

    def training_step(self, batch, batch_idx):
        one, two = (self.encoder(view) for view in batch[0])
        return nn.functional.mse_loss(one, two)

    def train_dataloader(self):
        return DataLoader(Batches(lambda g: ([torch.rand(1, 8, 8, generator=g)] * 2, 1, "a.png")), batch_size=8)


class Tokens(LightningModule):
    """A transformer on (tokens, dim) inputs in a dictionary."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.model = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def training_step(self, batch, batch_idx):
        return self.model(batch["tokens"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def train_dataloader(self):
        return DataLoader(
            Batches(lambda g: {"label": 1, "tokens": torch.rand(6, 16, generator=g), "weight": torch.rand(6)}),
            batch_size=8,
        )


def flat_batches():
    return DataLoader(Batches(lambda g: torch.rand(32, generator=g)), batch_size=8)


@pytest.mark.parametrize(
    ("make", "loader"),
    [(BoringModel, None), (DemoModel, flat_batches), (ManualOptimBoringModel, None), (Views, None), (Tokens, None)],
)
def test_modules_that_know_nothing_of_the_callback(make, loader):
    callback = SynBenchCallback(every_n_train_steps=5)
    trainer(callback, max_steps=10, max_epochs=3).fit(make(), None if loader is None else loader())
    assert steps(callback) == [0, 5, 10]
    assert 8000 < callback.history[0].num_forwards <= 8192 + 2048 + 512


def test_example_input_array_decides_the_shape_before_the_batch():
    class Resizing(Autoencoder):
        example_input_array = torch.rand(2, 1, 8, 8)

        def train_dataloader(self):
            return DataLoader(Batches(lambda g: (torch.rand(1, 16, 16, generator=g), 0)), batch_size=8)

        def training_step(self, batch, batch_idx):
            return super().training_step((batch[0][..., ::2, ::2],), batch_idx)

    callback = probing()
    trainer(callback, max_steps=5).fit(Resizing())
    assert steps(callback) == [0, 5]


def test_own_tasks_and_a_plan_of_ones_own():
    task = GaussianTask("corner", torch.eye(8)[None])
    callback = SynBenchCallback(tasks=[task], plan=ProbePlan(forwards=512, num_scales=4), epsilons=(0.0,))
    run = trainer(callback, max_steps=2)
    run.fit(Autoencoder())
    assert callback.history[0].tasks == ("corner",)
    assert "synbench_tasks/corner" in run.callback_metrics


def test_float64_and_bfloat16_runs():
    for precision in ("64-true", "bf16-mixed", "bf16-true"):
        callback = probing()
        trainer(callback, max_steps=5, precision=precision).fit(Autoencoder())
        assert steps(callback) == [0, 5], precision
        assert torch.get_default_dtype() == torch.float32
