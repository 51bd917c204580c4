"""Read a run from its files: the history in its checkpoints, the logged values in its event files or CSV logs."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.callbacks.benchmark import BenchmarkCallback
from synbench_lightning.callbacks.metric_keys import logged_values, name_of
from synbench_lightning.callbacks.run_state import history_of
from synbench_lightning.callbacks.synbench import SynBenchCallback
from synbench_lightning.checks import check_integer
from synbench_lightning.cli.errors import CommandError, in_one_line
from synbench_lightning.probe.result import ProbeResult

Points = dict[int, dict[str, float]]
"""Logged values by name, by step."""


@dataclass(frozen=True)
class Run:
    """A run as read from its files.

    Args:
        name: its folder, as it was given.
        points: the logged values of each probe by step, in ascending order.
        history: the results of the probes, where a checkpoint has them; empty otherwise.
        benchmarks: the results of each :class:`BenchmarkCallback` by its prefix, where a checkpoint has them.
        checkpoints: files by optimizer step.
        hyperparameters: those that the logger saved.
        source: where the logged values are from.
        warnings: sentences about what could not be read.
    """

    name: str
    points: Points
    history: tuple[ProbeResult, ...]
    benchmarks: dict[str, tuple[BenchmarkResult, ...]]
    checkpoints: dict[int, Path]
    hyperparameters: Mapping[str, Any]
    source: str
    warnings: tuple[str, ...]

    @property
    def monitored(self) -> str:
        """The key by which checkpoints are ranked: the most informative one that the last probe has logged."""
        if self.history:
            return self.history[-1].best_key
        return next((key for key in ("readout", "information") if key in self.points[self.last_step]), "score")

    @property
    def best_step(self) -> int:
        """The step with the highest value of the monitored key; the first in case of ties."""
        steps = self.series(self.monitored)[0]
        return max(steps, key=lambda step: self.points[step][self.monitored])

    @property
    def last_step(self) -> int:
        """The step of the last probe."""
        return max(self.points)

    @property
    def best_checkpoint(self) -> tuple[int, Path] | None:
        """The step and path of the checkpoint with the highest value, among those saved at the step of a probe."""
        probed = [step for step in self.checkpoints if self.monitored in self.points.get(step, {})]
        best = max(probed, key=lambda step: self.points[step][self.monitored], default=None)
        return None if best is None else (best, self.checkpoints[best])

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a key, where it was logged."""
        steps = [step for step, values in self.points.items() if key in values]
        return steps, [self.points[step][key] for step in steps]


def runs_in_folders(folders: Sequence[Path], prefix: str = "synbench", weights_only: bool = True) -> list[Run]:
    """The runs below several folders, without duplicates.

    Raises:
        CommandError: if one of them has no values of a probe.
    """
    runs = {run.name: run for folder in folders for run in runs_in(folder, prefix, weights_only)}
    return list(runs.values())


def with_short_names(runs: Sequence[Run]) -> list[Run]:
    """The runs, named by their folders relative to the common one, with at least the last two components."""
    paths = [Path(run.name).absolute() for run in runs]
    common = Path(os.path.commonpath([path.parent.parent if path.parent.name else path for path in paths]))
    return [
        replace(
            run, name=path.relative_to(common).as_posix(), hyperparameters={"folder": run.name, **run.hyperparameters}
        )
        for run, path in zip(runs, paths, strict=True)
    ]


def runs_in(folder: Path, prefix: str = "synbench", weights_only: bool = True) -> list[Run]:
    """The runs below a folder: the folder itself, or its subfolders.

    Args:
        folder: with checkpoints, event files or CSV logs somewhere below it.
        prefix: of the logged keys.
        weights_only: whether to skip checkpoints that contain objects other than weights and plain values.

    Raises:
        CommandError: if there are no values of a probe.
    """
    files = [path for pattern in PATTERNS for path in sorted(folder.rglob(pattern))]
    roots = list(
        dict.fromkeys(path.parent.parent if path.parent.name == "checkpoints" else path.parent for path in files)
    )
    roots = [root for root in roots if not any(other in root.parents for other in roots)]  # folders of charts
    if folder in roots or len(roots) < 2:
        roots = [folder]
    runs = [_run(root, folder, prefix, weights_only) for root in sorted(roots)]
    with_points = [run for run in runs if run.points]
    if not with_points:
        notes = " ".join(note for run in runs for note in run.warnings)
        if not files:
            raise CommandError(f"{folder}: contains no checkpoint, event file or CSV log")
        what = f"{len(files)} checkpoints, event files and CSV logs"
        raise CommandError(f"{folder}: no value of `{prefix}/score` was found in {what}. {notes}".strip())
    return with_points


PATTERNS = ("*.ckpt", "events.out.tfevents.*", "metrics.csv")


def _run(root: Path, folder: Path, prefix: str, weights_only: bool) -> Run:
    checkpoints, history, benchmarks, notes = _from_checkpoints(root, prefix, weights_only)
    logged, unread = _from_csv(root, prefix)
    found: list[tuple[str, Points]] = [
        ("the history in a checkpoint", _points_of(history)),
        ("event files", _from_events(root, prefix)),
        ("a CSV log", logged),
    ]
    # A checkpoint has the whole history, but may be older than the log and does not contain the overhead.
    source, points = max(found, key=lambda one: sorted(one[1])[-1:])
    for _, others in found:
        points = {step: {**others.get(step, {}), **values} for step, values in points.items()}
    return Run(
        name=str(folder if root == folder else root),
        points=dict(sorted(points.items())),
        history=history,
        benchmarks=benchmarks,
        checkpoints=checkpoints,
        hyperparameters=_hyperparameters(root),
        source=source,
        warnings=(*notes, *unread),
    )


def _from_checkpoints(
    root: Path, prefix: str, weights_only: bool
) -> tuple[dict[int, Path], tuple[ProbeResult, ...], dict[str, tuple[BenchmarkResult, ...]], list[str]]:
    checkpoints, notes = dict[int, Path](), list[str]()
    probes, benchmarks = list[ProbeResult](), dict[str, list[BenchmarkResult]]()
    for path in sorted(root.rglob("*.ckpt")):
        try:
            saved = torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)  # mutants: memory alone
            states, step = dict(saved.get("callbacks") or {}), check_integer("global_step", saved["global_step"], 0)
            checkpoints[step] = path
        except Exception as error:
            why = f": {in_one_line(error)[:160]}"
            if "eights only" in str(error):
                why = " (if you trust its origin, add --weights-only false)"
            notes.append(f"{path.name} could not be read{why}")
            continue
        for key, state in states.items():
            name = BENCHMARK.fullmatch(str(key))
            try:
                if key == SynBenchCallback(prefix=prefix).state_key:
                    probes = max(probes, history_of(state, ProbeResult.from_dict), key=_reached)
                elif name is not None:
                    kept = history_of(state, BenchmarkResult.from_dict)
                    benchmarks[name[1]] = max(benchmarks.get(name[1], []), kept, key=_reached)
            except ValueError as error:
                notes.append(f"{path.name}: its history cannot be read: {in_one_line(error)[:160]}")
    return checkpoints, tuple(probes), {name: tuple(kept) for name, kept in benchmarks.items()}, notes


BENCHMARK = re.compile(rf"{BenchmarkCallback.__qualname__}\{{'prefix': '(.*)'\}}")
"""The key of the callback's state in a checkpoint, in Lightning's format; the group is the prefix."""


def _reached(history: list[Any]) -> list[int]:
    """The step of the last result, or nothing, which compares as less."""
    return [result.step or 0 for result in history[-1:]]


def _points_of(history: tuple[ProbeResult, ...]) -> Points:
    threshold = SynBenchCallback().threshold
    return {result.step or 0: logged_values(result, threshold) for result in history}


def _from_events(root: Path, prefix: str) -> Points:
    points: Points = defaultdict(dict)
    for folder in sorted({path.parent for path in root.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            name = name_of(tag, prefix)
            if name is not None:
                for event in events.Scalars(tag):
                    points[event.step][name] = event.value
    return _of_probes(points)


def _from_csv(root: Path, prefix: str) -> tuple[Points, list[str]]:
    points: Points = defaultdict(dict)
    notes = list[str]()
    for path in sorted(root.rglob("metrics.csv")):
        unread = dict[str, str]()  # the first entry of each column that is not a number
        with path.open(newline="", errors="replace") as file:
            for row in csv.DictReader(file):
                values = {key: value for key, value in row.items() if value and name_of(str(key), prefix) is not None}
                if not values:
                    continue
                numbers = {key: _number(value) for key, value in {"step": row.get("step") or "0", **values}.items()}
                unread = {**{key: str(row.get(key)) for key, value in numbers.items() if value is None}, **unread}
                step = numbers.pop("step")
                if step is not None and math.isfinite(step):
                    known = {name_of(key, prefix): value for key, value in numbers.items() if value is not None}
                    points[int(step)] |= {name: value for name, value in known.items() if name is not None}
        name = path.relative_to(root)
        notes += [
            f"{name}: the column {key!r} contains {text[:40]!r}, which is not a number" for key, text in unread.items()
        ]
    return _of_probes(points), notes


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _of_probes(points: Points) -> Points:
    return {step: values for step, values in points.items() if "score" in values}


def _hyperparameters(root: Path) -> dict[str, Any]:
    return dict(_flat(next((_loaded(path) for path in sorted(root.rglob("hparams.yaml"))), {})))


def _loaded(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError:
        return {}


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, values
