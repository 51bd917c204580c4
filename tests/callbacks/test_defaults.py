"""What an argument is where it is not given, and the least and the greatest that it may be."""

import inspect

import pytest

from synbench_lightning import BenchmarkCallback, SynBenchCallback, SynBenchEarlyStopping
from tests.callbacks.test_benchmark import NUMBERED, benchmark, pictures

PROBING = {
    "every_n_train_steps": 1000, "every_n_epochs": None, "probe_at_start": True, "probe_at_end": True,
    "max_overhead": None, "batch_size": 256, "seed": 0, "on_error": "warn", "encoder": None,
}  # fmt: skip
DEFAULTS = {
    SynBenchCallback: {
        **PROBING, "input_shape": None, "tasks": "default", "plan": "fast", "epsilons": (0.0, 0.2), "threshold": 0.7,
        "normalize": None, "inputs": "auto", "views": None, "labels": None, "layers": "auto", "prefix": "synbench",
        "log_figures": True,
    },
    BenchmarkCallback: {
        **PROBING, "tasks": inspect.Parameter.empty, "budget": 0.05, "log_likelihood": None, "support": 100,
        "warmup": 10, "method": "residual", "audit_every": 5, "audit": 0.02, "prefix": "benchmark",
    },
    SynBenchEarlyStopping: {
        "monitor": "synbench/score", "patience": 5, "min_delta": 0.0, "mode": "max", "stopping_threshold": None,
        "divergence_threshold": None, "verbose": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFAULTS, ids=lambda kind: kind.__name__)
def test_the_defaults_are_those_of_the_documentation(kind):
    found = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    assert found == DEFAULTS[kind]
    flags = {name: value for name, value in DEFAULTS[kind].items() if isinstance(value, bool)}
    assert all(found[name] is value for name, value in flags.items())


LIMITS = [
    (SynBenchCallback, "every_n_train_steps", [1], [0]),
    (SynBenchCallback, "every_n_epochs", [1, None], [0]),
    (SynBenchCallback, "max_overhead", [1e-6, 1.0, None], [0.0, 1.01]),
    (SynBenchCallback, "batch_size", [1], [0]),
    (SynBenchCallback, "seed", [0], [-1]),
    (SynBenchCallback, "threshold", [0.5, 0.999], [0.49, 1.0]),
    (SynBenchCallback, "epsilons", [(0.0,), (0.3, 0.0)], [(0.2,), (0.0, 0.201, 0.2)]),
    (SynBenchCallback, "on_error", ["warn", "raise"], ["ignore"]),
    (SynBenchCallback, "layers", [None, "auto"], [("encoder.0",)]),  # names need something to compare them by
    (SynBenchEarlyStopping, "patience", [1], [0]),
    (SynBenchEarlyStopping, "min_delta", [0.0], [-1e-6]),
    (SynBenchEarlyStopping, "stopping_threshold", [-5.0, 0.0, None], ["high"]),
    (SynBenchEarlyStopping, "divergence_threshold", [-5.0, 0.0, None], ["low"]),
]


@pytest.mark.parametrize(
    ("kind", "name", "allowed", "refused"), LIMITS, ids=lambda one: one if type(one) is str else ""
)
def test_an_argument_may_be_as_small_and_as_large_as_it_says(kind, name, allowed, refused):
    extra = {"inputs": None} if name == "layers" else {}
    for value in allowed:
        kind(**{name: value}, **extra)
    for value in refused:
        with pytest.raises(ValueError, match=f"`{name}`"):
            kind(**{name: value}, **extra)


def test_a_support_of_four_is_the_smallest():
    assert benchmark(log_likelihood=None, tasks=pictures(), support=4).benchmark.settings == {"side": 146, "sum": 146}
    with pytest.raises(ValueError, match="`support` must be an integer of at least 4, got 3"):
        benchmark(log_likelihood=None, tasks=pictures(), support=3)
    assert benchmark(support=3).benchmark.settings == {name: len(one) for name, one in NUMBERED.items()}  # not used
