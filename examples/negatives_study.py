"""Does information between inputs that resemble each other follow better than between all of them?

Training with coarse labels keeps clusters, and a shortcut keeps what is easily seen, a color say. Information within
clusters (of inputs, or of features at the first checkpoint) and against the nearest input (by mean intensity, histogram
or pixels) should see both. On the runs of ``layer_study.py``, the last layer of ``conv-6``, at six checkpoints: rank
correlation with linear-probe accuracy, and accuracy lost by the checkpoint with the most information. What was found is
in ``README.md`` beside this file.

    pip install 'synbench-lightning[examples]'
    python examples/negatives_study.py --dir runs/layers     # trains what is not there: an hour on a CPU, else minutes
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

try:
    from validity.answers import TARGET_PREFIX, correlation, regret
    from validity.command import one_thread
    from validity.encoders import LAYERS, build_encoder
    from validity.layer_measure import LayerMeasurement
    from validity.measure import INPUTS
    from validity.negatives import information_of, variants
    from validity.proxies import Instances, unlabelled
    from validity.regimes import DEVELOPMENT, HELD_OUT
    from validity.runs import Run, pretrain
except ImportError as error:
    raise SystemExit(
        "This study needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

SOURCES, ENCODER = ("digits", "patches", "glyphs", "recoloured"), "conv-6"


def main() -> None:
    args = arguments()
    one_thread()
    args.dir.mkdir(parents=True, exist_ok=True)
    for images in args.images:
        measurement = LayerMeasurement(images)
        for half in args.halves:
            print("\n".join(report(images, half, measurement, args)), flush=True)


def report(images: str, half: str, measurement: LayerMeasurement, args: argparse.Namespace) -> Iterator[str]:
    """A table in Markdown, line by line."""
    regimes = {"development": DEVELOPMENT, "held-out": HELD_OUT}[half]
    of = [followed(Run(images, regime, ENCODER, 0, args.steps), measurement, args.dir) for regime in regimes]
    yield f"\n## {images}, {half} ways of pretraining: Spearman / accuracy lost\n"
    yield "| information | " + " | ".join([*regimes, "median / mean"]) + " |"
    yield "|---" * (len(regimes) + 2) + "|"
    for name in of[0]:
        rho, lost = zip(*(found[name] for found in of), strict=True)
        cells = [f"{one:.2f} / {other:.3f}" for one, other in zip(rho, lost, strict=True)]
        yield f"| {name} | " + " | ".join([*cells, f"{np.median(rho):.2f} / {np.mean(lost):.3f}"]) + " |"


@torch.no_grad()
def followed(run: Run, measurement: LayerMeasurement, folder: Path) -> dict[str, tuple[float, float]]:
    """Rank correlation and regret of every variant over the checkpoints of a run."""
    with torch.enable_grad():
        pretrain(run, folder)
    last = [row for row in measurement.rows(run, folder) if row["layer"] == len(LAYERS[ENCODER]) - 1]
    accuracy = np.array([row[f"{TARGET_PREFIX}linear"] for row in last])
    found = {"between all inputs": [float(row["predictor:information"]) for row in last]}
    encoder = build_encoder(ENCODER, measurement.images.input_shape[0]).eval().requires_grad_(False)
    weights, images, between = torch.load(run.path(folder)), unlabelled(measurement.images)[:INPUTS], None
    for row in last:
        encoder.load_state_dict(weights[row["step"]][1])
        of_views = Instances(measurement.versions).features(encoder)
        between = between or variants(images, of_views.double().mean(1))
        for name, covariance in between.items():
            found.setdefault(name, []).append(information_of(of_views, covariance))
    return {name: (correlation(np.array(of), accuracy), regret(np.array(of), accuracy)) for name, of in found.items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare information between all inputs and between similar ones.")
    parser.add_argument("--images", nargs="+", choices=SOURCES, default=SOURCES, help="the data (default: all four)")
    parser.add_argument("--halves", nargs="+", choices=("development", "held-out"), default=("development", "held-out"))
    parser.add_argument("--steps", type=int, default=500, help="optimizer steps of a run (default: 500)")
    parser.add_argument("--dir", type=Path, default=Path("runs/layers"), help="where the runs of layer_study.py are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
