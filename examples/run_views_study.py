"""What the views that a run has by itself say, and information about held-out images.

`inputs="auto"` measures information under what is random in the run: augmentations, masked patches, noise; and with
white noise where nothing is. The encoders of ``validity_study.py`` are pretrained in the same ten ways, and at each
checkpoint information under the run's own views stands alongside that under the study's augmentations, which are the
same for all ways. Also: information about held-out images, its difference to that about images that are trained on
(a sign of over-training?), and passes with dropout as a source of views. What was found is in ``README.md``.

    pip install 'synbench-lightning[examples]'
    python examples/run_views_study.py --small                                   # minutes, into runs/validity
    python examples/run_views_study.py --images digits --encoders conv --seeds 1   # some minutes
    python examples/run_views_study.py --table examples/validity/own_views.csv.gz  # the answers from the kept results
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from itertools import product

try:
    from validity.answers import Row, Study, movement, report
    from validity.command import one_thread, study_arguments, study_rows
    from validity.inputs import SOURCES, TEST_IMAGES
    from validity.regimes import REGIMES
    from validity.run_views import PREDICTORS, RunMeasurement
    from validity.runs import Run, pretrain
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error


def main() -> None:
    args = arguments()
    rows = study_rows(args, "own_views", partial(all_measured, args))
    for images, encoder in sorted({(str(row["images"]), str(row["encoder"])) for row in rows}):
        own = [row for row in rows if (row["images"], row["encoder"]) == (images, encoder)]
        study = Study(own, tuple(REGIMES), next(key for key in own[0] if "linear/" in key).split("linear/")[1])
        print(f"\n## {images}, {encoder}: {len(study.runs)} runs, {len(study.steps)} checkpoints each")
        print("\n".join(report(study, PREDICTORS)))
        print("\n".join(movement(study, TEST_IMAGES[images])))


def all_measured(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    one_thread()
    rows: list[Row] = []
    for seed, images, regime, encoder in product(range(args.seeds), args.images, args.regimes, args.encoders):
        run = Run(images, regime, encoder, seed, args.steps)
        pretrain(run, args.dir)
        rows += measurement(images).rows(run, args.dir)
        print(f"{images}, {regime}, {encoder}, seed {seed}", flush=True)
    return rows


@cache
def measurement(images: str) -> RunMeasurement:
    """Drawn once."""
    return RunMeasurement(images)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure information under the views that a run has by itself.")
    parser.add_argument("--images", nargs="+", choices=tuple(SOURCES), default=("digits",), metavar="IMAGES")
    parser.add_argument("--regimes", nargs="+", choices=tuple(REGIMES), default=tuple(REGIMES), metavar="REGIME")
    parser.add_argument("--encoders", nargs="+", default=("conv",), metavar="ENCODER", help="(default: conv)")
    return study_arguments(parser, "runs/validity", small=(1, 150), full=(3, 800))


if __name__ == "__main__":
    main()
