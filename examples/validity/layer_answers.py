"""From the table of checkpoints and layers to answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import groupby, product

import numpy as np

from validity.answers import KEYS, PREDICTOR_PREFIX, TARGET_PREFIX, Array, Row, correlation

LATER = 3
"""Checkpoints at the end of a run that count where nothing else is said."""
CLEAR = 2.0
"""Standard errors by which a layer must have more information than the last one to be read by the careful rules."""
EXAMPLES = {"digits": 599, "patches": 694, "pictures": 700}
"""Test images; of all other sources 700."""


class LayerRun:
    """One run: accuracies and predictors as arrays ``(checkpoints, layers)``.

    Args:
        rows: of one run.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        first = rows[0]
        self.images, self.regime, self.encoder = (str(first[key]) for key in KEYS[:3])
        self.seed = int(first["seed"])
        self.steps = sorted({float(row["step"]) for row in rows})
        layers = sorted({int(row["layer"]) for row in rows})
        at = {(float(row["step"]), int(row["layer"])): row for row in rows}
        table = [[at[step, layer] for layer in layers] for step in self.steps]
        self.widths = np.array([float(row["width"]) for row in table[0]])
        self.accuracy = np.array([[float(row[f"{TARGET_PREFIX}linear"]) for row in line] for line in table])
        names = [name.removeprefix(PREDICTOR_PREFIX) for name in first if name.startswith(PREDICTOR_PREFIX)]
        self.predictors = {
            name: np.array([[float(row[PREDICTOR_PREFIX + name]) for row in line] for line in table]) for name in names
        }
        nothing = math.nan  # in runs of before it was measured
        self.margins = np.array([[float(row.get("margin", nothing)) for row in line] for line in table])
        self.halves = [
            np.array([[float(row.get(f"{TARGET_PREFIX}linear, {half}", nothing)) for row in line] for line in table])
            for half in ("even", "odd")
        ]

    @cached_property
    def error(self) -> float:
        """The standard error of the difference of two accuracies near the best, as if they were independent."""
        best = float(self.accuracy.max())
        return float(np.sqrt(2 * best * (1 - best) / EXAMPLES.get(self.images, 700)))

    def lost_by_layer(self, name: str, checkpoints: slice = slice(-LATER, None)) -> Array:
        """Accuracy lost against the best layer of the same checkpoint, by the layer with the highest value."""
        accuracy, values = self.accuracy[checkpoints], self.predictors[name][checkpoints]
        lost: Array = accuracy.max(1) - accuracy[np.arange(len(accuracy)), values.argmax(1)]
        return lost

    def lost_by_last(self, checkpoints: slice = slice(-LATER, None)) -> Array:
        """The same, by the last layer."""
        lost: Array = self.accuracy[checkpoints].max(1) - self.accuracy[checkpoints, -1]
        return lost

    def lost_by_pair(self, name: str) -> float:
        """Accuracy lost against the best pair of checkpoint and layer, by the pair with the highest value."""
        return float(self.accuracy.max() - self.accuracy.ravel()[self.predictors[name].argmax()])

    def chosen_by(self, rule: str) -> tuple[int, int]:
        """Checkpoint and layer that a rule of :data:`RULES` chooses by information."""
        values = self.predictors["information"]
        first = len(values) - LATER if "late" in rule else 0
        at, layer = np.unravel_index(values[first:].argmax(), values[first:].shape)
        at += first
        if "clear" in rule and self.margins[at, layer] <= CLEAR:
            layer = values.shape[1] - 1
        return int(at), int(layer)

    def lost_by_rule(self, rule: str) -> float:
        """Accuracy lost against the best pair, by the pair that a rule chooses."""
        return float(self.accuracy.max() - self.accuracy[self.chosen_by(rule)])

    def lost_across_halves(self, rule: str) -> float:
        """The same where the best pair is that of one half of the test images and both are judged on the other.

        The best of many measured accuracies is high by chance too, and what is lost against it is too large by that;
        this is too small instead, since the pair that is best on a half is not quite the best one.
        """
        one, other = self.halves
        lost = [
            judged.ravel()[chosen.argmax()] - judged[self.chosen_by(rule)]
            for chosen, judged in ((one, other), (other, one))
        ]
        return float(np.mean(lost))

    def lost_by_last_of_chosen(self, name: str) -> float:
        """The same, by the last layer at the checkpoint where the last layer has the highest value."""
        return float(self.accuracy.max() - self.accuracy[self.predictors[name][:, -1].argmax(), -1])

    def lost_by_last_of_best(self, name: str) -> float:
        """The same, by the last layer at the checkpoint whose best layer has the highest value."""
        return float(self.accuracy.max() - self.accuracy[self.predictors[name].max(1).argmax(), -1])

    def lost_by_layer_of_last(self, name: str) -> float:
        """The same, by the best layer, by its value, at the checkpoint where the last layer has the highest value."""
        values = self.predictors[name]
        at = values[:, -1].argmax()
        return float(self.accuracy.max() - self.accuracy[at, values[at].argmax()])

    def rank_correlation(self, name: str) -> float:
        """Spearman's, over all layers and later checkpoints."""
        return correlation(self.predictors[name][-LATER:].ravel(), self.accuracy[-LATER:].ravel())


RULES = {
    "most": "the pair with the most information",
    "clear": "the last layer where that is not more by two standard errors",
    "late": "the pair with the most information at the three later checkpoints",
    "late, clear": "both",
}


def runs_of(rows: Sequence[Row]) -> list[LayerRun]:
    """The runs in a table."""

    def key(row: Row) -> tuple[str, ...]:
        return tuple(str(row[name]) for name in KEYS[:4])

    return [LayerRun(list(group)) for _, group in groupby(sorted(rows, key=key), key)]


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Tables in Markdown, line by line."""
    runs = runs_of(rows)
    for encoder in dict.fromkeys(run.encoder for run in runs):
        of_encoder = [run for run in runs if run.encoder == encoder]
        yield f"\n### {encoder}: {len(of_encoder)} runs\n"
        yield from _by_source(of_encoder)
        yield f"\n{encoder}, by the rule: median over the ways (lowest, highest) of means over seeds\n"
        yield from _by_rule(of_encoder)
        yield f"\n{encoder}, by the way of pretraining: best layers, chosen ones, accuracy lost (mean over runs)\n"
        yield from _by_regime(of_encoder)
        yield f"\n{encoder}, by what the layer is chosen: medians over ways, mean over the sources\n"
        yield from _by_predictor(of_encoder)


def _by_source(runs: Sequence[LayerRun]) -> Iterator[str]:
    yield (
        "| source | runs | pair lost: chosen layer and checkpoint | last layer, checkpoint by it | last layer, last "
        "checkpoint | last layer, checkpoint by best layer | chosen layer, checkpoint by last layer | worse than the "
        "last layer by 2 se | layer lost at later checkpoints: chosen | last | rho |"
    )
    yield "|---" * 11 + "|"
    name = "information"
    for images in dict.fromkeys(run.images for run in runs):
        own = [run for run in runs if run.images == images]
        cells = [
            _spread(own, lambda run: run.lost_by_pair(name)),
            _spread(own, lambda run: run.lost_by_last_of_chosen(name)),
            _spread(own, lambda run: float(run.accuracy.max() - run.accuracy[-1, -1])),
            _spread(own, lambda run: run.lost_by_last_of_best(name)),
            _spread(own, lambda run: run.lost_by_layer_of_last(name)),
            f"{sum(_is_worse(run, name) for run in own)} of {len(own)}",
            _spread(own, lambda run: float(run.lost_by_layer(name).mean())),
            _spread(own, lambda run: float(run.lost_by_last().mean())),
            _spread(own, lambda run: run.rank_correlation(name), 2),
        ]
        yield f"| {images} | {len(own)} | " + " | ".join(cells) + " |"


def _is_worse(run: LayerRun, name: str) -> bool:
    """Whether the chosen pair is worse than the last layer where that would be chosen, by two standard errors."""
    return run.lost_by_pair(name) - run.lost_by_last_of_chosen(name) > 2 * run.error


def _by_rule(runs: Sequence[LayerRun]) -> Iterator[str]:
    yield (
        "| rule | source | pair lost | judged on the other half of the test images | of what the last layer loses "
        "| worse than the last layer by 2 se: runs | ways |"
    )
    yield "|---" * 7 + "|"
    for rule, images in product(RULES, dict.fromkeys(run.images for run in runs)):
        own = [run for run in runs if run.images == images and np.isfinite(run.margins).all()]
        if not own:
            continue
        ways = [[run for run in own if run.regime == way] for way in dict.fromkeys(run.regime for run in own)]
        lost = np.median([np.mean([run.lost_by_rule(rule) for run in way]) for way in ways])
        last = np.median([np.mean([run.lost_by_last_of_chosen("information") for run in way]) for way in ways])
        worse = sum(_worse_by(run, rule) > 2 * run.error for run in own)
        worse_ways = sum(_is_worse_way(way, rule) for way in ways)
        yield (
            f"| {rule} | {images} | {_spread(own, partial(LayerRun.lost_by_rule, rule=rule))} | "
            f"{_spread(own, partial(LayerRun.lost_across_halves, rule=rule))} | "
            f"{lost / last if last else float('nan'):.2f} | {worse} of {len(own)} | {worse_ways} of {len(ways)} |"
        )


def _worse_by(run: LayerRun, rule: str) -> float:
    """Accuracy that the chosen pair lacks against the last layer at the checkpoint that it would choose."""
    return run.lost_by_rule(rule) - run.lost_by_last_of_chosen("information")


def _is_worse_way(runs: Sequence[LayerRun], rule: str) -> bool:
    """Whether that is more than two standard errors in the mean over the seeds, which share the test images."""
    return float(np.mean([_worse_by(run, rule) for run in runs])) > 2 * float(np.mean([run.error for run in runs]))


def _by_regime(runs: Sequence[LayerRun]) -> Iterator[str]:
    yield "| source | way | best layer at the end, by seed | chosen | pair lost | last layer lost | rho |"
    yield "|---" * 7 + "|"
    for images, regime in dict.fromkeys((run.images, run.regime) for run in runs):
        own = [run for run in runs if (run.images, run.regime) == (images, regime)]
        best = ", ".join(str(run.accuracy[-1].argmax() + 1) for run in own)
        chosen = ", ".join(str(run.predictors["information"][-1].argmax() + 1) for run in own)
        pair = np.mean([run.lost_by_pair("information") for run in own])
        last = np.mean([run.lost_by_last_of_chosen("information") for run in own])
        rho = np.median([run.rank_correlation("information") for run in own])
        yield f"| {images} | {regime} | {best} | {chosen} | {pair:.3f} | {last:.3f} | {rho:.2f} |"


def _by_predictor(runs: Sequence[LayerRun]) -> Iterator[str]:
    yield "| chosen by | pair lost | largest | layer lost, later | largest | rho | worse than the last layer by 2 se |"
    yield "|---" * 7 + "|"
    for name in runs[0].predictors:
        pairs = [run.lost_by_pair(name) for run in runs]
        layers = [float(run.lost_by_layer(name).mean()) for run in runs]
        rho = np.median([run.rank_correlation(name) for run in runs])
        worse = np.mean([_is_worse_than_last(run, name) for run in runs])
        yield (
            f"| {name} | {_median(runs, pairs):.3f} | {max(pairs):.3f} | {_median(runs, layers):.3f} | "
            f"{max(layers):.3f} | {rho:.2f} | {worse:.2f} |"
        )
    last = [float(run.lost_by_last().mean()) for run in runs]
    final = [float(run.accuracy.max() - run.accuracy[-1, -1]) for run in runs]
    yield (
        f"| (the last layer) | {_median(runs, final):.3f} | {max(final):.3f} | {_median(runs, last):.3f} | "
        f"{max(last):.3f} | - | - |"
    )


def _is_worse_than_last(run: LayerRun, name: str) -> bool:
    """Whether the layer with the highest value is worse than the last one at the last checkpoint, by two errors."""
    return float(run.lost_by_layer(name)[-1] - run.lost_by_last()[-1]) > 2 * run.error


def _median(runs: Sequence[LayerRun], values: Sequence[float]) -> float:
    """Over the ways of each source, of means over seeds; the mean over the sources."""
    found = []
    for images in dict.fromkeys(run.images for run in runs):
        ways = dict.fromkeys(run.regime for run in runs if run.images == images)
        of_ways = [
            np.mean([v for run, v in zip(runs, values, strict=True) if (run.images, run.regime) == (images, way)])
            for way in ways
        ]
        found.append(np.median(of_ways))
    return float(np.mean(found))


def _spread(runs: Sequence[LayerRun], value: Callable[[LayerRun], float], digits: int = 3) -> str:
    """Median over the ways (lowest, highest) of means over seeds."""
    ways = [np.mean([value(run) for run in runs if run.regime == way]) for way in dict.fromkeys(r.regime for r in runs)]
    return f"{np.median(ways):.{digits}f} ({min(ways):.{digits}f}, {max(ways):.{digits}f})"
