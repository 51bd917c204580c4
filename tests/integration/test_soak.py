"""Many probes in one run leave nothing behind."""

import gc
import os
import resource

import pytest
from lightning.pytorch import Callback

from tests.callbacks.runs import probing, trainer
from tests.integration.modules import Plain


class Footprint(Callback):
    """Peak memory and open files of the process after some of the probes."""

    def __init__(self):
        self.memory, self.files = {}, {}

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step % 100 == 0:
            gc.collect()
            self.memory[trainer.global_step] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            self.files[trainer.global_step] = len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files the way Linux shows them")
def test_five_hundred_probes_leave_memory_and_files_as_they_were():
    footprint, callback = Footprint(), probing(every=1, batch_size=64)
    trainer(callback, footprint, max_steps=500).fit(Plain())
    print("MiB", footprint.memory, "files", footprint.files)
    assert len(callback.history) == 501
    assert footprint.memory[500] - footprint.memory[100] < 16  # the history itself is some kilobytes a probe
    assert footprint.files[500] == footprint.files[100]
