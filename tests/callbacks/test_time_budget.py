"""The fraction of the time that probes take, on a clock that is set by hand."""

from contextlib import suppress
from types import SimpleNamespace

import pytest

from synbench_lightning.callbacks import time_budget
from synbench_lightning.callbacks.time_budget import TimeBudget


@pytest.fixture
def clock(monkeypatch):
    hands = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time_budget, "time", SimpleNamespace(perf_counter=lambda: hands.now))
    return hands


def test_the_time_inside_is_counted_since_training_started(clock):
    budget = TimeBudget(0.25)
    for _ in range(2):  # a second start counts anew
        budget.begin()
        clock.now += 6
        with budget.counted():
            clock.now += 2
        assert budget.fraction() == 2 / 8
        assert budget.left == 0.0
        clock.now += 12
        with suppress(KeyError), budget.counted():
            clock.now += 1
            raise KeyError
        assert budget.fraction() == 3 / 21
        assert budget.fraction(4.0) == 7 / 25
        assert budget.left == 0.25 * 21 - 3


def test_there_is_no_rest_without_a_limit(clock):
    budget = TimeBudget(None)
    budget.begin()
    clock.now += 5
    assert budget.left is None
    assert budget.fraction() == 0.0
