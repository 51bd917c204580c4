"""What one process does that has half of a metric's examples. Started by torchrun."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from synbench_lightning import ProbePlan, SynBenchScore
from tests.distributed.leaving import leave
from tests.probe.examples_of_a_plan import encoded


def main(folder: str, protocol: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    plan = ProbePlan.official() if protocol == "official" else ProbePlan(forwards=1024, num_scales=4)
    metric = SynBenchScore(plan=plan, epsilon=0.2)
    for place, (features, labels, scale) in enumerate(encoded(plan)):
        quarter = len(labels) // 4
        share = slice(rank, None, 2) if place % 2 else (slice(quarter), slice(quarter, None))[rank]
        metric.update(features[share], labels[share], scale)
    Path(folder, f"rank{rank}.json").write_text(json.dumps({"score": float(metric.compute())}))
    leave()


if __name__ == "__main__":
    main(*sys.argv[1:])
