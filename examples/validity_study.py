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
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from multiprocessing import get_context

try:
    from validity import alignment
    from validity.answers import SUMS, Row, Study, report
    from validity.command import one_thread, study_arguments, study_rows
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
    rows = study_rows(args, args.images, partial(all_measured, args))
    images = load_images(str(rows[0]["images"]))
    first = next(iter(images.train_labels))
    for half, regimes in (("Development", DEVELOPMENT), ("Held-out", HELD_OUT), ("All", tuple(REGIMES))):
        if any(row["regime"] in regimes for row in rows):
            study = Study(rows, regimes, first)
            print(f"\n## {half} regimes: {len(study.runs)} runs, {len(study.steps)} checkpoints each")
            print("\n".join(report(study, (*PREDICTORS, *SUMS))))
    print("\n".join(alignment.report(study, images)))


def all_measured(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
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
    one_thread()
    pretrain(run, args.dir, args.device)
    return measurement(run.images).rows(run, args.dir, args.device)


@cache
def measurement(images: str) -> Measurement:
    """Drawn once in each process."""
    return Measurement(images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure predictors of downstream performance on pretraining runs.")
    parser.add_argument("--images", choices=tuple(SOURCES), default="digits", help="the data (default: digits)")
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), metavar="REGIME")
    parser.add_argument("--encoders", nargs="+", choices=("conv", "transformer", "resnet", "cnn"), metavar="ENCODER")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the runs (default: 1)")
    parser.add_argument("--device", default="cpu", help="where encoders are trained and run (default: cpu)")
    return study_arguments(parser, "runs/validity", small=(1, 150), full=(5, 800))


if __name__ == "__main__":
    main()
