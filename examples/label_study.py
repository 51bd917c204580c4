"""May the labels of a readout be wrong, and may they be those that are trained on?

An encoder is trained on labels of which 40 % were replaced at random, without augmentation, until it has memorized
them. At checkpoints spaced by logarithm the readout of 300 of these training labels, of 300 equally wrong labels of
held-out examples, and of 300 right ones stand beside information and the accuracy of a linear probe with all right
labels. What was found is in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]'
    python examples/label_study.py                                           # five minutes on a CPU, into runs/labels
    python examples/label_study.py --table examples/validity/labels.csv.gz   # answers from the kept results
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

try:
    from validity.answers import Array, Row, Study, read_table, write_table
    from validity.command import one_thread
    from validity.label_measure import LABELS, PREDICTORS, REGIME, rows_of
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

SOURCES = ("digits", "patches", "glyphs")


def main() -> None:
    args = arguments()
    if args.table is None:
        one_thread()
        args.dir.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        for name, seed in product(args.images, range(args.seeds)):
            rows += rows_of(name, seed, args.steps, args.dir)
            print(f"{name}, seed {seed}", flush=True)
        write_table(rows, args.dir / "labels.csv.gz")
    else:
        rows = read_table(args.table)
    print("\n".join(report(rows)))


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Tables in Markdown, line by line: of all checkpoints, and of those at which labels are memorized."""
    last = max(float(row["step"]) for row in rows)
    for title, first in (("all checkpoints", 0.0), ("checkpoints after a tenth of the steps", last / 10)):
        yield f"\n## Spearman, {title}, with linear-probe accuracy / accuracy lost: mean (lowest, highest) over seeds\n"
        yield from _table([row for row in rows if float(row["step"]) >= first])


def _table(rows: Sequence[Row]) -> Iterator[str]:
    names = [name for name in SOURCES if any(row["images"] == name for row in rows)]
    studies = [Study([row for row in rows if row["images"] == name], (REGIME,), LABELS) for name in names]
    yield "| | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    accuracies = [study.targets[study.first] for study in studies]
    yield "| accuracy, best | " + " | ".join(_spread(values.max(1), 3) for values in accuracies) + " |"
    yield "| accuracy, last | " + " | ".join(_spread(values[:, -1], 3) for values in accuracies) + " |"
    for name in PREDICTORS:
        cells = [f"{_spread(study.within(name), 2)} / {study.checkpoint_regret(name).mean():.3f}" for study in studies]
        yield f"| {name} | " + " | ".join(cells) + " |"


def _spread(values: Array, digits: int) -> str:
    return f"{values.mean():.{digits}f} ({values.min():.{digits}f}, {values.max():.{digits}f})"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare readouts of training labels and of held-out labels.")
    parser.add_argument("--images", nargs="+", choices=SOURCES, default=SOURCES, help="the data (default: all three)")
    parser.add_argument("--seeds", type=int, default=3, help="of each source (default: 3)")
    parser.add_argument("--steps", type=int, default=1500, help="optimizer steps of a run (default: 1500)")
    parser.add_argument("--dir", type=Path, default=Path("runs/labels"), help="where results go")
    parser.add_argument("--table", type=Path, help="only answer from these results")
    args = parser.parse_args()
    if args.seeds < 1 or args.steps < 50:
        parser.error(f"--seeds must be at least 1 and --steps at least 50, got {args.seeds} and {args.steps}")
    return args


if __name__ == "__main__":
    main()
