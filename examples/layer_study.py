"""Which layer of a pretrained network should be read? Information under the run's views, against labels.

Networks of six readable blocks are pretrained as in ``validity_study.py``. At some checkpoints of each run every layer
(mean over space or tokens) gets the accuracy of a linear probe with all labels, and what can be known without them:
information under the views, changed in several ways for layers of different width, RankMe, LiDAR; and the readout of a
few labels. What was found is in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]'
    python examples/layer_study.py --small                                     # minutes, into runs/layers
    python examples/layer_study.py --images digits --regimes rotation simclr   # some runs; goes on where it stopped
    python examples/layer_study.py --table examples/validity/layers_*.csv.gz   # the answers from the kept results
"""

from __future__ import annotations

import argparse
import time
from functools import cache
from itertools import product
from pathlib import Path

try:
    from validity.answers import Row, read_table, write_table
    from validity.command import one_thread
    from validity.encoders import LAYERS
    from validity.inputs import SOURCES
    from validity.layer_answers import report
    from validity.layer_figure import layers_figure
    from validity.layer_measure import LayerMeasurement
    from validity.regimes import DEVELOPMENT, HELD_OUT, REGIMES
    from validity.runs import Run, pretrain
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error


def main() -> None:
    args = arguments()
    rows = [row for path in args.table for row in read_table(path)] if args.table else study_rows(args)
    if args.figure:
        layers_figure(rows).savefig(args.figure)
    for half, regimes in (("Development", DEVELOPMENT), ("Held-out", HELD_OUT)):
        chosen = [row for row in rows if row["regime"] in regimes]
        if chosen and half.lower() in args.halves:
            print(f"\n## {half} ways of pretraining")
            print("\n".join(report(chosen)))


def study_rows(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    one_thread()
    args.dir.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    start = time.monotonic()
    for seed, images, regime, encoder in product(args.seeds, args.images, args.regimes, args.encoders):
        if images == "pictures" and encoder == "transformer-6":  # made for images of 8 x 8
            continue
        run = Run(images, regime, encoder, seed, args.steps)
        pretrain(run, args.dir)
        rows += measurement(images).rows(run, args.dir)
        print(f"{time.monotonic() - start:6.0f} s: {images}, {regime}, {encoder}, seed {seed}", flush=True)
    for images in args.images:
        write_table([row for row in rows if row["images"] == images], args.dir / f"layers_{images}.csv.gz")
    return rows


@cache
def measurement(images: str) -> LayerMeasurement:
    """Drawn once."""
    return LayerMeasurement(images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure which layer of a network in pretraining should be read.")
    parser.add_argument("--small", action="store_true", help="digits, one way of pretraining, 150 steps: a minute")
    parser.add_argument("--images", nargs="+", choices=tuple(SOURCES), default=tuple(SOURCES), metavar="IMAGES")
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), metavar="REGIME")
    parser.add_argument("--encoders", nargs="+", choices=tuple(LAYERS), default=tuple(LAYERS), metavar="ENCODER")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=(0, 1, 2),
        metavar="SEED",
        help="of the runs",
    )
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps of a run (default: 500)")
    parser.add_argument("--dir", type=Path, default=Path("runs/layers"), help="where checkpoints and results go")
    parser.add_argument("--table", nargs="+", type=Path, default=(), help="only answer from these results")
    parser.add_argument("--figure", type=Path, help="also draw the layers of one run into this file")
    parser.add_argument("--halves", nargs="+", choices=("development", "held-out"), default=("development", "held-out"))
    args = parser.parse_args()
    if args.small:
        args.images, args.regimes, args.encoders = ("digits",), ("rotation",), ("conv-6",)
        args.seeds, args.steps = (0,), 150
    if args.steps < 50:
        parser.error(f"--steps must be at least 50, got {args.steps}")
    return args


if __name__ == "__main__":
    main()
