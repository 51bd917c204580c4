"""Whose state a callback has: that of the run which it was made in, or of the one which a fit resumes."""

import copy
from multiprocessing.context import set_spawning_popen
from types import SimpleNamespace

import pytest

from synbench_lightning.callbacks.run_state import RunStateCallback


class Counting(RunStateCallback):
    def __init__(self, function=None):
        self.count, self.function = 0, function

    def _begin(self):
        self.count = 0

    def _restore_state(self, state):
        self.count = state["count"]
        if self.count < 0:
            raise ValueError("it counts down")


class Of:
    """A trainer, or a module."""

    global_step = 0

    def __init__(self, late=False):
        self.strategy = SimpleNamespace(restore_checkpoint_after_setup=late)


def begins(callback, trainer, module, stage="fit", state=None, step=0):
    """What Lightning calls until training begins."""
    trainer.global_step = step
    callback.setup(trainer, module, stage)
    if state is not None:
        callback.on_load_checkpoint(trainer, module, {})
        callback.load_state_dict(state)
    if stage == "fit":
        callback.on_train_start(trainer, module)
        callback.count += 1
    callback.teardown(trainer, module, stage)
    return callback.count


def test_a_further_fit_of_the_same_module_goes_on_and_another_run_begins_anew():
    callback, trainer, module = Counting(), Of(), Of()
    assert [begins(callback, trainer, module, step=step) for step in (0, 1, 9)] == [1, 2, 3]
    assert begins(callback, trainer, Of(), step=9) == 1
    assert begins(callback, Of(), module, step=9) == 1
    assert begins(callback, trainer, module, step=9) == 1  # the run before was another one
    assert begins(callback, trainer, module, step=0) == 1  # its first step is still to come


def test_a_resumed_fit_has_the_state_of_the_checkpoint():
    callback, trainer, module = Counting(), Of(), Of()
    assert begins(callback, trainer, module, state={"count": 7}, step=5) == 8
    assert begins(callback, trainer, module, step=9) == 9
    assert begins(callback, trainer, module, state={"count": 2}, step=5) == 3  # the same run, from an earlier step


def test_a_checkpoint_without_a_state_of_the_callback_begins_anew():
    callback, trainer, module = Counting(), Of(), Of()
    begins(callback, trainer, module)
    callback.setup(trainer, module, "fit")
    callback.on_load_checkpoint(trainer, module, {})
    trainer.global_step = 5
    callback.on_train_start(trainer, module)
    assert callback.count == 0


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_the_weights_of_another_run_are_tested_without_its_state(stage):
    callback, trainer, module = Counting(), Of(), Of()
    begins(callback, trainer, module)
    assert begins(callback, trainer, module, stage, state={"count": 7}) == 1
    assert begins(callback, trainer, module, step=5) == 2


@pytest.mark.parametrize(("late", "expected"), [(False, 0), (True, 7)])
def test_what_a_finder_puts_back_is_no_resume_except_where_checkpoints_are_read_later(late, expected):
    callback, trainer, module = Counting(), Of(late), Of()
    callback.setup(trainer, module, "fit")
    callback.on_save_checkpoint(trainer, module, {})
    callback.load_state_dict({"count": 7})
    callback.on_train_start(trainer, module)
    assert callback.count == expected


def test_in_training_no_state_is_restored_and_after_the_end_of_a_function_one_is():
    callback, trainer, module = Counting(), Of(), Of()
    callback.load_state_dict({"count": 3})
    assert callback.count == 3  # without a trainer
    for end in (callback.teardown, callback.on_exception):
        callback.setup(trainer, module, "fit")
        callback.on_train_start(trainer, module)
        callback.load_state_dict({"count": 4})
        assert callback.count == 0
        end(trainer, module, "fit" if end == callback.teardown else ValueError())
        callback.load_state_dict({"count": 5})
        assert callback.count == 5


@pytest.mark.parametrize(("state", "why"), [({}, "it has no 'count'"), ({"count": -1}, "it counts down")])
def test_a_state_that_cannot_be_read_is_a_warning_and_a_new_history(state, why):
    callback, trainer, module = Counting(), Of(), Of()
    callback.setup(trainer, module, "fit")
    callback.count = 9
    with pytest.warns(UserWarning, match=f"restore the state of Counting from the checkpoint: {why}. It starts a new"):
        callback.load_state_dict(state)
    assert callback.count == 0
    trainer.global_step, callback.count = 5, 2
    callback.on_train_start(trainer, module)
    assert callback.count == 0


def test_a_function_is_copied_and_refused_where_it_cannot_be_sent_to_another_process():
    def inner():
        pass

    callback = Counting(inner)
    assert copy.deepcopy(callback).function is inner
    set_spawning_popen(object())
    try:
        with pytest.raises(ValueError, match="`function` cannot be sent to the processes that"):
            copy.copy(callback)
        callback.function, callback._own, callback.values = None, inner, iter([])  # neither is given by the user
        assert copy.copy(callback)._own is inner
    finally:
        set_spawning_popen(None)
