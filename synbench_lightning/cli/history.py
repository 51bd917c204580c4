"""`synbench history`: the curves of one or more runs, read from their files, and a ranking of the runs."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

from synbench_lightning.cli.errors import CommandError, UsageError
from synbench_lightning.cli.run_files import Run, runs_in_folders, with_short_names
from synbench_lightning.cli.run_ranking import as_json, as_text, run_rankings
from synbench_lightning.cli.tables import aligned, wrapped

BAR = 14
"""Characters of a bar for the score 1, or for the largest value of another key."""
FORMATS = (".svg", ".pdf", ".png")


def history_command(given: Namespace) -> int:
    """Print the logged values of each run in the folders, rank the runs, and draw their curves on request.

    Raises:
        UsageError: for a figure of an unknown format.
        CommandError: if a folder has no probes, or a package that the figure needs is not installed.
    """
    if given.figure is not None and given.figure.suffix not in FORMATS:
        raise UsageError(f"argument --figure: must end in {', '.join(FORMATS)}, got {str(given.figure)!r}")
    runs = runs_in_folders(given.run_dir, given.prefix, given.weights_only == "true")
    rankings, notes = run_rankings(with_short_names(runs))
    if given.json:
        listed = [{"run": run.name, "source": run.source, "points": run.points} for run in runs]
        print(json.dumps({"runs": listed, "rankings": as_json(rankings)}, indent=2))
    else:
        print("\n\n".join("\n".join(_as_text(run)) for run in runs))
        print("\n".join(as_text(rankings, notes)), end="\n" if len(runs) > 1 else "")
    if given.figure is not None:
        _draw(runs, given.figure)
    return 0


def _as_text(run: Run) -> list[str]:
    keys = [run.monitored, *(key for key in ("information", "readout", "score") if key != run.monitored)]
    keys = [key for key in keys if any(key in values for values in run.points.values())]
    first, *others = keys
    full = 1.0 if first == "score" else max(run.series(first)[1])
    rows = [["step", first, "", *others, "worst task"]]
    for step, values in run.points.items():
        bar = _bar(values[first] / full) if first in values and full > 0 else ""
        worst = f"{values['worst']:.3f}" if "worst" in values else "-"
        rows.append([f"{step:,}", _value(values, first), bar, *(_value(values, key) for key in others), worst])
    lines = [f"{run.name}, from {run.source}", "", *aligned(rows, left={2}), ""]
    lines.append(
        f"Best {run.monitored} {_value(run.points[run.best_step], run.monitored)} after {run.best_step:,} steps."
    )
    if run.best_checkpoint is not None:
        step, path = run.best_checkpoint
        lines.append(f"Best checkpoint, after {step:,} steps: {path}")
    return lines + [line for note in run.warnings for line in wrapped(f"Note: {note}")]


def _value(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return "-"
    digits = 2 if key == "information" else 3
    error = f" ± {values[f'{key}_se']:.{digits}f}" if f"{key}_se" in values else ""
    return f"{values[key]:.{digits}f}{error}"


def _bar(score: float) -> str:
    eighths = round(8 * BAR * min(max(score, 0.0), 1.25))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _draw(runs: list[Run], path: Path) -> None:
    try:
        from synbench_lightning.plots import comparison_figure, save
    except ImportError as error:
        raise CommandError(f"argument --figure: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    save(comparison_figure({run.name: run.points for run in with_short_names(runs)}, runs[0].monitored), path)
