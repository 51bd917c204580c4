"""Time and memory of relating and selecting points, by their number.

Each row is a process of its own, whose memory includes Python and torch (about 0.4 GiB).

    python -m tests.performance.dynamics
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.curve_correlation import pearson, standardised
from synbench_lightning.functional.benchmark.polynomials import agreement, polynomial_coefficients
from synbench_lightning.functional.benchmark.representatives import anchor_points, coefficient_clusters, coverage
from synbench_lightning.functional.benchmark.selection import proportional
from tests.performance.tables import print_table

WAYS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "pairwise correlations": lambda curves, tasks: pearson(curves),
    "polynomial coefficients": lambda curves, tasks: polynomial_coefficients(standardised(curves), len(curves) - 1),
    "loss-proportional draw": lambda curves, tasks: proportional(curves[-1].abs(), tasks, 200),
    "k-medoids": lambda curves, tasks: anchor_points(curves, tasks, 200),
    "coefficient clusters": lambda curves, tasks: coefficient_clusters(curves, tasks, 200, len(curves) - 1),
    "coverage": lambda curves, tasks: coverage(curves, tasks, 200),
}
PAIRWISE_LIMIT = 10_000
"""With 100,000 points the matrix of all pairs alone takes 75 GiB."""


def walks(points: int, checkpoints: int) -> Tensor:
    """Curves that drift, as training dynamics do."""
    noise = torch.randn(checkpoints, points, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return noise.cumsum(0)


def measure(way: str, points: int, checkpoints: int) -> None:
    curves, tasks = walks(points, checkpoints), torch.arange(points) % 5
    start = time.perf_counter()
    WAYS[way](curves, tasks)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def rows(checkpoints: int) -> Iterator[tuple[str, int, str, str]]:
    for way in WAYS:
        for points in (1_000, 10_000, 100_000):
            if way == "pairwise correlations" and points > PAIRWISE_LIMIT:
                continue
            arguments = ["--way", way, "--points", str(points), "--checkpoints", str(checkpoints)]
            command = [sys.executable, "-m", "tests.performance.dynamics", *arguments]
            seconds, gib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            yield way, points, f"{float(seconds):.2f}", f"{float(gib):.2f}"


def agreements() -> Iterator[tuple[int, float]]:
    curves = walks(300, 29)
    r = pearson(curves).r
    for degree in (1, 3, 5, 10, 20, 28):
        yield degree, agreement(polynomial_coefficients(standardised(curves), degree), r)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--way", choices=list(WAYS), help="measure only this one, in this process")
    parser.add_argument("--points", type=int, default=1_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.way:
        measure(args.way, args.points, args.checkpoints)
        return
    print(f"{args.checkpoints} checkpoints, a selection of 200 points in five tasks, one thread.\n")
    print_table("way | points | seconds | peak memory, GiB", rows(args.checkpoints))
    print("Agreement of the coefficients with the pairwise correlations, 300 random walks of 29 checkpoints.\n")
    print_table("degree | agreement", agreements())


if __name__ == "__main__":
    main()
