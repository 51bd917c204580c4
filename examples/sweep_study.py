"""Which run of a sweep? Numbers without labels, and with few, against the linear probe over runs with other settings.

Four methods (SimCLR, VICReg, masked reconstruction, supervised with noisy labels) are trained with 24 settings each:
learning rate, weight decay, batch size, strength of augmentation, and temperature, weights of the loss, hidden fraction
or fraction of wrong labels. At the end of each run information under one set of views, the same for all runs, is
compared to RankMe, LiDAR, alpha-ReQ, the score, the training loss, readouts of 100 and 300 labels, and the accuracy of
a linear probe with all labels. Other sweeps use one augmentation for all runs, or vary the width of the encoder (the
kept results have 12 settings of it). What was found is in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]'
    python examples/sweep_study.py --small                                       # minutes on a CPU, into runs/sweeps
    python examples/sweep_study.py --images patches                              # a quarter of an hour
    python examples/sweep_study.py --images patches --sweep "one augmentation"   # the same in all runs
    python examples/sweep_study.py --images patches --sweep "any width"          # with four widths
    python examples/sweep_study.py --table examples/validity/sweep_*.csv.gz      # answers from the kept results
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

try:
    from validity.answers import Row, read_table, write_table
    from validity.command import one_thread
    from validity.sweep_answers import report
    from validity.sweep_measure import SweepMeasurement, SweepRun
    from validity.sweep_settings import METHODS, SWEEPS, settings_of
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

SOURCES = ("digits", "patches", "recoloured", "fashion")
TABLES = dict(zip(SWEEPS, ("", "_widths", "_augmented"), strict=True))
"""Ends of the names of their tables."""


def main() -> None:
    args = arguments()
    if args.table is None:
        rows = list(sweep_rows(args))
        table = args.dir / f"sweep_{args.images}{TABLES[args.sweep]}.csv.gz"
        write_table(rows, table)
        print(f"Results: {table}")
    else:
        rows = [row for table in args.table for row in read_table(table)]
    print("\n".join(report(rows)))


def sweep_rows(args: argparse.Namespace) -> Iterator[Row]:
    """Train and measure; what an earlier call has done is taken from the folder."""
    one_thread()
    args.dir.mkdir(parents=True, exist_ok=True)
    measurement = SweepMeasurement(args.images)
    every = {method: settings_of(method, args.settings, args.sweep) for method in args.methods}
    for index, method in product(range(args.settings), args.methods):
        run = SweepRun(args.images, args.sweep, every[method][index], args.steps)
        yield measurement.row(run, args.dir)
        print(f"{method}, setting {index}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare what ranks the runs of a sweep.")
    parser.add_argument("--small", action="store_true", help="four settings of 100 steps: minutes, for a look")
    parser.add_argument("--images", choices=SOURCES, default="digits", help="the data (default: digits)")
    parser.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=tuple(METHODS), metavar="METHOD")
    parser.add_argument("--settings", type=int, help="of each method (default: 24)")
    parser.add_argument("--sweep", choices=SWEEPS, default=SWEEPS[0], help="what varies (default: all but the width)")
    parser.add_argument("--steps", type=int, help="optimizer steps of a run (default: 300)")
    parser.add_argument("--dir", type=Path, default=Path("runs/sweeps"), help="where results go")
    parser.add_argument("--table", type=Path, nargs="+", help="only answer from these results")
    args = parser.parse_args()
    settings, steps = (4, 100) if args.small else (24, 300)
    args.settings = settings if args.settings is None else args.settings
    args.steps = steps if args.steps is None else args.steps
    if args.settings < 3 or args.steps < 50:
        parser.error(f"--settings must be at least 3 and --steps at least 50, got {args.settings} and {args.steps}")
    return args


if __name__ == "__main__":
    main()
