"""What processes share: sums over their parts, agreement about failures, and rows of which each computes some."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from synbench_lightning.runtime.collectives import SingleProcess, StrategyProcesses, agreed, gather_rows
from tests.threaded_processes import on_processes

CPU = torch.device("cpu")


def test_a_single_process_has_everything():
    one = SingleProcess()
    assert (one.rank, one.size, one.lockstep) == (0, 1, False)
    assert (one.sum(3), one.any(True), one.any(False), one.broadcast("a")) == (3, True, False, "a")


class Sharding(DDPStrategy):
    """Six processes, of which each two share the shards of one data-parallel part."""

    distributed_sampler_kwargs = {"num_replicas": 3, "rank": 2}  # noqa: RUF012

    def __init__(self):
        """Starts nothing."""

    def reduce(self, tensor, group=None, reduce_op="mean"):
        return 6 * tensor if reduce_op == "sum" else tensor

    def reduce_boolean_decision(self, decision, all=True):
        return "every" if all else "any"

    def broadcast(self, obj, src=0):
        return (obj, src)


@pytest.mark.parametrize("lockstep", [False, True])
def test_the_parts_of_a_strategy_are_its_data_parallel_ranks(lockstep):
    found = StrategyProcesses(Sharding(), 6, lockstep)
    assert (found.rank, found.size, found.lockstep) == (2, 3, lockstep)
    assert found.sum(torch.tensor(5.0)) == 15  # each part counts once
    assert found.any(True) == "any"
    assert found.broadcast("a") == ("a", 0)


def test_a_strategy_of_one_device_is_one_part():
    found = StrategyProcesses(SingleDeviceStrategy(), 1, False)
    assert (found.rank, found.size) == (0, 1)
    assert found.sum(torch.tensor(5.0)) == 5
    assert [found.any(flag) for flag in (True, False)] == [True, False]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_processes_compute_are_gathered_on_each(size, dtype):
    whole = torch.rand(5, 2, 3, dtype=dtype)

    def work(processes):
        def make():
            own = range(processes.rank, 2, size)  # the third process has none
            return [(slice(2 * part, 2 * part + 2), whole[2 * part : 2 * part + 2]) for part in own] + (
                [(torch.tensor([4]), whole[4:])] if processes.rank == 0 else []
            )

        return gather_rows(processes, 5, CPU, make)

    for found in on_processes(size, work):
        assert found.dtype == dtype
        assert torch.equal(found, whole)


def test_a_failure_is_raised_on_all_processes_each_with_its_own_error():
    def work(processes):
        def make():
            if processes.rank == 1:
                raise KeyError("mine")
            return processes.rank

        try:
            return agreed(processes, make)
        except Exception as error:
            return repr(error)

    of_another = "RuntimeError('Another process failed; its log has the reason.')"
    assert on_processes(3, work) == [of_another, "KeyError('mine')", of_another]
    assert on_processes(1, work) == [0]
