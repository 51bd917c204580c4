"""Settings of the process that a forward changes hold for it alone."""

import gc
import logging
import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.runtime.process_settings import COMPUTATION, settings_kept
from tests.callbacks.runs import probing, steps, trainer
from tests.integration.modules import Plain

CHANGES = {
    "default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "gradients": (lambda: torch.set_grad_enabled(not torch.is_grad_enabled()), torch.is_grad_enabled),
    "deterministic algorithms": (
        lambda: torch.use_deterministic_algorithms(True, warn_only=True),
        torch.get_deterministic_debug_mode,
    ),
    "precision of products": (
        lambda: torch.set_float32_matmul_precision("medium"),
        torch.get_float32_matmul_precision,
    ),
    "threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "anomaly detection": (lambda: torch.autograd.set_detect_anomaly(True), torch.is_anomaly_enabled),
    "autocast": (lambda: torch.set_autocast_enabled("cpu", True), lambda: torch.is_autocast_enabled("cpu")),
    "autocast's dtype": (
        lambda: torch.set_autocast_dtype("cpu", torch.float16),
        lambda: torch.get_autocast_dtype("cpu"),
    ),
    "cuDNN": (
        lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
        lambda: torch.backends.cudnn.benchmark,
    ),
    "attention": (lambda: torch.backends.cuda.enable_flash_sdp(False), torch.backends.cuda.flash_sdp_enabled),
    "NumPy's errors": (lambda: np.seterr(all="ignore"), np.geterr),
    "NumPy's printing": (lambda: np.set_printoptions(precision=2), np.get_printoptions),
    "filters of warnings": (lambda: warnings.simplefilter("ignore"), lambda: list(warnings.filters)),
    "environment": (lambda: os.environ.update(SYNBENCH_TEST="1"), lambda: dict(os.environ)),
    "working directory": (lambda: os.chdir(os.path.dirname(os.getcwd()) or "/"), os.getcwd),
    "log levels": (lambda: logging.disable(logging.CRITICAL), lambda: logging.root.manager.disable),
    "level of the root": (lambda: logging.root.setLevel(3), lambda: logging.root.level),
    "recursion": (lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 5), sys.getrecursionlimit),
    "garbage collection": (gc.disable, gc.isenabled),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_changed_is_put_back_and_nothing_else_is_written(name):
    change, read = CHANGES[name]
    before = read()
    with settings_kept():
        change()
        assert read() != before
    assert read() == before


def test_what_was_set_before_stays_set():
    try:
        torch.set_default_device("meta")
        with settings_kept():
            torch.set_default_device(None)
        assert torch.empty(1).is_meta
    finally:
        torch.set_default_device(None)


def _attention():
    cuda = torch.backends.cuda
    return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]


def _set_attention(flags):
    cuda = torch.backends.cuda
    setters = (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp)
    for enable, flag in zip(setters, flags, strict=True):
        enable(flag)


@pytest.mark.parametrize("off", range(3))
def test_each_kind_of_attention_is_as_it_was(off):
    before = _attention()
    flags = [kind != off for kind in range(3)]
    try:
        _set_attention(flags)
        with settings_kept():
            _set_attention([not flag for flag in flags])
        assert _attention() == flags
    finally:
        _set_attention(before)


def test_what_a_computation_depends_on_is_put_back_alone_where_it_is_asked_for():
    with settings_kept(COMPUTATION):
        os.environ["SYNBENCH_TEST"] = "2"
        torch.set_default_dtype(torch.float64)
    assert os.environ.pop("SYNBENCH_TEST") == "2"
    assert torch.get_default_dtype() == torch.float32


def test_a_default_device_is_put_back_where_there_was_none_and_where_there_was_one():
    for before in (None, "meta"):
        try:
            torch.set_default_device(before)
            with settings_kept(COMPUTATION):
                torch.set_default_device("cpu" if before else "meta")
            assert torch.empty(1).is_meta == (before == "meta")
        finally:
            torch.set_default_device(None)


class ChangesSettings(nn.Linear):
    """Changes settings in evaluation mode, and keeps what its forward sees."""

    def forward(self, x):
        if not self.training:
            assert torch.get_default_dtype() == torch.float32
            for name in ("default dtype", "default device", "gradients", "threads", "autocast", "environment"):
                CHANGES[name][0]()
            random.seed(3), np.random.seed(3), torch.manual_seed(3)
        return super().forward(x)


class Changing(Plain):
    def __init__(self):
        super().__init__()
        self.encoder[0] = ChangesSettings(12, self.encoder[0].out_features)


def test_a_run_is_the_same_where_a_forward_changes_settings_in_evaluation_mode():
    def fit(*callbacks):
        torch.manual_seed(0)
        model = Changing()
        trainer(*callbacks, max_steps=8).fit(model)
        return model.state_dict(), [read() for _, read in CHANGES.values()]

    callback = probing(every=4)
    (weights, settings), (probed, same) = fit(), fit(callback)
    assert steps(callback) == [0, 4, 8]
    assert all(torch.equal(weights[name], probed[name]) for name in weights)
    assert settings == same


def test_the_score_does_not_depend_on_settings_that_a_forward_changes():
    torch.manual_seed(0)
    changing = ChangesSettings(8, 8)
    plain = nn.Linear(8, 8)
    plain.load_state_dict(changing.state_dict())
    one, other = (evaluate(encoder, (8,), plan=ProbePlan(forwards=512)) for encoder in (changing, plain))
    assert one.score() == pytest.approx(other.score(), abs=1e-2)  # autocast rounds the first of them
