"""Results of probes with values that are written down."""

from __future__ import annotations

from typing import Any

from synbench_lightning import ProbePlan, ProbeResult


def written_result(**more: Any) -> ProbeResult:
    """A result of one task; with ``accuracy`` and ``bound`` of the optimum its score is 1."""
    values: dict[str, Any] = {
        "tasks": ("dc",), "epsilons": (0.0,), "thresholds": (0.7,), "plan": ProbePlan(num_scales=2),
        "accuracy": (((0.8, 0.99),),), "bound": (((1.3, 1.0),),), "standard_errors": (((0.01,),),), "feature_dim": 64,
        "effective_rank": 50.0, "alpha_req": 0.5, "feature_std": 1.0, "num_forwards": 8192, "seed": 0, "seconds": 1.0,
    }  # fmt: skip
    return ProbeResult(**{**values, **more})
