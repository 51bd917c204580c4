"""The evaluations of a run one after another, against values that are known for every item and step."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from synbench_lightning.benchmark.adaptive_evaluation import Climb, Climbed
from synbench_lightning.benchmark.tasks import Benchmark
from synbench_lightning.functional.benchmark.confidence_intervals import minimum_detectable_difference
from synbench_lightning.functional.benchmark.prediction import change_of_benchmark, decisions
from synbench_lightning.functional.benchmark.signal_to_noise import signal_and_noise

G = torch.Generator().manual_seed(0)
SIZES = {"easy": 200, "hard": 100}
LEVELS, DRIFTS = torch.rand(300, generator=G, dtype=torch.float64), torch.randn(300, generator=G).double().abs()
NOISE = torch.randn(40, 300, generator=G).double().abs()


def values(turn):
    return -LEVELS * torch.exp(-0.1 * turn * DRIFTS) - 0.02 * NOISE[turn]


def benchmark(**sizes):
    tasks = {name: TensorDataset(torch.arange(float(size))) for name, size in (sizes or SIZES).items()}
    return Benchmark(tasks, support=0, batch_size=64, seed=0)


def made(**arguments):
    given = {"budget": 0.2, "method": "residual", "warmup": 3, "audit_every": None, "audit": 0.1, "seed": 0}
    return Climb(arguments.pop("benchmark", None) or benchmark(), **given | arguments)


def run(climb, turns, history=(), of=None):
    """The history, the last state, and the items of each evaluation."""
    history, climbed, seen = list(history), Climbed(), []
    for turn in range(turns):

        def evaluated(places, turn=turn):
            seen.append(places)
            return values(turn)[places] if of is None else -of[turn][places]

        result, climbed = climb.evaluate(climbed, history, evaluated, 10 * turn)
        history.append(result)
    return history, climbed, seen


def truth(turn):
    return (values(turn)[:200].mean().item() + values(turn)[200:].mean().item()) / 2


def test_the_warm_up_is_complete_and_exact_and_the_rest_sees_the_selection_alone():
    history, climbed, seen = run(made(), 6)
    assert [result.complete for result in history] == [True] * 3 + [False] * 3
    assert [result.num_points for result in history] == [300] * 3 + [60] * 3
    assert [result.step for result in history] == [0, 10, 20, 30, 40, 50]
    for turn, result in enumerate(history[:3]):
        assert result.value == pytest.approx(truth(turn))
        assert (result.standard_error, result.detectable_difference) == (0, None)
    for places in seen[3:]:
        assert torch.equal(places, climbed.selection.indices)
    for turn, result in enumerate(history[3:], 3):
        assert result.interval[0] < truth(turn) < result.interval[1]
        assert result.value == pytest.approx(truth(turn), abs=0.02)
        assert result.audit_error is None
    assert torch.stack(climbed.curves).dtype == torch.float32
    assert torch.equal(torch.stack(climbed.curves), torch.stack([values(turn) for turn in range(3)]).float())


def test_the_detectable_difference_is_that_of_the_change_since_the_evaluation_before():
    history, climbed, _ = run(made(), 5)
    own = climbed.selection.indices
    for turn in (3, 4):
        changed = change_of_benchmark((values(turn) - values(turn - 1))[own], climbed.selection, made().benchmark.tasks)
        expected = float(minimum_detectable_difference(changed))
        assert history[turn].detectable_difference == pytest.approx(expected)
    assert torch.equal(climbed.before, values(4)[own])


@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_audit_of_everything_finds_the_exact_error_in_its_turn(every):
    history, _, seen = run(made(audit_every=every, audit=1.0), 9)
    for turn, result in enumerate(history):
        due = turn >= 3 and (turn - 2) % every == 0
        assert (result.audit_error is not None) == due
        if due:
            assert result.num_points == len(seen[turn].unique()) == 300
            assert result.audit_error == pytest.approx(result.value - truth(turn))
            assert result.audit_standard_error == pytest.approx(0, abs=1e-9)


def test_an_audit_takes_other_items_each_time_and_errs_by_its_standard_error():
    off, others = [], []
    for seed in range(8):
        history, climbed, seen = run(made(audit_every=1, seed=seed), 6)
        for turn in (3, 4, 5):
            extra = seen[turn][60:]
            assert (len(seen[turn]), len(extra.unique())) == (90, 30)  # a tenth of 300 beside the fifth
            assert not torch.isin(extra, climbed.selection.indices).any()
            assert torch.bincount((extra >= 200).long()).tolist() == [15, 15]
            others.append(frozenset(extra.tolist()))
            error = history[turn].value - truth(turn)
            off.append((history[turn].audit_error - error) / history[turn].audit_standard_error)
    assert len(set(others)) == len(others)
    assert 0.5 < np.sqrt(np.mean(np.square(off))) < 1.6  # 24 of them
    assert abs(np.mean(off)) < 0.8


def test_where_a_task_has_fewer_than_two_other_items_there_is_no_audit():
    few = benchmark(easy=298, hard=2)
    history, _, _ = run(made(benchmark=few, audit_every=1), 5)
    assert all(result.audit_error is None for result in history)


def test_signal_and_noise_are_those_of_the_values_from_the_fifth_on():
    history, _, _ = run(made(), 9)
    for turn, result in enumerate(history):
        assert (result.signal is None) == (turn < 4)
        if turn < 4:
            assert (result.noise, result.task_signals, result.task_noises, result.silent_tasks) == (None, (), (), ())
            continue
        series = torch.tensor([[one.value, *one.task_values] for one in history[: turn + 1]], dtype=torch.float64)
        signal, noise, chance = signal_and_noise(series)
        assert (result.signal, *result.task_signals) == pytest.approx(signal.tolist())
        assert (result.noise, *result.task_noises) == pytest.approx(noise.tolist())
        silent = [name for name, one in zip(("easy", "hard"), chance[1:].tolist(), strict=True) if one > 0.05]
        assert list(result.silent_tasks) == silent


def test_evaluations_before_another_warm_up_do_not_count():
    before, _, _ = run(made(), 6)
    history, _, _ = run(made(), 6, history=before)
    assert [result.signal is None for result in history[6:]] == [True] * 4 + [False] * 2
    fresh, _, _ = run(made(), 6)
    assert history[-1].signal == pytest.approx(fresh[-1].signal)
    assert history[-1].task_noises == pytest.approx(fresh[-1].task_noises)


def test_in_a_long_warm_up_too():
    before, _, _ = run(made(), 6)
    history, _, _ = run(made(warmup=9), 7, history=before)
    assert [result.signal is None for result in history[6:]] == [True] * 4 + [False] * 3


def test_decisions_are_those_of_the_complete_evaluations():
    history, climbed, _ = run(made(), 4)
    right, of_tasks = decisions(torch.stack(climbed.curves), climbed.selection, made().benchmark.tasks)
    assert [result.decision_accuracy is None for result in history] == [True, True, False, False]
    assert history[-1].decision_accuracy == float(right)
    assert history[-1].task_decision_accuracies == tuple(of_tasks.tolist())
    unclear, _, _ = run(made(warmup=9, benchmark=benchmark(easy=30, hard=270)), 9, of=NOISE)
    assert unclear[-1].decision_accuracy not in unclear[-1].task_decision_accuracies
    alone, _, _ = run(made(warmup=1), 3)
    assert all(result.decision_accuracy is None for result in alone)  # one evaluation has no pairs
    assert [result.complete for result in alone] == [True, False, False]


def test_equal_evaluations_leave_the_decisions_unknown():
    climb, climbed, history = made(warmup=2), Climbed(), []
    for _ in range(2):
        result, climbed = climb.evaluate(climbed, history, lambda places: values(0)[places], 0)
        history.append(result)
    assert history[-1].decision_accuracy is None
    assert history[-1].task_decision_accuracies == (None, None)


@pytest.mark.parametrize("turns", [0, 2, 3, 5])
def test_the_state_comes_back_from_plain_types(turns):
    _, climbed, _ = run(made(), turns)
    back = Climbed.from_dict(climbed.to_dict())
    assert len(back.curves) == len(climbed.curves) == min(turns, 3)
    for one, other in zip(back.curves, climbed.curves, strict=True):
        assert torch.equal(one, other)
    assert (back.selection is None) == (climbed.selection is None) == (turns < 3)
    if turns >= 3:
        assert torch.equal(back.selection.indices, climbed.selection.indices)
        assert torch.equal(back.before, climbed.before)


def test_plain_types_that_are_no_state_are_refused():
    state = run(made(), 4)[1].to_dict()
    for change, message in (
        ({"before": None}, "its 'selection' has no values in 'before'"),
        ({"selection": None}, "its 'selection' has no values in 'before'"),
        ({"curves": [1.0]}, "its 'curves' and 'before' must be tensors or None"),
    ):
        with pytest.raises(ValueError, match=message):
            Climbed.from_dict(state | change)


def test_settings_are_those_that_the_selection_depends_on():
    assert made(seed=4).settings == {
        "points": SIZES, "budget": 0.2, "method": "residual", "warmup": 3, "seed": 4,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0.0}, r"`budget` must be a fraction of the items in \(0, 1\], got 0.0"),
        ({"budget": 1.1}, r"`budget` must be a fraction"),
        ({"audit": 0.0}, r"`audit` must be a fraction of the items in \(0, 1\], got 0.0"),
        ({"audit": 1.1}, r"`audit` must be a fraction"),
        ({"audit_every": 0}, "`audit_every` must be an integer of at least 1, got 0"),
        ({"warmup": 0}, "`warmup` must be an integer of at least 1, got 0"),
        ({"method": "all"}, "`method` must be"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)
    made(budget=1.0, audit=1.0, audit_every=1, warmup=1)


def test_a_result_cannot_be_changed():
    (result,), _, _ = run(made(), 1)
    with pytest.raises(AttributeError):
        result.value = 0.0


@pytest.mark.parametrize(("low", "high", "silent"), [(0.03, 0.049, ()), (0.051, 0.08, ("one",))])
def test_a_task_is_silent_where_its_values_may_be_in_random_order_at_five_percent(low, high, silent):
    for seed in range(2000):
        series = -1 - torch.rand(6, generator=torch.Generator().manual_seed(seed)).double()
        if low < float(signal_and_noise(series)[2]) < high:
            break
    climb, climbed, history = made(benchmark=benchmark(one=5), warmup=9), Climbed(), []
    for turn in range(6):
        result, climbed = climb.evaluate(climbed, history, lambda places, turn=turn: series[turn].repeat(5), turn)
        history.append(result)
    assert history[-1].silent_tasks == silent


def test_two_other_items_of_a_task_are_enough_for_an_audit():
    few = benchmark(easy=294, hard=6)
    history, climbed, _ = run(made(benchmark=few, audit_every=1, budget=8 / 300), 4)
    assert torch.bincount(climbed.selection.indices // 294).tolist() == [4, 4]
    assert history[3].audit_error is not None
