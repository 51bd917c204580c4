"""Does the score tell the truth? Predictors of downstream performance, measured on pretraining runs.

Encoders are pretrained on real images in ten ways, two of which go wrong. At checkpoints spaced by logarithm every
predictor that needs no labels (SynBench scores of several families of proxy tasks, RankMe, alpha-ReQ, the training
loss, the step) stands beside what labels say: linear probe and nearest neighbours, all labels and few, six label sets,
noise and adversarial shifts. Half of the regimes served to search proxy tasks; the tables of the other half are the
confirmation.

What was found, on digits and patches with 100 runs each and on letters with 60. The paper's task follows the linear
probe within a run at a median Spearman of .37, .20 and -.56 over held-out regimes, and loses .02, .04 and .23 of
accuracy by selecting a checkpoint. Tasks between clusters of unlabelled images reach .80 on digits, and fail on the
others. Information about which of some images a noisy version was made from has .73, .58 and -.33, and loses .01, .01
and .19; RankMe loses .03, .02 and .11, the training loss .05, .02 and .03. All proxies fail on letters in random
colours: to read them an encoder has to drop most of what it sees. What follows where goes with the agreement of
clusters and labels.

    pip install 'synbench-lightning[examples]'
    python examples/validity_study.py --small            # minutes on a CPU, into runs/validity
    python examples/validity_study.py                    # hours on a CPU core
    python examples/validity_study.py --table examples/validity/digits.csv.gz   # the answers from the kept results

The other data are ``--images patches`` and ``--images glyphs`` (whose kept results are of ``--seeds 3``).
"""

from __future__ import annotations

import argparse
import warnings
from itertools import product
from pathlib import Path

import torch

try:
    from validity import alignment
    from validity.answers import Row, Study, read_table, report, write_table
    from validity.inputs import load_images
    from validity.measure import PREDICTORS, Measurement
    from validity.regimes import DEVELOPMENT, HELD_OUT, REGIMES
    from validity.runs import Run, pretrain
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

ENCODERS = ("conv", "transformer")


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # tensors this small are not worth sharing among threads
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
            print("\n".join(report(study, PREDICTORS)))
    print("\n".join(alignment.report(study, images)))


def study_rows(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    args.dir.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge")
    measurement = Measurement(args.images)
    rows: list[Row] = []
    runs = [
        Run(args.images, regime, encoder, seed, args.steps)
        for seed, regime, encoder in product(range(args.seeds), args.regimes, args.encoders)
    ]
    for index, run in enumerate(runs, 1):
        print(f"run {index} of {len(runs)}: {run.regime}, {run.encoder}, seed {run.seed}", flush=True)
        pretrain(run, args.dir)
        rows += measurement.rows(run, args.dir)
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure predictors of downstream performance on pretraining runs.")
    parser.add_argument("--small", action="store_true", help="one seed and 150 steps: minutes, for a look")
    parser.add_argument(
        "--images", choices=("digits", "patches", "glyphs"), default="digits", help="the data (default: digits)"
    )
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), metavar="REGIME")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=ENCODERS, metavar="ENCODER")
    parser.add_argument("--seeds", type=int, help="seeds for each regime and architecture (default: 5)")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: 800)")
    parser.add_argument("--dir", type=Path, default=Path("runs/validity"), help="where checkpoints and results go")
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
