"""Results come from a process that was started to the one that started it, each once."""

import copy
import multiprocessing

from synbench_lightning.callbacks.process_handover import ProcessHandover


def test_what_was_left_is_taken_once_and_each_result_is_left_once():
    handover = ProcessHandover()
    assert handover.take() is None
    handover.leave([{"step": 0}])
    handover.leave([{"step": 0}, {"step": 5}, {"step": 10}])
    assert handover.take() == [{"step": 0}, {"step": 5}, {"step": 10}]
    assert handover.take() is None
    handover.leave([{"step": 1}])  # of another run
    assert handover.take() == [{"step": 1}]


def test_a_line_that_is_not_complete_is_left_out():
    handover = ProcessHandover()
    handover.leave([{"step": 0}, {"step": 5}])
    with handover._path.open("a") as file:
        file.write('{"step": 1')
    assert handover.take() == [{"step": 0}, {"step": 5}]


def test_what_was_discarded_is_gone_and_a_copy_has_a_file_of_its_own():
    handover = ProcessHandover()
    handover.leave([{"step": 0}])
    assert copy.deepcopy(handover).take() is None
    handover.discard()
    handover.discard()
    assert handover.take() is None
    path = handover._path
    handover.leave([{"step": 2}])
    assert path.exists()
    del handover
    assert not path.exists()


def _started(handover, found):
    handover.leave([{"step": 3}])
    found.put((handover.is_started, handover.take()))


def test_a_started_process_leaves_results_and_takes_none():
    context = multiprocessing.get_context("fork")
    handover, found = ProcessHandover(), context.SimpleQueue()
    assert not handover.is_started
    process = context.Process(target=_started, args=(handover, found))
    process.start()
    assert found.get() == (True, None)
    process.join()
    assert process.exitcode == 0
    assert handover.take() == [{"step": 3}]
