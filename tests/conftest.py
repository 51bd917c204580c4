"""What holds for every test."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

collect_ignore = [  # looking for doctests imports every file; these register a device that stays
    "integration/pretended_device.py",
    "integration/training_on_a_pretended_device.py",
    "integration/runs_of_a_package.py",  # a script, with arguments
]
torch.set_num_threads(1)  # the tensors here are small: threads would wait for each other


@pytest.fixture(autouse=True)
def each_test_draws_the_same_numbers() -> None:
    """What a test draws, as the weights of a module, does not depend on other tests or on the clock."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> Iterator[None]:
    """Each test works in a folder of its own and leaves no process group, thread or environment variable."""
    monkeypatch.chdir(str(tmp_path))
    threads, variables = set(threading.enumerate()), set(os.environ)
    yield
    assert not torch.distributed.is_initialized()
    assert [thread for thread in threading.enumerate() if thread not in threads and not thread.daemon] == []
    of_others = (
        "PL_GLOBAL_SEED",
        "PL_SEED_WORKERS",
        "CUDA_",
        "TRITON_",
        "TORCHINDUCTOR_",
    )  # of Lightning, torch, a GPU
    assert [name for name in set(os.environ) - variables if not name.startswith(of_others)] == []
