"""Every public name is documented, typed, and can be had from YAML and the command line."""

import importlib
import inspect
import subprocess
import sys

import pytest
import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

import synbench_lightning
from synbench_lightning import SynBenchCallback, SynBenchEarlyStopping
from synbench_lightning.functional import minimax
from synbench_lightning.functional.benchmark import (
    anchors,
    cartography,
    confidence_intervals,
    curve_correlation,
    lure,
    polynomials,
    prediction,
    representatives,
    residuals,
    selection,
)
from synbench_lightning.functional.gaussian import aggregates, bayes_optimal, discriminant, score
from synbench_lightning.functional.representation import class_probabilities, readout, spectrum

NAMES = [name for name in vars(synbench_lightning) if not name.startswith("_") and name[0].isupper()] + [
    "evaluate",
    "harness_task",
    "labelled_proxies",
    "rank",
    "save_views",
    "select_best",
    "task_family",
]
PUBLIC = [getattr(synbench_lightning, name) for name in NAMES] + [
    bayes_optimal.optimal_accuracy,
    bayes_optimal.optimal_bound,
    discriminant.accuracy_and_bound,
    score.synbench_score,
    spectrum.effective_rank,
    spectrum.alpha_req,
    spectrum.feature_std,
    spectrum.collapse_level,
    aggregates.aggregate,
    aggregates.aggregate_weights,
    minimax.smoothed_maximum,
    minimax.task_means,
    class_probabilities.class_log_probabilities,
    readout.few_label_readout,
    *(getattr(curve_correlation, name) for name in ("pearson", "task_curves", "standardised", "correlation_distance")),
    *(getattr(polynomials, name) for name in ("polynomial_basis", "polynomial_coefficients", "agreement")),
    *(getattr(cartography, name) for name in ("cartography", "multidimensional_scaling")),
    *(getattr(selection, name) for name in ("uniform", "stratified", "proportional")),
    *(getattr(representatives, name) for name in ("anchor_points", "coefficient_clusters", "coverage")),
    *(getattr(confidence_intervals, name) for name in (
        "Estimate", "mean_estimate", "weighted_mean", "mean_of_tasks", "minimum_detectable_difference",
    )),
    lure.lure,
    *(getattr(residuals, name) for name in ("aipw", "weighted_residual")),
    *(getattr(anchors, name) for name in ("anchor_predictions", "anchor_estimate")),
    *(getattr(prediction, name) for name in ("choose_points", "predict_tasks", "change_of_benchmark")),
]  # fmt: skip


@pytest.mark.parametrize("public", PUBLIC, ids=lambda public: public.__name__)
def test_a_public_name_has_a_docstring_with_an_example_and_types(public):
    assert "Example:" in public.__doc__
    function = public.__init__ if inspect.isclass(public) else public
    for name, parameter in inspect.signature(function).parameters.items():
        assert name in ("self", "args", "kwargs") or parameter.annotation is not inspect.Parameter.empty


CONFIG = """
trainer:
  max_steps: 4
  logger: false
  enable_checkpointing: false
  enable_progress_bar: false
  enable_model_summary: false
  callbacks:
    - class_path: synbench_lightning.SynBenchCallback
      init_args:
        encoder: layer
        input_shape: [32]
        tasks: dc
        plan:
          class_path: synbench_lightning.ProbePlan
          init_args: {forwards: 512}
        epsilons: [0.0, 0.1]
        normalize: [0.5, 0.25]
        every_n_train_steps: 2
    - class_path: synbench_lightning.SynBenchEarlyStopping
      init_args: {patience: 9}
"""


def test_the_callbacks_are_configured_from_yaml_and_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    (tmp_path / "config.yaml").write_text(CONFIG)
    arguments = [
        "fit", "--config", str(tmp_path / "config.yaml"), "--trainer.callbacks+=synbench_lightning.SynBenchCallback",
        "--trainer.callbacks.every_n_train_steps=4", "--trainer.callbacks.prefix=other",
    ]  # fmt: skip
    run = LightningCLI(BoringModel, args=arguments, save_config_callback=None, seed_everything_default=0).trainer
    first, second = (callback for callback in run.callbacks if isinstance(callback, SynBenchCallback))
    assert [result.step for result in first.history] == [0, 2, 4]
    assert first.history[0].epsilons == (0.0, 0.1)
    assert [result.step for result in second.history] == [0, 4]
    assert any(isinstance(callback, SynBenchEarlyStopping) for callback in run.callbacks)


def test_the_package_works_without_matplotlib_and_names_the_extra_where_it_is_needed():
    code = """
import sys
from lightning.pytorch import Trainer
for name in [name for name in sys.modules if name.startswith("matplotlib")]:
    del sys.modules[name]
sys.modules["matplotlib"] = None
from lightning.pytorch.demos.boring_classes import BoringModel
from synbench_lightning import ProbePlan, SynBenchCallback
callback = SynBenchCallback(plan=ProbePlan(forwards=512))
Trainer(max_steps=1, callbacks=[callback], enable_checkpointing=False, enable_progress_bar=False).fit(BoringModel())
try:
    callback.history[0].plot()
except ImportError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "pip install 'synbench-lightning[plots]'" in found.stdout, found.stderr


def test_importing_the_package_draws_nothing_from_the_global_generators():
    state = torch.get_rng_state()
    importlib.reload(synbench_lightning)
    assert torch.equal(state, torch.get_rng_state())
