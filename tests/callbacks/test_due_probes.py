"""When a probe is due, batch by batch, for trainers whose counts are written down."""

from types import SimpleNamespace

import pytest

from synbench_lightning.callbacks.schedule import Schedule


def trainer(**counts):
    given = {
        "global_step": 0, "current_epoch": 0, "max_epochs": -1, "max_steps": -1, "is_last_batch": False,
        "num_training_batches": 100, "accumulate_grad_batches": 1, **counts,
    }  # fmt: skip
    return SimpleNamespace(**given)


def due(step, batch_idx=5, every=10, epochs=None, at_end=True, last_step=10, **counts):
    schedule = Schedule(every, epochs, at_start=True, at_end=at_end)
    schedule.last_step = last_step
    return schedule.due_after_batch(trainer(global_step=step, **counts), batch_idx)


def test_a_probe_is_due_when_a_multiple_was_passed_since_the_last_one():
    assert [due(step) for step in (9, 10, 11, 19, 20, 21, 29, 30)] == [
        False,
        False,
        False,
        False,
        True,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("at_end", [True, False])
def test_the_end_is_where_the_steps_or_the_epochs_are_used_up(at_end):
    for counts, ends in [
        ({"max_steps": 16}, False), ({"max_steps": 15}, True), ({"max_steps": 14}, True), ({"max_steps": 1}, True),
        ({"max_epochs": 1}, False), ({"max_epochs": 1, "is_last_batch": True}, True),
        ({"max_epochs": 2, "is_last_batch": True}, False), ({"current_epoch": 1, "max_epochs": 2}, False),
        ({"current_epoch": 1, "max_epochs": 2, "num_training_batches": 6}, True),
        ({"current_epoch": 1, "max_epochs": 2, "num_training_batches": 7}, False),
        ({"current_epoch": 2, "max_epochs": 2, "num_training_batches": 6}, False),
    ]:  # fmt: skip
        assert due(15, at_end=at_end, **counts) == (ends and at_end), counts


def test_epochs_are_counted_from_one_and_probed_in_their_last_batch():
    at_end_of = [due(15, epochs=2, current_epoch=epoch, is_last_batch=True) for epoch in range(5)]
    assert at_end_of == [False, True, False, True, False]
    assert not due(20, epochs=2, current_epoch=1)
    assert not due(10, epochs=2, current_epoch=1, is_last_batch=True)  # no step since the last probe


def batches(number, accumulated, every=1000, **counts):
    """The schedule after batches without a counted step."""
    schedule, run = Schedule(every, None, True, True), trainer(accumulate_grad_batches=accumulated, **counts)
    schedule.begin_fit(run)
    for index in range(number):
        schedule.begin_batch()
        schedule.due_after_batch(run, index)
    return schedule, run


@pytest.mark.parametrize(("accumulated", "limit"), [(1, 50), (25, 50), (30, 60)])
def test_batches_count_after_fifty_or_two_accumulations_without_a_step(accumulated, limit):
    schedule, run = batches(limit - 1, accumulated, num_training_batches=10**6)
    assert (schedule.step(run), schedule.batches) == (0, limit - 1)
    with pytest.warns(UserWarning, match=f"No optimizer step was counted in {limit} training batches"):
        schedule, run = batches(limit + 7, accumulated, num_training_batches=10**6)
    assert (schedule.step(run), schedule.batches) == (limit + 7, 0)


def test_batches_before_the_first_counted_step_are_forgotten():
    schedule, run = batches(3, 4)
    run.global_step = 1
    schedule.begin_batch()
    schedule.due_after_batch(run, 3)
    schedule.begin_batch()
    assert schedule.state() == {"last_step": 0, "owed": False, "uncounted": 0, "batches": 0}
    assert schedule.step(run) == 1


@pytest.mark.parametrize(("number", "ends"), [(3, False), (4, True)])
@pytest.mark.filterwarnings("ignore:No optimizer step was counted")
def test_a_run_that_ends_with_a_whole_accumulation_and_no_step_is_probed(number, ends):
    schedule, run = batches(number, 4)
    assert schedule.due_at_end(run) == ends
    assert schedule.step(run) == (4 if ends else 0)


def test_a_run_with_counted_steps_counts_no_batches_at_its_end():
    schedule = Schedule(10, None, True, True)
    run = trainer(global_step=7)
    schedule.begin_fit(run)
    for _ in range(5):
        schedule.begin_batch()
    for last, at_end, expected in ((7, True, False), (6, True, True), (6, False, False)):
        schedule.last_step, schedule.at_end = last, at_end
        assert schedule.due_at_end(run) == expected
    assert schedule.step(run) == 7


def test_a_state_of_an_earlier_version_has_no_counts():
    schedule = Schedule(10, None, True, True)
    schedule.restore({"last_step": 0})
    assert schedule.state() == {"last_step": 0, "owed": False, "uncounted": 0, "batches": 0}
    schedule.restore({"last_step": 30, "owed": True, "uncounted": 20, "batches": 3})
    assert schedule.state() == {"last_step": 30, "owed": True, "uncounted": 20, "batches": 3}
    assert not schedule.due_after_batch(trainer(global_step=9), 0)  # 29 with those that were not counted
    for name in ("last_step", "uncounted", "batches"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            schedule.restore({"last_step": 0, name: -1})
    with pytest.raises(ValueError, match="`owed`"):
        schedule.restore({"last_step": 0, "owed": 1})


def test_a_schedule_begins_with_nothing_counted_and_a_state_of_before_has_no_more_than_its_last_step():
    schedule = Schedule(1, 1, True, True)
    nothing = {"last_step": 0, "owed": False, "uncounted": 0, "batches": 0}
    assert schedule.state() == nothing
    schedule.restore({"last_step": 3})
    assert schedule.state() == {**nothing, "last_step": 3}
    kept = {"last_step": 0, "owed": True, "uncounted": 0, "batches": 0}
    schedule.restore(kept)
    assert schedule.state() == kept
    schedule.begin()
    assert schedule.state() == nothing
    for name, value in [("last_step", -1), ("last_step", None), ("owed", 1), ("uncounted", -1), ("batches", -1)]:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            schedule.restore({**nothing, name: value})


@pytest.mark.parametrize(("steps", "epochs", "text"), [(7, None, "7 steps"), (7, 2, "2 epochs")])
def test_a_schedule_is_told_in_steps_or_epochs(steps, epochs, text):
    assert str(Schedule(steps, epochs, True, True)) == text


@pytest.mark.parametrize(("steps", "epochs"), [(0, None), (1, 0)])
def test_intervals_below_one_are_refused(steps, epochs):
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        Schedule(steps, epochs, True, True)


@pytest.mark.parametrize("at_start", [True, False])
def test_a_run_that_begins_is_probed_before_its_first_step_where_asked(at_start):
    schedule = Schedule(10, None, at_start, True)
    assert schedule.due_at_first_batch(trainer(global_step=25), begins=True) == at_start
    assert schedule.last_step == 25


@pytest.mark.parametrize(
    ("owed", "epochs", "last_step", "due"),
    [
        (False, None, 20, False), (False, None, 19, True), (True, None, 20, True), (True, 2, 20, True),
        (False, 2, 0, False), (False, 2, 20, False),
    ],
)  # fmt: skip
def test_a_resumed_run_is_probed_at_once_if_the_saved_weights_missed_a_probe(owed, epochs, last_step, due):
    schedule = Schedule(10, epochs, True, True)
    schedule.last_step, schedule.owed = last_step, owed
    assert schedule.due_at_first_batch(trainer(global_step=25), begins=False) == due


@pytest.mark.parametrize(("uncounted", "expected"), [(5, (8, 0)), (0, (0, 3))])
def test_a_batch_that_had_begun_counts_after_a_resume_where_batches_are_counted(uncounted, expected):
    schedule = Schedule(10, None, True, True)
    schedule.restore({"last_step": 0, "uncounted": uncounted, "batches": 3})
    schedule.begin_fit(trainer())
    assert (schedule.uncounted, schedule.batches) == expected
