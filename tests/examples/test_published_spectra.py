"""RankMe, LiDAR and alpha-ReQ as the studies compute them, against what other implementations gave."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from validity.proxies import lidar
from validity.spectrum import published_alpha

from synbench_lightning.functional.representation.spectrum import effective_rank

DATA = Path(__file__).parents[1] / "data"
KEPT = json.loads((DATA / "spectra.json").read_text())
VIEWS = 8


def features_of(case: str) -> torch.Tensor:
    """``(64, 8, D)``: features of 64 inputs in eight views."""
    with np.load(DATA / "features.npz") as kept:
        rows = torch.tensor(kept[f"{case}/train_x"], dtype=torch.float32)
    return (rows[:64, None] + 0.5 * rows.view(-1, VIEWS, rows.shape[1])).contiguous()


def rank_and_lidar(features: torch.Tensor) -> dict[str, float]:
    return {"RankMe": float(effective_rank(features.flatten(0, 1))), "LiDAR": lidar(features)}


@pytest.mark.parametrize("case", KEPT["stable-pretraining 0.1.8"])
def test_rankme_and_lidar_are_those_that_stable_pretraining_logged(case):
    # It adds 1e-5 to the normalized singular values of RankMe, where the paper has 1e-7.
    assert rank_and_lidar(features_of(case)) == pytest.approx(KEPT["stable-pretraining 0.1.8"][case], rel=1e-3)


@pytest.mark.parametrize("case", KEPT["reptrix 0.1.0"])
def test_alpha_req_is_that_of_reptrix(case):
    found = published_alpha(features_of(case).flatten(0, 1))
    assert found == pytest.approx(KEPT["reptrix 0.1.0"][case]["alpha"], rel=1e-3)


def test_features_of_fewer_than_twenty_directions_have_no_published_exponent():
    assert np.isnan(published_alpha(torch.randn(50, 12)))
