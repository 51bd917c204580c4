"""Which values of a probe are logged under which keys: those to watch in one section, the others in further ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from synbench_lightning.probe.result import ProbeResult

DETAILS, TASKS, LAYERS, FIGURES, BAND = "_details", "_tasks", "_layers", "_figures", "_band"
"""Suffixes of the prefix in the names of the other sections; loggers sort them after the section of the prefix."""
WATCHED = ("information", "readout", "score", "worst")
"""Names of the values to watch, the one that follows downstream accuracy best first."""
SECTIONS = {"task": TASKS, "layer": LAYERS}
"""Sections of values that are named ``<kind>/<name>``, by kind."""


def logged_values(result: ProbeResult, threshold: float) -> dict[str, float]:
    """The logged values of a result by name; see :class:`SynBenchCallback` for their meaning.

    Args:
        result: of a probe.
        threshold: threshold accuracy of the scores.
    """
    values = _scores(result, threshold) if result.tasks else {}
    values |= _of_layers(result)
    optional = {
        "alpha_req": result.alpha_req,
        "information": result.information,
        "information_se": result.information_error,
        "readout": result.readout,
        "readout_se": result.readout_error,
    }
    values |= {key: value for key, value in optional.items() if value is not None}
    values |= {"effective_rank": result.effective_rank, "feature_std": result.feature_std}
    return {**values, "probe_seconds": result.seconds}


def _scores(result: ProbeResult, threshold: float) -> dict[str, float]:
    """Values from the Gaussian tasks."""
    values = {"score": result.score(threshold=threshold), "accuracy": result.mean_accuracy()}
    values |= {f"score_eps_{e:.2f}": result.score(epsilon=e, threshold=threshold) for e in result.epsilons if e}
    aggregates = result.aggregates(threshold=threshold)
    values |= {name: found.value for name, found in aggregates.items()}
    errors = {f"{name}_se": found.standard_error for name, found in aggregates.items()}
    values |= {f"task/{task}": score for task, score in result.task_scores(threshold=threshold).items()}
    errors["score_se"] = result.standard_error(threshold=threshold)
    return values | {key: value for key, value in errors.items() if value is not None}


def _of_layers(result: ProbeResult) -> dict[str, float]:
    """The compared value of each layer, and of the best one: its index, value, and margin in standard errors."""
    found = {
        f"layer/{index:02d}_{layer.name}": value
        for index, layer in enumerate(result.layers)
        if (value := layer.value(result.layer_key)) is not None
    }
    best = result.best_layer
    if best is not None:
        value = best.layer.value(result.layer_key)
        assert value is not None
        found |= {"best_layer": float(best.place), f"best_layer_{result.layer_key}": value}
        if math.isfinite(best.margin_in_errors):
            found["best_layer_margin"] = best.margin_in_errors
    return found


def watched_names(result: ProbeResult) -> tuple[str, ...]:
    """The names to watch with their standard errors, in alphabetical order; the first is the one to monitor."""
    return tuple(f"{name}{end}" for name in WATCHED[WATCHED.index(result.best_key) :] for end in ("", "_se"))


def keys_of(prefix: str, values: Mapping[str, float], watched: Collection[str]) -> dict[str, float]:
    """Values by logged key, those to watch first.

    Args:
        prefix: the name of their section.
        values: by name; ``task/<name>`` for those of tasks, ``layer/<index>_<name>`` for those of layers.
        watched: the names of those to watch.

    Example:
        >>> keys_of("synbench", {"gap": 0.1, "task/dc": 0.9, "score": 0.9}, ["score"])
        {'synbench/score': 0.9, 'synbench_details/gap': 0.1, 'synbench_tasks/dc': 0.9}
    """
    found = {f"{prefix}/{name}": values[name] for name in watched if name in values}
    rest = {name: value for name, value in values.items() if name not in watched}
    for name, value in rest.items():
        kind, _, inner = name.partition("/")
        found[f"{prefix}{SECTIONS[kind]}/{inner}" if kind in SECTIONS else details_key(prefix, name)] = value
    return found


def details_key(prefix: str, name: str) -> str:
    """The key of a value that is not among those to watch."""
    return f"{prefix}{DETAILS}/{name}"


def name_of(key: str, prefix: str) -> str | None:
    """The name of the value that is logged under a key; ``None`` for a foreign key.

    Keys of versions before 0.1, which had all values in one section, are also recognized.

    Example:
        >>> [name_of(key, "synbench") for key in ("synbench/score", "synbench_tasks/dc", "synbench/task/dc", "loss")]
        ['score', 'task/dc', 'task/dc', None]
    """
    section, _, name = key.partition("/")
    for kind, end in SECTIONS.items():
        if section == f"{prefix}{end}":
            return f"{kind}/{name}"
    return name if section in (prefix, f"{prefix}{DETAILS}") else None


def sections(prefix: str) -> set[str]:
    """The names of all sections of a prefix."""
    return {prefix, *(f"{prefix}{end}" for end in (DETAILS, TASKS, LAYERS, FIGURES, BAND))}


MOVED = (
    "mean", "mean_se", "cvar", "cvar_se", "smoothed_worst", "smoothed_worst_se", "gap", "gap_se", "accuracy",
    "effective_rank", "alpha_req", "feature_std", "probe_seconds", "overhead", "points", "detectable_difference",
    "audit_error", "audit_error_se",
)  # fmt: skip
"""Names in the section of the prefix before version 0.1, no longer there. To be removed in version 0.2."""


def renamed(key: str, prefix: str) -> str | None:
    """The current name of a key from versions before 0.1; ``None`` if it is not such a key or has kept its name.

    Example:
        >>> [renamed(key, "synbench") for key in ("synbench/gap", "synbench/task/dc", "synbench/score")]
        ['synbench_details/gap', 'synbench_tasks/dc', None]
        >>> renamed("benchmark/low", "benchmark")
        'benchmark/value_low'
    """
    section, _, name = key.partition("/")
    if section != prefix:
        return None
    if name in ("low", "high"):
        return f"{prefix}/value_{name}"
    moved = name in MOVED or name.startswith(("task/", "score_eps_"))
    return next(iter(keys_of(prefix, {name: math.nan}, ()))) if moved else None
