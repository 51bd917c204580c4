"""`synbench history`: the curve of a run, read from its files."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from synbench_lightning.cli.errors import CommandError, UsageError
from synbench_lightning.cli.run_files import Run, runs_in
from synbench_lightning.cli.tables import aligned

BAR = 24
"""Characters of a bar for the score 1."""
FORMATS = (".svg", ".pdf", ".png")


def history_command(given: Namespace) -> int:
    """Print the points of each run in a folder, and draw them if asked to.

    Raises:
        UsageError: for a figure of an unknown format.
        CommandError: if the folder holds no probes, or the figure needs a package that is not there.
    """
    if given.figure is not None and given.figure.suffix not in FORMATS:
        raise UsageError(f"argument --figure: must end in {', '.join(FORMATS)}, got {str(given.figure)!r}")
    runs = runs_in(given.run_dir, given.prefix, given.weights_only == "true")
    if given.json:
        print(json.dumps([{"run": run.name, "source": run.source, "points": run.points} for run in runs], indent=2))
    else:
        print("\n\n".join("\n".join(_as_text(run)) for run in runs))
    if given.figure is not None:
        _draw(runs, given.figure)
    return 0


def _as_text(run: Run) -> list[str]:
    further = [key for key in ("information", "readout") if run.series(key)[0]]
    rows = [["step", "score", "", "worst task", "eff. rank", *further]]
    for step, values in run.points.items():
        error = f" ± {values['score_se']:.3f}" if "score_se" in values else ""
        rows.append([f"{step:,}", f"{values['score']:.3f}{error}", _bar(values["score"]), *_cells(values)])
        told = [(values[key], values[f"{key}_se"]) if key in values else None for key in further]
        rows[-1] += ["-" if both is None else "{:.2f} ± {:.2f}".format(*both) for both in told]
    lines = [f"{run.name}, from {run.source}", "", *aligned(rows, left={2}), ""]
    best = run.points[run.best_step][run.monitored]
    digits = 2 if run.monitored == "information" else 3
    lines.append(f"Best {run.monitored} {best:.{digits}f} after {run.best_step:,} steps.")
    if run.best_checkpoint is not None:
        step, path = run.best_checkpoint
        lines.append(f"Best checkpoint, after {step:,} steps: {path}")
    return lines + [f"Note: {note}" for note in run.warnings]


def _cells(values: dict[str, float]) -> list[str]:
    worst = f"{values['worst']:.3f}" if "worst" in values else "-"
    return [worst, f"{values['effective_rank']:.1f}" if "effective_rank" in values else "-"]


def _bar(score: float) -> str:
    eighths = round(8 * BAR * min(max(score, 0.0), 1.25))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _draw(runs: list[Run], path: Path) -> None:
    try:
        from synbench_lightning.plots import comparison_figure, save
    except ImportError as error:
        raise CommandError(f"argument --figure: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    save(comparison_figure({run.name: run.points for run in runs}, runs[0].monitored), path)
