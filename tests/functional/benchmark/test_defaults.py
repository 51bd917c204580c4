"""Where no seed is given, it is 0; where it is another, random choices are others."""

import pytest
import torch

from synbench_lightning.functional import task_splits
from synbench_lightning.functional.benchmark import representatives
from synbench_lightning.functional.benchmark.prediction import choose_points
from synbench_lightning.functional.benchmark.selection import proportional, stratified, uniform

TASKS = torch.arange(120) // 40
CURVES = torch.randn(9, 120, generator=torch.Generator().manual_seed(0)).cumsum(0)

CALLS = {
    "uniform": lambda **seed: uniform(TASKS, 20, **seed).indices,
    "stratified": lambda **seed: stratified(TASKS, 20, **seed).indices,
    "proportional": lambda **seed: proportional(CURVES[0].abs(), TASKS, 20, **seed).indices,
    "anchor points": lambda **seed: representatives.anchor_points(CURVES, TASKS, 20, **seed).indices,
    "clusters": lambda **seed: representatives.coefficient_clusters(CURVES, TASKS, 20, 5, **seed).indices,
    "coverage": lambda **seed: representatives.coverage(CURVES, TASKS, 20, **seed).indices,
    "points": lambda **seed: choose_points(CURVES, TASKS, 20, **seed).indices,
    "centers": lambda **seed: task_splits.cluster_centres(CURVES.T, 7, **seed),
}


@pytest.mark.parametrize("name", CALLS)
def test_the_seed_is_0_unless_another_is_given(name, monkeypatch):
    monkeypatch.setattr(representatives, "MAX_CANDIDATES", 41)
    found = CALLS[name]()
    assert torch.equal(found, CALLS[name](seed=0))
    assert any(not torch.equal(found, CALLS[name](seed=seed)) for seed in (1, 2))
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0, got -1"):
        CALLS[name](seed=-1)


def test_the_floor_of_a_proportional_selection_is_a_tenth():
    sizes = CURVES[0].abs()
    assert torch.equal(proportional(sizes, TASKS, 20).proposal, proportional(sizes, TASKS, 20, floor=0.1).proposal)
