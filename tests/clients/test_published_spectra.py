"""RankMe and LiDAR of stable-pretraining's callbacks are those of the studies.

``python -m tests.clients.test_published_spectra`` prints what is in ``tests/data/spectra.json``; for that it needs
reptrix too.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.clients.clients import marks
from tests.examples.test_published_spectra import KEPT, VIEWS, features_of, rank_and_lidar

pytestmark = marks("stable_pretraining")
from stable_pretraining.callbacks import LiDAR, RankMe  # noqa: E402


def logged(features: torch.Tensor) -> dict[str, float]:
    """What the callbacks log in a validation, with the features in their queue."""
    rows, found = features.flatten(0, 1), dict[str, float]()
    shared: dict[str, Any] = {"target": "x", "queue_length": len(rows), "target_shape": rows.shape[1], "verbose": False}
    for callback in (RankMe("RankMe", **shared), LiDAR("LiDAR", n_classes=64, samples_per_class=VIEWS, **shared)):
        callback._target_queue = SimpleNamespace(data=rows)
        module: Any = SimpleNamespace(log=lambda name, value, **_: found.update({name: float(value)}))
        callback.on_validation_batch_end(SimpleNamespace(global_rank=0), module, {}, {}, 0)
    return found


@pytest.mark.parametrize("case", KEPT["stable-pretraining 0.1.8"])
def test_rankme_and_lidar_are_those_that_stable_pretraining_logs(case: str) -> None:
    features = features_of(case)
    assert rank_and_lidar(features) == pytest.approx(logged(features), rel=1e-3)


def main() -> None:
    from reptrix.alpha import get_alpha

    alphas = {}
    for case in KEPT["reptrix 0.1.0"]:
        rows = features_of(case).flatten(0, 1)
        alphas[case] = {"alpha": float(get_alpha(rows, fit_range=np.arange(10, rows.shape[1]))[0])}
    stable = {case: logged(features_of(case)) for case in KEPT["stable-pretraining 0.1.8"]}
    print(json.dumps({"stable-pretraining 0.1.8": stable, "reptrix 0.1.0": alphas}, indent=1))


if __name__ == "__main__":
    main()
