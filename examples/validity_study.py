"""Does a number tell the truth? Predictors of downstream performance, measured on pretraining runs.

Encoders are pretrained on real images in ten ways, two of which go wrong. At checkpoints spaced by logarithm every
predictor (scores of Gaussian proxy tasks, information about inputs with noise or in views, RankMe, LiDAR, alpha-ReQ,
readouts of a few labels, the training loss, the step) stands beside what all labels say: linear probe and nearest
neighbours, several label sets, noise and adversarial shifts. Half of the ways served to choose. The tables of the other
half were looked at once, when all was chosen; nothing was chosen on the last source, larger images and a network of a
million weights. What was found is in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]'
    python examples/validity_study.py --small                                  # minutes on a CPU, into runs/validity
    python examples/validity_study.py --images patches --seeds 3 --workers 8   # an hour on eight cores
    python examples/validity_study.py --table examples/validity/digits.csv.gz  # the answers from the kept results

The sources are ``digits``, ``patches``, ``glyphs`` (letters in random colours), ``recoloured`` (the same, with
pretraining that recolours them), ``pictures`` (``--device cuda``; needs scikit-image) and ``fashion`` (Fashion-MNIST).
The kept results are of three seeds.
"""

from __future__ import annotations

import argparse
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch

try:
    from validity import alignment
    from validity.answers import SUMS, Row, Study, read_table, report, write_table
    from validity.inputs import SOURCES, load_images
    from validity.measure import PREDICTORS, Measurement
    from validity.regimes import DEVELOPMENT, HELD_OUT, REGIMES
    from validity.runs import Run, pretrain
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

ENCODERS = dict.fromkeys(SOURCES, ("conv", "transformer")) | {"pictures": ("resnet",), "fashion": ("cnn",)}


def main() -> None:
    args = arguments()
    if args.table is None:
        rows = study_rows(args)
        write_table(rows, args.dir / f"{args.images}.csv.gz")
        print(f"Results: {args.dir / f'{args.images}.csv.gz'}")
    else:
        rows = read_table(args.table)
    images = load_images(str(rows[0]["images"]))
    first = next(iter(images.train_labels))
    for half, regimes in (("Development", DEVELOPMENT), ("Held-out", HELD_OUT), ("All", tuple(REGIMES))):
        if any(row["regime"] in regimes for row in rows):
            study = Study(rows, regimes, first)
            print(f"\n## {half} regimes: {len(study.runs)} runs, {len(study.steps)} checkpoints each")
            print("\n".join(report(study, (*PREDICTORS, *SUMS))))
    print("\n".join(alignment.report(study, images)))


def study_rows(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    args.dir.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    runs = [
        Run(args.images, regime, encoder, seed, args.steps)
        for seed, regime, encoder in product(range(args.seeds), args.regimes, args.encoders or ENCODERS[args.images])
    ]
    with ProcessPoolExecutor(args.workers, get_context("spawn")) as pool:
        for index, (run, found) in enumerate(zip(runs, pool.map(partial(measured, args), runs), strict=True), 1):
            print(f"run {index} of {len(runs)}: {run.regime}, {run.encoder}, seed {run.seed}", flush=True)
            rows += found
    return rows


def measured(args: argparse.Namespace, run: Run) -> list[Row]:
    """Of one run."""
    torch.set_num_threads(1)  # tensors this small are not worth sharing among threads
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge")
    pretrain(run, args.dir, args.device)
    return measurement(run.images).rows(run, args.dir, args.device)


@cache
def measurement(images: str) -> Measurement:
    """Drawn once in each process."""
    return Measurement(images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure predictors of downstream performance on pretraining runs.")
    parser.add_argument("--small", action="store_true", help="one seed and 150 steps: minutes, for a look")
    parser.add_argument("--images", choices=tuple(SOURCES), default="digits", help="the data (default: digits)")
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), metavar="REGIME")
    parser.add_argument("--encoders", nargs="+", choices=("conv", "transformer", "resnet", "cnn"), metavar="ENCODER")
    parser.add_argument("--seeds", type=int, help="seeds for each regime and architecture (default: 5)")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: 800)")
    parser.add_argument("--dir", type=Path, default=Path("runs/validity"), help="where checkpoints and results go")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the runs (default: 1)")
    parser.add_argument("--device", default="cpu", help="where encoders are trained and run (default: cpu)")
    parser.add_argument("--table", type=Path, help="only answer from these results")
    args = parser.parse_args()
    seeds, steps = (1, 150) if args.small else (5, 800)
    args.seeds = seeds if args.seeds is None else args.seeds
    args.steps = steps if args.steps is None else args.steps
    if args.seeds < 1 or args.steps < 50:
        parser.error(f"--seeds must be at least 1 and --steps at least 50, got {args.seeds} and {args.steps}")
    return args


if __name__ == "__main__":
    main()
