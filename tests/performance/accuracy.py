"""How near the score comes to its many-sample limit: bias, scatter over seeds, and whether the standard error tells it.

python -m tests.performance.accuracy [--encoders NAME ...] [--seeds 10] [--forwards 8192] [--plan fast|official]
python -m tests.performance.accuracy --pairs                         # differences of checkpoints, common noise
python -m tests.performance.accuracy --budgets 2048 4096 8192 16384  # how the error falls with the forwards
python -m tests.performance.accuracy --budgets 512 2048 8192 --encoders even encoder_a isometric_128  # very few
python -m tests.performance.accuracy --limits gated                  # a limit anew, and beside it the stored one
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from synbench_lightning import ProbePlan, ProbeResult, evaluate
from synbench_lightning.functional.gaussian.discriminant import accuracy_and_bound
from synbench_lightning.functional.gaussian.score import synbench_score
from tests.performance.encoders import ENCODERS, Made, digits_cnn, fingerprint, made
from tests.performance.tables import print_table

LIMITS = Path(__file__).parent / "limits.json"
EPSILONS, THRESHOLDS = (0.0, 0.2), (0.6, 0.7, 0.8)
TOO_FEW = r"(The representation varies|[\d,]+ forwards are too few)"
"""Beginning of the warnings of a budget that is too small."""
LIMIT_SCALES, LIMIT_VECTORS, LIMIT_SEED = 16, 32_768, 12_345
CHECKPOINTS = ((50, 400), (200, 400), (350, 400))


class Scores(NamedTuple):
    """``value (seeds, E, H)``, and its reported ``standard_error`` of the same shape (NaN where there is none)."""

    value: np.ndarray
    standard_error: np.ndarray
    dim: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--forwards", type=int, default=8192)
    parser.add_argument("--plan", choices=("fast", "official"), default="fast")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", action="store_true")
    parser.add_argument("--budgets", nargs="+", type=int)
    parser.add_argument("--limits", nargs="+", choices=ENCODERS, metavar="NAME")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    plan = ProbePlan.official() if given.plan == "official" else ProbePlan(forwards=given.forwards)
    if given.limits:
        print_table("encoder | epsilon | threshold | limit anew | stored | difference", limits(given.limits))
        return
    print(f"{plan}; seeds {seeds.start} to {seeds.stop - 1}\n")
    if given.pairs:
        header = "checkpoints | epsilon | threshold | mean difference | sd, same seed | sd, other seeds | ratio"
        print_table(header, pairs(plan, seeds))
    elif given.budgets:
        print(
            "at threshold .7 and epsilon 0; the largest of all six combinations; what is not a number is not reported\n"
        )
        header = (
            "encoder | D | forwards | limit | mean | sd | rms error | mean se | within 2 se | largest bias | its rms"
        )
        print_table(header, budgets(given.encoders, given.budgets, seeds))
    else:
        header = "encoder | D | threshold | epsilon | limit | mean | mean - limit | sd | mean se | within 1 se | 2 se"
        print_table(header, errors(given.encoders, plan, seeds))


def errors(names: Sequence[str], plan: ProbePlan, seeds: Sequence[int]) -> Iterator[Sequence[object]]:
    """Rows: how the scores of some seeds lie to the limit."""
    for name in names:
        limit, scores = stored_limit(name), scores_of(made(name), plan, seeds)
        for column, threshold in enumerate(THRESHOLDS):
            for row, epsilon in enumerate(EPSILONS):
                value, error = scores.value[:, row, column], scores.standard_error[:, row, column]
                off = np.abs(value - limit[row, column])
                shares = [f"{(off <= times * error).mean():.2f}" for times in (1, 2)]
                told = ["-"] * 3 if np.isnan(error).any() else [error.mean().item(), *shares]
                mean = value.mean().item()
                yield (
                    *(name, scores.dim, str(threshold), str(epsilon), limit[row, column].item(), mean),
                    *(f"{mean - limit[row, column]:+.4f}", value.std(ddof=1).item(), *told),
                )


def budgets(names: Sequence[str], forwards: Sequence[int], seeds: Sequence[int]) -> Iterator[Sequence[object]]:
    """Rows: the error of each budget."""
    for name in names:
        limit = stored_limit(name)
        for budget in forwards:
            scores = scores_of(made(name), ProbePlan(forwards=budget), seeds)
            bias, rms = scores.value.mean(0) - limit, np.sqrt(np.square(scores.value - limit).mean(0))
            at = 0, THRESHOLDS.index(0.7)
            value, error = (one[(slice(None), *at)] for one in scores[:2])
            within = (np.abs(value - limit[at]) <= 2 * error).mean()
            yield (
                *(name, scores.dim, budget, limit[at].item(), value.mean().item(), value.std(ddof=1).item()),
                *(rms[at].item(), error.mean().item(), f"{within:.2f}", np.abs(bias).max().item(), rms.max().item()),
            )


def pairs(plan: ProbePlan, seeds: Sequence[int]) -> Iterator[Sequence[object]]:
    """Rows: the scatter of a difference of checkpoints when both see the same noise, and when they do not."""
    steps = sorted({step for pair in CHECKPOINTS for step in pair})
    values = {step: scores_of(digits_cnn(step), plan, seeds).value for step in steps}
    for early, late in CHECKPOINTS:
        common = (values[late] - values[early]).std(0, ddof=1)
        independent = np.sqrt(values[late].var(0, ddof=1) + values[early].var(0, ddof=1))
        difference = (values[late] - values[early]).mean(0)
        for row, epsilon in enumerate(EPSILONS):
            for column, threshold in enumerate(THRESHOLDS):
                at = row, column
                cells = difference[at].item(), common[at].item(), independent[at].item()
                ratio = f"{independent[at] / common[at]:.1f}"
                yield f"digits_cnn, steps {early} and {late}", str(epsilon), str(threshold), *cells, ratio


def scores_of(encoder: Made, plan: ProbePlan, seeds: Sequence[int]) -> Scores:
    """The scores of an encoder for some seeds."""
    encode, input_shape = encoder
    value, error, dim = [], [], 0
    for seed in seeds:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=TOO_FEW)  # small budgets are meant here
            result = evaluate(
                encode, input_shape, tasks="dc", plan=plan, epsilons=EPSILONS, thresholds=THRESHOLDS, seed=seed
            )
        value.append([[result.score("dc", epsilon, level) for level in THRESHOLDS] for epsilon in EPSILONS])
        error.append([[_standard_error(result, epsilon, level) for level in THRESHOLDS] for epsilon in EPSILONS])
        dim = result.feature_dim
    return Scores(np.array(value), np.array(error), dim)


def _standard_error(result: ProbeResult, epsilon: float, threshold: float) -> float:
    reported = getattr(result, "standard_error", None)
    found = None if reported is None else reported("dc", epsilon, threshold)
    return float("nan") if found is None else float(found)


@cache
def _stored() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(LIMITS.read_text())["encoders"]
    return stored


def stored_limit(name: str) -> np.ndarray:
    """``(E, H)`` the many-sample limit of an encoder, after a check that it is the one it was computed for."""
    entry = _stored()[name]
    here = fingerprint(*made(name))
    if not np.isclose(here, entry["fingerprint"], rtol=1e-4):
        warnings.warn(
            f"{name} is another encoder on this machine (fingerprint {here:.7g}, not {entry['fingerprint']:.7g}): "
            f"compute its limit anew with --limits {name}.",
            stacklevel=2,
        )
    return np.array(entry["score"])


def limits(names: Sequence[str]) -> Iterator[Sequence[object]]:
    """Rows: the limits computed anew, and the stored ones."""
    for name in names:
        anew, stored = computed_limit(made(name)), stored_limit(name)
        for row, epsilon in enumerate(EPSILONS):
            for column, threshold in enumerate(THRESHOLDS):
                at = row, column
                cells = anew[at].item(), stored[at].item(), f"{anew[at] - stored[at]:+.6f}"
                yield name, str(epsilon), str(threshold), *cells


@torch.no_grad()
def computed_limit(encoder: Made) -> np.ndarray:
    """``(E, H)``: a discriminant of its own for each scale, from 65,536 features and measured on as many others."""
    nodes, weights = leggauss(LIMIT_SCALES)
    scales = (nodes + 1) * 2.5
    generator = torch.Generator().manual_seed(LIMIT_SEED)
    found = []
    for scale in scales:
        train, test = (_features(encoder, float(scale), generator) for _ in range(2))
        found.append(torch.stack(accuracy_and_bound(*train, *test, EPSILONS)))
    accuracy, bound = torch.stack(found, -1)
    return synbench_score(accuracy, bound, list(scales), THRESHOLDS, list(weights * 2.5)).numpy()


def _features(encoder: Made, scale: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features of noise at both signs, and their labels."""
    encode, input_shape = encoder
    size = int(np.prod(input_shape))
    found, at_once = [], 8192
    for _ in range(LIMIT_VECTORS // at_once):
        noise = torch.randn(at_once, size, generator=generator)
        for sign in (1, -1):
            x = (noise + sign * scale / size**0.5).unflatten(1, input_shape)
            found.append(torch.cat([encode(part) for part in x.split(4096)]))
    labels = torch.tensor([1, 0]).repeat_interleave(at_once).repeat(LIMIT_VECTORS // at_once)
    return torch.cat(found), labels


if __name__ == "__main__":
    main()
