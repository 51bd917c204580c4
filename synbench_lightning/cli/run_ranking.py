"""Rankings of runs and encoders for the commands: one for each comparable group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from synbench_lightning.cli.run_files import Run
from synbench_lightning.cli.tables import wrapped
from synbench_lightning.probe.ranking import Ranking, rank
from synbench_lightning.probe.result import ProbeResult


def rankings(results: Mapping[str, ProbeResult | Sequence[ProbeResult]], threshold: float = 0.7) -> list[Ranking]:
    """Rankings of the largest comparable group, and of further groups of at least two among the others."""
    if not results:
        return []
    found = rank(results, threshold)
    others = rankings({name: results[name] for name in found.excluded}, threshold)
    return [found, *(replace(one, excluded={}) for one in others if len(one.ranked) > 1)]


def run_rankings(runs: Sequence[Run]) -> tuple[list[Ranking], list[str]]:
    """Rankings of runs, and a sentence about those that cannot be ranked; empty for a single run."""
    if len(runs) < 2:
        return [], []
    unknown = [run.name for run in runs if not run.history]
    found = rankings({run.name: run.history for run in runs if run.history})
    if not unknown:
        return found, []
    return found, [
        f"Not ranked: {', '.join(unknown)} (none of their checkpoints contains the callback's history, and a log does "
        "not record the inputs and views of the probes)."
    ]


def as_text(found: Sequence[Ranking], notes: Sequence[str] = ()) -> list[str]:
    """Rankings as lines for a terminal."""
    lines: list[str] = []
    for ranking in found:
        lines += ["", *str(ranking).splitlines()]
    return [*lines, *(line for note in notes for line in wrapped(note))]


def as_json(found: Sequence[Ranking]) -> list[dict[str, Any]]:
    """Rankings as JSON-serializable types."""
    return [
        {
            "key": ranking.key,
            "holds": ranking.holds,
            "best": ranking.best,
            "cannot_be_distinguished_from_best": list(ranking.rivals),
            "ranked": [asdict(one) for one in ranking.ranked],
            "excluded": dict(ranking.excluded),
        }
        for ranking in found
    ]
