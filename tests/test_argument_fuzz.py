"""Whatever is passed to a public name: it is accepted, or a ValueError or TypeError names the argument."""

import inspect
import math
import warnings
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import synbench_lightning as public
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


class Words:
    """A tokenizer with a number for each letter."""

    mask_token_id = 3

    def __call__(self, text):
        return [4 + ord(letter) % 28 for letter in text]


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def labelled(n=24):
    return {name: TensorDataset(normal(n, 4), torch.arange(n) % 2) for name in ("a", "b")}


PLAN = public.ProbePlan(forwards=128, num_scales=2)
FEATURES, LABELS, TASKS = normal(24, 4), torch.arange(24) % 2, torch.arange(24) // 8
CURVES = normal(6, 24).cumsum(0)
CHOSEN = prediction.choose_points(CURVES, TASKS, 9)
ESTIMATES = [confidence_intervals.mean_estimate(normal(8)) for _ in range(3)]
RESULT = public.evaluate(nn.Identity(), (4,), plan=PLAN)
WEIGHTS = torch.full((24,), 1 / 24)
LOSS = {
    "num_tasks": 3,
    "mode": "softmax",
    "temperature": 0.1,
    "step_size": 0.01,
    "relative": True,
    "floor": 0.0,
    "momentum": 0.9,
}
SCHEDULE = {
    "encoder": None, "every_n_train_steps": 5, "every_n_epochs": None, "probe_at_start": True, "probe_at_end": True,
    "max_overhead": None, "batch_size": 8, "seed": 0, "prefix": "mine", "on_error": "warn",
}  # fmt: skip
PROBE = {
    "input_shape": (4,), "tasks": "dc", "plan": PLAN, "epsilons": (0.0, 0.2), "batch_size": 64, "normalize": None,
    "inputs": None, "views": None, "labels": None, "seed": 0,
}  # fmt: skip
CALLS = {
    public.rank: {"results": {"one": RESULT, "other": [RESULT]}, "threshold": 0.7},
    public.save_views: {"path": "v.pt", "inputs": normal(40, 4), "views": lambda x: torch.randn(x.shape), "seed": 0},
    public.SynBenchCallback: {**SCHEDULE, **PROBE, "threshold": 0.7, "log_figures": True},
    public.SynBenchEarlyStopping: {
        "monitor": "synbench/score", "patience": 5, "min_delta": 0.0, "mode": "max", "stopping_threshold": None,
        "divergence_threshold": None, "verbose": False,
    },
    public.BenchmarkCallback: {
        **SCHEDULE, "tasks": labelled(), "budget": 0.5, "log_likelihood": None, "support": 8, "warmup": 2,
        "method": "residual", "audit_every": 5, "audit": 0.1,
    },
    public.evaluate: {
        **PROBE, "encoder": nn.Identity(), "thresholds": (0.7, 0.8), "device": None, "progress": None,
    },
    public.task_family: {"name": "dc", "input_shape": (4,)},
    public.labelled_proxies: {"tasks": "dc", "input_shape": (4,), "scales": (1.0,), "examples": 8, "seed": 0},
    public.select_best: {
        "candidates": {"one": nn.Identity(), "two": nn.Linear(4, 2)}, "tasks": labelled(), "budget": 0.5,
        "log_likelihood": None, "encoder": None, "support": 8, "complete": 2, "method": "residual", "batch_size": 64,
        "seed": 0, "device": "cpu",
    },
    public.Prompts: {
        "tokenizer": Words(), "kind": "causal", "forward": None, "mask_id": None, "pad_id": None, "max_tokens": None,
        "normalization": "sum",
    },
    public.ProbePlan: {"forwards": 128, "num_scales": 4, "max_scale": 5.0, "protocol": "fast"},
    public.GaussianTask: {"name": "one", "direction": torch.ones(4), "colour": None, "mean": None},
    public.LabelledTask: {"name": "one", "examples": FEATURES, "labels": LABELS},
    public.RobustLinearProbe: {"epsilon": 0.1},
    public.LayerEncoder: {"encoder": nn.Sequential(nn.Linear(4, 2)), "layer": "0"},
    public.RobustLinearProbe(0.1).fit: {"X": FEATURES, "y": LABELS},
    public.TaskRobustLoss: LOSS,
    public.TaskRobustLoss(**LOSS).forward: {
        "losses": FEATURES[0, :3].square(), "counts": None, "reference": None,
    },
    public.SynBenchScore: {"plan": PLAN, "epsilon": 0.0, "threshold": 0.7},
    RESULT.score: {"task": None, "epsilon": 0.0, "threshold": 0.7},
    RESULT.worst: {"epsilon": 0.0, "threshold": 0.7},
    public.ProbeResult.from_dict: {"values": RESULT.to_dict()},
    bayes_optimal.optimal_accuracy: {"delta": 1.0},
    bayes_optimal.optimal_bound: {"delta": 1.0},
    discriminant.accuracy_and_bound: {
        "train_features": FEATURES, "train_labels": LABELS, "test_features": FEATURES, "test_labels": LABELS,
        "epsilons": (0.0, 0.1),
    },
    score.synbench_score: {
        "accuracy": torch.tensor([0.7, 0.9]), "bound": torch.tensor([1.2, 1.1]), "scales": (1.0, 2.0),
        "thresholds": (0.7,), "weights": (0.5, 0.5), "grid": (0.7, 0.8),
    },
    spectrum.effective_rank: {"features": FEATURES},
    spectrum.alpha_req: {"features": FEATURES},
    spectrum.feature_std: {"features": FEATURES},
    spectrum.collapse_level: {"features": FEATURES},
    aggregates.aggregate: {"scores": (0.5, 0.7), "fraction": 0.5, "temperature": 0.05},
    aggregates.aggregate_weights: {"scores": (0.5, 0.7), "fraction": 0.5, "temperature": 0.05},
    minimax.smoothed_maximum: {"losses": FEATURES[0], "temperature": 0.1},
    minimax.task_means: {"losses": FEATURES[:, 0], "tasks": TASKS, "num_tasks": 3},
    class_probabilities.class_log_probabilities: {"support": FEATURES, "support_labels": LABELS, "features": FEATURES},
    readout.few_label_readout: {"features": FEATURES, "labels": LABELS},
    curve_correlation.pearson: {"first": CURVES, "second": CURVES},
    curve_correlation.task_curves: {"curves": CURVES, "tasks": TASKS},
    curve_correlation.standardised: {"curves": CURVES},
    curve_correlation.correlation_distance: {"r": torch.eye(3)},
    polynomials.polynomial_basis: {"positions": torch.linspace(-1, 1, 6), "degree": 2},
    polynomials.polynomial_coefficients: {"curves": CURVES, "degree": 2, "positions": torch.linspace(-1, 1, 6)},
    polynomials.agreement: {"coefficients": normal(5, 3), "r": torch.eye(5)},
    cartography.cartography: {"curves": CURVES, "correct": CURVES > 0},
    cartography.multidimensional_scaling: {"distances": 1 - torch.eye(3), "dims": 2},
    selection.uniform: {"tasks": TASKS, "budget": 9, "seed": 0},
    selection.stratified: {"tasks": TASKS, "budget": 9, "seed": 0},
    selection.proportional: {"sizes": WEIGHTS, "tasks": TASKS, "budget": 9, "seed": 0, "floor": 0.1},
    representatives.anchor_points: {"curves": CURVES, "tasks": TASKS, "budget": 9, "seed": 0},
    representatives.coefficient_clusters: {"curves": CURVES, "tasks": TASKS, "budget": 9, "degree": 2, "seed": 0},
    representatives.coverage: {"curves": CURVES, "tasks": TASKS, "budget": 9, "seed": 0},
    confidence_intervals.mean_estimate: {"values": FEATURES[:, 0], "population": 100},
    confidence_intervals.weighted_mean: {"values": FEATURES[:, 0], "weights": WEIGHTS, "population": 100},
    confidence_intervals.mean_of_tasks: {"estimates": ESTIMATES},
    confidence_intervals.minimum_detectable_difference: {"difference": ESTIMATES[0], "confidence": 0.95, "power": 0.8},
    ESTIMATES[0].interval: {"confidence": 0.95},
    lure.lure: {"values": FEATURES[:, 0], "proposal": WEIGHTS, "population": 100},
    residuals.aipw: {
        "values": FEATURES[:3, 0], "predictions": FEATURES[:, 1], "indices": torch.arange(3), "proposal": WEIGHTS[:3],
    },
    residuals.weighted_residual: {
        "values": FEATURES[:3, 0], "predictions": FEATURES[:, 1], "indices": torch.arange(3), "weights": torch.ones(3),
    },
    anchors.anchor_predictions: {"curves": CURVES, "anchors": torch.arange(3), "values": torch.ones(3)},
    anchors.anchor_estimate: {
        "curves": CURVES, "anchors": torch.arange(3), "values": torch.ones(3), "importance": WEIGHTS,
    },
    prediction.choose_points: {"curves": CURVES, "tasks": TASKS, "budget": 9, "method": "residual", "seed": 0},
    prediction.predict_tasks: {
        "values": CURVES[0, CHOSEN.indices], "selection": CHOSEN, "curves": CURVES, "tasks": TASKS,
    },
    prediction.change_of_benchmark: {"changes": CURVES[0, CHOSEN.indices], "selection": CHOSEN, "tasks": TASKS},
}  # fmt: skip
RECORDS = {"BenchmarkResult", "Comparison", "Estimate", "ProbeResult", "Ranking"}
"""What other calls return; as arguments they are met where they are read again."""

numbers = st.sampled_from([math.nan, math.inf, -math.inf, -1, -1.0, 0, 0.0, 0.3, 1, 2, 7, 1e300, 10**30, 1 + 2j])
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=3), st.sampled_from([b"a", object(), len, int]))
shapes = st.sampled_from([(), (0,), (1,), (3,), (24,), (0, 4), (2, 2), (24, 1), (24, 4), (2, 0), (3, 4, 2)])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64])
fills = st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1.0, 5.0, None])


@st.composite
def tensors(draw):
    shape, dtype, fill = draw(shapes), draw(dtypes), draw(fills)
    finite = fill is None or math.isfinite(fill)
    values = normal(*shape) if fill is None else torch.full(shape, fill if finite or dtype.is_floating_point else 2.0)
    return values.to(dtype)


class Unshowable:
    def __repr__(self):
        raise RuntimeError


def unusual():
    """Tensors without values in memory, and objects of kinds that are mistaken for others."""
    found = [normal(24, 4).to_sparse(), normal(24, 4).to("meta"), normal(24, 4).bfloat16(), nn.Parameter(normal(24, 4))]
    found += [torch.ones(24, dtype=torch.uint8), torch.tensor(2), np.float32(0.5), np.array(0.5), np.datetime64("2020")]
    found += [
        range(3),
        {1, 2},
        Path("nothing.pt"),
        Path(),
        Decimal("0.5"),
        Fraction(1, 2),
        Unshowable(),
        bytearray(b"a"),
    ]
    found += [TensorDataset(normal(24, 4)), DataLoader(TensorDataset(normal(24, 4))), torch.Size([4]), torch.float32]
    return [*found, torch.device("cuda"), nn.LazyLinear(3), "a" * 500, "\0", {1: 2}, [[1, 2], [3]], ..., slice(1)]


arrays = tensors().map(lambda tensor: tensor.numpy())
single = st.one_of(scalars, tensors(), arrays)
wrong = st.one_of(
    single, st.lists(single, max_size=3), st.lists(single, max_size=2).map(tuple),
    st.dictionaries(st.text(max_size=2), single, max_size=2), st.just(nn.Linear(2, 2)), st.just(np.array(["a", None])),
)  # fmt: skip


def test_every_public_name_is_called():
    called = {one.__qualname__.split(".")[0] for one in CALLS}
    from tests.test_public_names import PUBLIC

    assert {one.__name__ for one in PUBLIC} - called - RECORDS == {"harness_task"}


EACH = [pytest.param(call, name, id=f"{call.__qualname__}-{name}") for call, right in CALLS.items() for name in right]


def assert_accepted_or_named(call, name, value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(**{**CALLS[call], name: value})
        except (ValueError, TypeError) as error:
            named = f"`{name}" in str(error) or str(error).startswith("a ProbeResult ")
            failed_when_called = callable(value)
            if not (named or failed_when_called):
                raise AssertionError(f"{type(value).__name__}: {type(error).__name__}: {error}") from error
        except RuntimeError as error:
            if not (name == "encoder" and str(error).startswith("The encoder failed on a batch")):
                raise


@pytest.mark.parametrize(("call", "name"), EACH)
def test_a_wrong_argument_is_accepted_or_named(call, name):
    @settings(derandomize=True, max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(value=wrong)
    def once(value):
        assert_accepted_or_named(call, name, value)

    once()


@pytest.mark.parametrize(("call", "name"), EACH)
def test_an_unusual_argument_is_accepted_or_named(call, name):
    for value in unusual():
        assert_accepted_or_named(call, name, value)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__qualname__)
def test_right_arguments_are_accepted(call):
    assert set(CALLS[call]) <= set(inspect.signature(call).parameters)
    call(**CALLS[call])
