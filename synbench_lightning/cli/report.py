"""`synbench report`: one self-contained HTML page about one or more runs."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Any

import synbench_lightning
from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.callbacks.layer_advice import LayerAdvice
from synbench_lightning.cli.errors import CommandError
from synbench_lightning.cli.run_files import Run, runs_in_folders, with_short_names
from synbench_lightning.cli.run_ranking import run_rankings
from synbench_lightning.probe.result import ProbeResult


def report_command(given: Namespace) -> int:
    """Write the report about all runs in the given folders, and print its path.

    Raises:
        CommandError: if a folder has no probes, or matplotlib is not installed.
    """
    runs = runs_in_folders(given.run_dir, given.prefix, given.weights_only == "true")
    page = report(runs)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(page, encoding="utf-8")
    print(f"{given.output}: {len(runs)} run{'s' * (len(runs) > 1)}, {len(page) / 1024:,.0f} KiB")
    return 0


def report(runs: Sequence[Run]) -> str:
    """The report as a page of HTML.

    Raises:
        CommandError: if matplotlib is not installed.
    """
    try:
        from synbench_lightning import plots
    except ImportError as error:
        raise CommandError(str(error)) from error
    runs = with_short_names(runs)
    body = [
        "<h1>SynBench report</h1>",
        *(_ranking(runs) if len(runs) > 1 else [f"<p class=first>{_headline(runs[0])}</p>"]),
        _table(_summary(runs), "stacked"),
        f"<p class=note>{datetime.now():%d %B %Y, %H:%M}, synbench-lightning {synbench_lightning.__version__}. "
        f"{MEANING}</p>",
    ]
    if len(runs) > 1:
        points = {run.name: run.points for run in runs}
        body.append(_figure(plots.comparison_figure(points, runs[0].monitored)))
    for run in runs:
        body += _section(run)
    return PAGE.format(style=STYLE, body="\n".join(body))


def _ranking(runs: Sequence[Run]) -> Iterator[str]:
    """The ranking of the runs, with its warnings."""
    found, notes = run_rankings(runs)
    for ranking in found:
        sentences = [escape(sentence) for sentence in ranking.sentences]
        if ranking.holds:
            yield "".join(f"<p class=first>{sentence}</p>" for sentence in sentences[:1])
            yield _table(ranking.rows)
            yield "".join(f"<p class=warning>{sentence}</p>" for sentence in sentences[1:])
        else:
            yield "".join(f"<p class=warning>{sentence}</p>" for sentence in sentences)
            yield _table(ranking.rows)
    yield _notes(iter(notes))


def _headline(run: Run) -> str:
    """The metric to watch, as a line of HTML."""
    key, best, last = run.monitored, run.points[run.best_step], run.points[run.last_step]
    now = "" if run.best_step == run.last_step else f", now {_with_error(last, key)}"
    return f"<b>{key} {_with_error(best, key)}</b> at its best, after {run.best_step:,} steps{now}"


def _summary(runs: Sequence[Run]) -> Iterator[list[str]]:
    yield ["run", "best", "best checkpoint", "last score", "worst task", "effective rank", "probes", "time in probes"]
    for run in runs:
        best, last, key = run.points[run.best_step], run.points[run.last_step], run.monitored
        checkpoint = "none at the step of a probe"
        if run.best_checkpoint is not None:
            step, path = run.best_checkpoint
            checkpoint = path.name
            if step != run.best_step:
                checkpoint += f" ({run.points[step][key]:.3f}, step {step:,})"
        yield [
            run.name, f"{key} {_with_error(best, key)} at step {run.best_step:,}", checkpoint,
            f"{_with_error(last, 'score')} at step {run.last_step:,}", _number(last, "worst"),
            _number(last, "effective_rank", ".1f"), f"{len(run.points)}", _cost(run),
        ]  # fmt: skip


def _cost(run: Run) -> str:
    seconds = run.series("probe_seconds")[1]
    if not seconds:
        return "-"
    share = run.points[run.last_step].get("overhead")
    return f"{sum(seconds):,.1f} s" + ("" if share is None else f", {share:.1%} of the time")


def _warnings(run: Run) -> Iterator[str]:
    yield from run.warnings
    for before, result in pairwise(run.history):
        if not before.compares(result):
            yield f"From step {result.step} on the probes had other arguments: scores across it are not comparable."
        if result.collapsed and not before.collapsed:
            yield f"At step {result.step} the representation had collapsed: the features were constant."
    scores = list(run.points.values())
    for key in scores[-1]:
        if key.startswith("task/") and all(values.get(key) == 0 for values in scores):
            name = key.removeprefix("task/")
            yield f"The task {name} is 0 throughout: the encoder does not respond to it, and it is uninformative."
    best, last, key = run.points[run.best_step], run.points[run.last_step], run.monitored
    drop, error = best[key] - last[key], math.hypot(*(each.get(f"{key}_se", math.nan) for each in (best, last)))
    if drop > 2 * error:
        yield f"The last {key} is {drop:.3f} below the best one, at step {run.best_step:,}: more than noise."


def _section(run: Run) -> Iterator[str]:
    from synbench_lightning import plots

    yield f"<h2>{escape(run.name)}</h2>"
    yield _notes(_warnings(run))
    yield _figure(
        plots.history_figure(run.history)
        if run.source.startswith("the history")
        else plots.logged_figure(run.points, run.monitored)
    )
    if run.history:
        yield _figure(plots.task_map_figure(run.history))
        if run.history[-1].layers:
            yield _layers(run.history)
            yield _figure(plots.layer_map_figure(run.history))
    by_step = {result.step: result for result in run.history}
    best = by_step.get(run.best_step)
    if best is not None:
        yield _figure(plots.robustness_accuracy_figure(best))
        yield _figure(plots.scale_figure(best))
    for name, results in run.benchmarks.items():
        yield from _benchmark(name, results)
    yield "<details><summary>Settings</summary>"
    yield _table([["setting", "value"], *([key, str(value)] for key, value in _settings(run).items())])
    yield "</details><details><summary>All logged values</summary>"
    keys = list(dict.fromkeys(key for values in run.points.values() for key in values))
    rows = [[f"{step:,}", *(_number(values, key, ".4g") for key in keys)] for step, values in run.points.items()]
    yield _table([["step", *keys], *rows]) + "</details>"


def _layers(history: Sequence[ProbeResult]) -> str:
    """Which layer to read, as a line of HTML."""
    sentence = LayerAdvice("synbench").ended(history)
    sentence = (
        sentence or "The widths of the layers differ too much to compare them: compare each with itself over time."
    )
    return f"<p>{escape(sentence.removeprefix('SynBench: ').replace('`', ''))}</p>"


def _benchmark(name: str, results: Sequence[BenchmarkResult]) -> Iterator[str]:
    """The last evaluation of a benchmark, and how reliably it ranks checkpoints."""
    if not results:
        return
    last = results[-1]
    yield f"<h3>{escape(name)}: the last evaluation, at step {last.step:,}</h3>"
    yield (
        "<p class=note>Signal is the spread of the values over the run; noise is the random deviation of a value from "
        "its neighbors. Order is the fraction of pairs of complete evaluations that the selected items rank in the "
        "same order as all items.</p>"
    )
    yield _notes(_silent(last))
    none: tuple[None, ...] = (None,) * len(last.tasks)
    tasks = zip(
        last.tasks, last.task_values, last.task_intervals, last.task_signals or none, last.task_noises or none,
        last.task_decision_accuracies or none, strict=True,
    )  # fmt: skip
    whole = ("all tasks", last.value, last.interval, last.signal, last.noise, last.decision_accuracy)
    rows = [["task", "value", "95% interval", "signal", "noise", "signal / noise", "order"]]
    for task, value, (low, high), signal, noise, right in (whole, *tasks):
        ratio = "-" if signal is None or not noise else f"{signal / noise:.1f}"
        interval = "all items" if last.complete else f"[{low:.4f}, {high:.4f}]"
        spreads = ["-" if each is None else f"{each:.2g}" for each in (signal, noise)]
        rows.append([task, f"{value:.4f}", interval, *spreads, ratio, "-" if right is None else f"{right:.0%}"])
    yield _table(rows)


def _silent(last: BenchmarkResult) -> Iterator[str]:
    for task in last.silent_tasks:
        yield f"The task {task} is uninformative so far: its values are consistent with a random order."


def _settings(run: Run) -> dict[str, Any]:
    probed: dict[str, Any] = {"values from": run.source}
    if run.history:
        last: ProbeResult = run.history[-1]
        probed |= {
            "tasks": ", ".join(last.tasks), "plan": last.plan, "epsilons": ", ".join(f"{e:g}" for e in last.epsilons),
            "seed of the examples": last.seed, "forwards of a probe": f"{last.num_forwards:,}",
            "dimensions of the features": last.feature_dim, "information with": last.information_kind or "-",
            "inputs": last.inputs or "-", "labels": last.labels or "-",
        }  # fmt: skip
    return {**probed, **run.hyperparameters}


def _with_error(values: Mapping[str, float], key: str) -> str:
    error = f" ± {values[f'{key}_se']:.3f}" if f"{key}_se" in values else ""
    return f"{values[key]:.3f}{error}"


def _number(values: Mapping[str, float], key: str, style: str = ".3f") -> str:
    return format(values[key], style) if key in values else "-"


def _table(rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of HTML whose first row is the head; if ``stacked``, its cells stand below each other on phones."""
    head, *body = rows
    above = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    below = "".join(
        f"<tr>{''.join(_cell(cell, name) for cell, name in zip(row, head, strict=True))}</tr>" for row in body
    )
    return f'<div class="wide {kind}"><table><thead><tr>{above}</tr></thead><tbody>{below}</tbody></table></div>'


def _cell(text: str, name: str) -> str:
    """A cell that breaks behind the slashes of a path, and knows the head of its column."""
    return f'<td data-name="{escape(name)}">{escape(text).replace("/", "/<wbr>")}</td>'


def _notes(notes: Iterator[str]) -> str:
    return "".join(f"<p class=warning>{escape(note)}</p>" for note in notes)


def _figure(figure: Any) -> str:
    from synbench_lightning.plots import vector

    return f"<figure>{vector(figure)}</figure>"


MEANING = (
    "Information: mutual information between the features of a view and the identity of the input, in nats. Readout: "
    "leave-one-out R² of a ridge regression of held-out labels on the features. Score: fraction of the Bayes-optimal "
    "robustness-accuracy area on synthetic tasks that a linear discriminant on the features retains; it does not rank "
    "runs. ± one standard error; what another seed of the training would change is not in it."
)
STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1d2024; --quiet: #5c636b; --line: #d9dce0; --note: #fff6e0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181d; --ink: #e4e6e9; --quiet: #a0a7b0; --line: #353a42; --note: #3a3220; }
}
body { background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; border-top: 1px solid var(--line); padding-top: 1.2rem;
  margin-top: 2.5rem; overflow-wrap: break-word; }
.first { font-size: 1.15rem; margin: .4rem 0; } .note { color: var(--quiet); }
.warning { background: var(--note); border-left: 4px solid #d0922a; padding: .4rem .8rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; margin: 1rem 0; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; }
figure { margin: 1rem 0; overflow-x: auto; } figure svg { display: block; width: 100%; height: auto; min-width: 30rem; }
.stacked td:first-child { min-width: 5rem; }
svg text { fill: currentColor; }
details { margin: .5rem 0; } summary { cursor: pointer; } .wide { overflow-x: auto; }
@media (max-width: 40rem) {
  .stacked thead { display: none; } .stacked table, .stacked tbody, .stacked tr { display: block; }
  .stacked tr { margin-bottom: 1.2rem; }
  .stacked td { display: grid; grid-template-columns: 8rem 1fr; } .stacked td::before { content: attr(data-name);
    color: var(--quiet); }
}
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SynBench report</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
