"""How often probes are made when they may take a share of the time, on a clock made to order."""

import time

import pytest

from tests.callbacks.runs import probing, steps, trainer
from tests.encoders import Autoencoder


@pytest.mark.parametrize(("allowed", "probed"), [(0.1, [0, 40, 55, 75]), (0.3, [0, *range(10, 85, 5)])])
def test_a_probe_is_made_once_its_time_fits_in_the_share_that_is_allowed(monkeypatch, allowed, probed):
    # A step takes a second, a probe two. With 0.1 the second probe must wait until 4 / (36 + 4), the third until
    # 6 / (54 + 6), the fourth until 8 / (72 + 8); with 0.3 it waits for 4 / (10 + 4), and none after it.
    now = [0.0]

    class Timed(Autoencoder):
        def training_step(self, batch, batch_idx):
            now[0] += 1
            return super().training_step(batch, batch_idx)

    def encoder(module, x):
        now[0] += 2 * len(x) / 768
        return module.encoder(x)

    callback = probing(5, encoder=encoder, max_overhead=allowed, probe_at_end=False)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer(callback, max_steps=80).fit(Timed())
    assert steps(callback) == probed
