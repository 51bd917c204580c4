"""What is logged and said of an evaluation of a benchmark, for values that are written down."""

import pytest

from synbench_lightning import BenchmarkResult
from synbench_lightning.callbacks.benchmark import _worth
from tests.callbacks.test_benchmark import benchmark

EVALUATED = {
    "tasks": ("easy", "hard"), "value": -0.5, "standard_error": 0.02, "interval": (-0.54, -0.46),
    "task_values": (-0.3, -0.7), "task_intervals": ((-0.35, -0.25), (-0.8, -0.6)), "complete": False, "num_points": 60,
    "detectable_difference": None, "audit_error": None, "audit_standard_error": None, "seconds": 2.5, "step": 40,
}  # fmt: skip
LOGGED = {
    "benchmark/value": -0.5, "benchmark/value_se": 0.02, "benchmark/value_low": -0.54, "benchmark/value_high": -0.46,
    "benchmark_tasks/easy": -0.3, "benchmark_tasks/easy_low": -0.35, "benchmark_tasks/easy_high": -0.25,
    "benchmark_tasks/hard": -0.7, "benchmark_tasks/hard_low": -0.8, "benchmark_tasks/hard_high": -0.6,
    "benchmark_details/points": 60.0, "benchmark_details/probe_seconds": 2.5,
}  # fmt: skip
CHANGES = {"signal": 0.3, "noise": 0.1, "task_signals": (0.4, 0.2), "task_noises": (0.0, 0.05)}


@pytest.mark.parametrize(
    ("more", "further"),
    [
        ({}, {}),
        ({"detectable_difference": 0.03}, {"detectable_difference": 0.03}),
        ({"audit_error": 0.01}, {}),
        ({"audit_standard_error": 0.02}, {}),
        ({"audit_error": 0.01, "audit_standard_error": 0.02}, {"audit_error": 0.01, "audit_error_se": 0.02}),
        ({"decision_accuracy": 0.0}, {"decision_accuracy": 0.0}),
        ({**CHANGES, "noise": None}, {}),
        ({**CHANGES, "signal": None}, {}),
    ],
)
def test_each_value_is_logged_where_it_is_known(more, further):
    found = benchmark().metrics(BenchmarkResult(**{**EVALUATED, **more}))
    assert found == {**LOGGED, **{f"benchmark_details/{name}": value for name, value in further.items()}}
    assert list(found)[:4] == list(LOGGED)[:4]


def test_the_signal_is_divided_by_the_noise_where_there_is_any():
    found = benchmark().metrics(BenchmarkResult(**EVALUATED, **CHANGES))
    ratios = {"benchmark_details/signal_to_noise": 3.0, "benchmark_tasks/hard_signal_to_noise": 4.0}
    assert found == pytest.approx({**LOGGED, **ratios})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "All points were evaluated for the warm-up; the chosen ones are evaluated from here on."),
        (
            {"decision_accuracy": 0.0},
            "The chosen points put 0% of the pairs of complete evaluations in their true order.",
        ),
        (CHANGES, "The signal of the benchmark is 3.0 times its noise so far."),
        ({"signal": None, "noise": 0.1}, "All points were evaluated for the warm-up; the chosen ones"),
        ({"signal": 0.3, "noise": 0.0}, "All points were evaluated for the warm-up; the chosen ones"),
        (
            {"silent_tasks": ("easy", "hard")},
            "Tasks that tell nothing so far, in no other than random order: easy, hard.",
        ),
    ],
)
def test_what_the_warm_up_has_shown_is_said(more, said):
    assert _worth(BenchmarkResult(**{**EVALUATED, **more})).startswith(said)
    assert len(_worth(BenchmarkResult(**{**EVALUATED, **more}))) < 90
