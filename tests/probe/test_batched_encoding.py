import pytest
import torch

from synbench_lightning import ProbePlan, task_family
from synbench_lightning.probe.batched_encoding import partition_blocks
from synbench_lightning.probe.proxy_samples import ProxySamples


@pytest.mark.parametrize("family", ["dc", "default", "natural"])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_processes_have_about_as_many_examples_each_and_every_block_once(family, size):
    # Found wrong once: with 85 noise vectors in a cell, in blocks of 64 and 21, every other block was a small one.
    tasks = task_family(family, (1, 8, 8))
    samples = ProxySamples(tasks, ProbePlan(), normalize=None, seed=0, device=torch.device("cpu"))
    blocks = samples.examples(samples.cells).blocks
    found = partition_blocks(blocks, size)
    assert sorted(block for own in found for block in own) == sorted(blocks)
    loads = [sum(block.vectors for block in own) for own in found]
    assert max(loads) <= 1.1 * sum(loads) / size
