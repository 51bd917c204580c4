"""Selection of the best of several models or checkpoints on a benchmark from a few items (Algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from synbench_lightning.benchmark.tasks import Benchmark, Tasks, check_log_likelihood
from synbench_lightning.checks import check_choice, check_device, check_integer, check_number, shown
from synbench_lightning.functional.benchmark.confidence_intervals import mean_of_tasks
from synbench_lightning.functional.benchmark.prediction import (
    Method,
    change_of_benchmark,
    choose_points,
    decisions,
    exact_tasks,
    limits,
    predict_tasks,
    related,
)
from synbench_lightning.runtime.collectives import SingleProcess
from synbench_lightning.runtime.encoder import EncoderSpec, check_encoder, find_encoder
from synbench_lightning.runtime.features import FeatureReader, module_behind
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.lightning_packages import LightningModule, rank_zero_warn

Candidate = nn.Module | Callable[[], nn.Module]
"""A module, or a function without arguments that loads one."""


@dataclass(frozen=True)
class Comparison:
    """Values of candidates on a benchmark: mean log-likelihoods of the right label, in nats, or accuracies.

    Args:
        best: name of the candidate with the highest value.
        values: of each candidate, by name and in the order given.
        intervals: 95 % confidence interval of each value; of zero width where all items were evaluated.
        leads: 95 % confidence interval of the difference between the best and each other candidate, from the items on
            which all were evaluated.
        complete: names of the candidates for which all items were evaluated.
        num_points: number of items of the benchmark.
        num_evaluated: number of items evaluated for each of the other candidates.
        left_out: candidates that could not be evaluated and were skipped, with the reason.
        tasks: names of the K tasks.
        task_values: ``(K,)`` values of the tasks for each candidate, shrunk towards the estimates of other tasks; their
            mean need not equal the value.
        task_intervals: ``(K,)`` 95 % confidence intervals of these.
        decision_accuracy: fraction of the pairs of complete candidates that the selected items rank as all items do;
            NaN where no two differ.
        task_decision_accuracies: ``(K,)`` of each task: one near .5 is uninformative at this budget.

    Example:
        >>> print(Comparison(
        ...     best="late", values={"early": -0.6, "late": -0.4}, leads={"early": (0.1, 0.3)}, complete=("late",),
        ...     intervals={"early": (-0.65, -0.55), "late": (-0.4, -0.4)}, num_points=1000, num_evaluated=100,
        ... ))
        candidate    value   95% interval
        early      -0.6000   [-0.6500, -0.5500]
        late       -0.4000   all items   <- best
        Best is late: all others are worse with 95 % confidence each. Evaluated on 10% of 1,000 items each.
    """

    best: str
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    leads: dict[str, tuple[float, float]]
    complete: tuple[str, ...]
    num_points: int
    num_evaluated: int
    left_out: dict[str, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    task_values: dict[str, tuple[float, ...]] = field(default_factory=dict)
    task_intervals: dict[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    decision_accuracy: float = math.nan
    task_decision_accuracies: tuple[float, ...] = ()

    @property
    def rivals(self) -> tuple[str, ...]:
        """Candidates that cannot be distinguished from the best: the interval of its lead includes 0."""
        return tuple(name for name, (low, _) in self.leads.items() if low <= 0)

    def __str__(self) -> str:
        width = max(map(len, ["candidate", *self.values]))
        lines = [f"{'candidate':{width}}    value   95% interval"]
        for name, value in self.values.items():
            low, high = self.intervals[name]
            seen = "all items" if name in self.complete else f"[{low:.4f}, {high:.4f}]"
            lines.append(f"{name:{width}}  {value:7.4f}   {seen}{'   <- best' if name == self.best else ''}")
        told = "all others are worse with 95 % confidence each"
        if self.rivals:
            told = f"not distinguished from {', '.join(self.rivals)} at 95 % confidence; raise the budget"
        share = self.num_evaluated / self.num_points
        lines.append(f"Best is {self.best}: {told}. Evaluated on {share:.0%} of {self.num_points:,} items each.")
        if not math.isnan(self.decision_accuracy):
            lines.append(
                f"The items rank {self.decision_accuracy:.0%} of the pairs of complete candidates in their true order."
            )
        lines += [f"Skipped: {name}: {reason}" for name, reason in self.left_out.items()]
        return "\n".join(lines)


def select_best(
    candidates: Mapping[str, Candidate],
    tasks: Tasks,
    budget: float = 0.1,
    *,
    log_likelihood: Callable[[Any, Any], Tensor] | None = None,
    encoder: EncoderSpec = None,
    support: int = 100,
    complete: int = 5,
    method: Method = "residual",
    batch_size: int = 256,  # mutants: memory and time alone
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Comparison:
    """Find the best of several models or checkpoints on a benchmark without evaluating all of it for each.

    A few candidates, evenly spaced in the given order, are evaluated on all items; from these, items are selected
    (CORRELATE and SELECT). The others are evaluated on the selected items only, and the one with the highest
    predicted value is the best. Source: Vivek et al., Benchmark Hill Climbing, Algorithm 1.

    Args:
        candidates: modules by name, or functions that load one, in a meaningful order such as that of training. One is
            loaded at a time.
        tasks: a dataset for each task, by name, as in :class:`BenchmarkCallback`.
        budget: fraction of the items that is evaluated for the candidates that are not evaluated completely, in (0, 1].
        log_likelihood: ``(module, batch) -> (N,)``, or 1 and 0 for right and wrong answers; ``None``: a closed-form
            few-shot discriminant on features.
        encoder: where the features come from, as in :class:`SynBenchCallback`; by default also the module itself.
        support: examples of each task that the discriminant is fitted to.
        complete: number of candidates that are evaluated completely, at least 1.
        method: how items are selected, as in :class:`BenchmarkCallback`.
        batch_size: examples in one forward.
        seed: of support sets and selections.
        device: where to evaluate.

    Returns:
        Values of all candidates, the best, and those that cannot be distinguished from it.

    A candidate that cannot be loaded or evaluated, or whose features or answers are not finite, is skipped with a
    warning.

    Raises:
        ValueError: for no candidates, none that can be evaluated, or another argument outside its range.

    Example:
        >>> x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
        >>> tasks = {"sign": torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())}
        >>> keep = [nn.Linear(4, 4, bias=False) for _ in range(4)]
        >>> for kept, module in enumerate(keep):  # the last one keeps the coordinate that matters
        ...     _ = module.weight.data.zero_()[kept, 3 - kept].fill_(1.0)
        >>> candidates = {f"keeps {3 - kept}": module for kept, module in enumerate(keep)}
        >>> found = select_best(candidates, tasks, budget=0.2, complete=2)
        >>> found.best, found.rivals
        ('keeps 0', ())
    """
    if not isinstance(candidates, Mapping) or not candidates:
        raise ValueError(f"`candidates` must be a non-empty mapping of names to modules, got {shown(candidates)}.")
    budget = check_number("budget", budget, "a fraction of the items in (0, 1]", 0, 1, low_in=False)
    benchmark = Benchmark(
        tasks,
        support=0 if log_likelihood is not None else check_integer("support", support, 4),
        batch_size=batch_size,
        seed=check_integer("seed", seed, 0),
    )
    check_log_likelihood(log_likelihood)
    check_encoder(encoder)
    check_choice("method", method, get_args(Method))
    names, everything = list(candidates), torch.arange(len(benchmark.tasks))
    evaluate = partial(_evaluate, benchmark, log_likelihood or encoder, check_device(device))
    wanted = check_integer("complete", complete, 1)
    left_out: dict[str, str] = {}

    def evaluated(name: str, places: Tensor) -> dict[str, Tensor]:
        try:
            return {name: evaluate(candidates[name], places)}
        except Exception as error:  # one bad candidate is not worth the comparison of the others
            left_out[name] = f"{type(error).__name__}: {error}"
            rank_zero_warn(f"The candidate {name!r} cannot be evaluated and is skipped. {left_out[name]}")
            return {}

    answers: dict[str, Tensor] = {}
    while whole := [name for name in _spread(_others(names, left_out), wanted) if name not in answers]:
        for name in whole:
            answers |= evaluated(name, everything)
    if not answers:
        different = {reason: [name for name in left_out if left_out[name] == reason] for reason in left_out.values()}
        reasons = "; ".join(f"{', '.join(map(repr, alike))}: {reason}" for reason, alike in different.items())
        raise ValueError(f"None of the `candidates` can be evaluated. {reasons}")
    whole = [name for name in names if name in answers]
    curves = torch.stack([answers[name] for name in whole])
    selection = choose_points(curves, benchmark.tasks, benchmark.points(budget), method, seed)
    few: dict[str, Tensor] = {}
    for name in _others(names, left_out):
        few |= {name: answers[name][selection.indices]} if name in answers else evaluated(name, selection.indices)
    names = list(few)
    right, of_tasks = decisions(curves, selection, benchmark.tasks)
    by_task = {name: exact_tasks(answers[name], benchmark.tasks) for name in whole}
    estimates = {name: mean_of_tasks(exact) for name, exact in by_task.items()}
    rest = [name for name in names if name not in answers]
    if rest:
        predicted = predict_tasks(torch.stack([few[name] for name in rest]), selection, curves, benchmark.tasks)
        drawn, means = related(predicted, selection, curves, benchmark.tasks), mean_of_tasks(predicted)
        estimates |= {name: means.part(place) for place, name in enumerate(rest)}
        by_task |= {name: [task.part(place) for task in drawn] for place, name in enumerate(rest)}
    best = max(names, key=lambda name: float(estimates[name].value))
    leads = {
        name: limits(change_of_benchmark(few[best] - few[name], selection, benchmark.tasks))
        for name in names
        if name != best
    }
    return Comparison(
        best,
        {name: float(estimates[name].value) for name in names},
        {name: limits(estimates[name]) for name in names},
        leads,
        tuple(whole),
        len(everything),
        len(selection.indices),
        left_out,
        benchmark.names,
        {name: tuple(float(task.value) for task in by_task[name]) for name in names},
        {name: tuple(map(limits, by_task[name])) for name in names},
        float(right),
        tuple(of_tasks.tolist()),
    )


def select_best_checkpoint(
    folder: Path,
    model: LightningModule,
    tasks: dict[str, Dataset],  # type: ignore[type-arg]
    budget: float = 0.1,
    *,
    pattern: str = "**/*.ckpt",
    encoder: str | None = None,
    support: int = 100,
    complete: int = 5,
    method: Method = "residual",
    batch_size: int = 256,  # mutants: memory and time alone
    seed: int = 0,
    device: str = "cpu",
) -> Comparison:
    """Find the best of the checkpoints that Lightning has saved in a folder, in the order of their steps.

    Args:
        folder: where the checkpoints are.
        model: a module of the class that was trained; its weights are replaced by those of each checkpoint.
        tasks: a dataset for each task, by name.
        budget: fraction of the items that is evaluated for most checkpoints, in (0, 1].
        pattern: of the files, below the folder.
        encoder: dotted attribute of the module that gives the features; by default it is found.
        support: examples of each task that the discriminant is fitted to.
        complete: number of checkpoints that are evaluated completely.
        method: how items are selected: ``"residual"``, ``"clusters"`` or ``"random"``.
        batch_size: examples in one forward.
        seed: of support sets and random selections.
        device: where to evaluate.

    Returns:
        The comparison, by file name; printed, it names the best and how certain that is.

    Raises:
        ValueError: if the folder holds no checkpoint, or an argument is outside its range.
    """
    files = sorted(Path(folder).glob(pattern))
    if not files:
        raise ValueError(f"`folder`: {str(folder)!r} holds no file {pattern!r}.")
    steps = {file: torch.load(file, map_location="cpu", weights_only=True, mmap=True)["global_step"] for file in files}

    def load(file: Path) -> nn.Module:
        model.load_state_dict(torch.load(file, map_location=device, weights_only=True)["state_dict"])
        return model.to(device)

    ordered = sorted(files, key=lambda file: (steps[file], file))
    return select_best(
        {str(file.relative_to(folder)): partial(load, file) for file in ordered}, tasks, budget, encoder=encoder,
        support=support, complete=complete, method=method, batch_size=batch_size, seed=seed, device=device,
    )  # fmt: skip


def _evaluate(benchmark: Benchmark, answer: Any, device: torch.device, candidate: Candidate, places: Tensor) -> Tensor:
    module = candidate if isinstance(candidate, nn.Module) else candidate()
    if not isinstance(module, nn.Module):
        raise ValueError(f"a candidate must be a module or a function that returns one, got a {type(module).__name__}")
    with isolated(module):
        forward = find_encoder(module, answer).forward  # type: ignore[arg-type]
        read = FeatureReader(module_behind(forward))
        return benchmark.log_likelihoods(forward, places, SingleProcess(), None, device, read)


def _others(names: list[str], left_out: Mapping[str, str]) -> list[str]:
    return [name for name in names if name not in left_out]


def _spread(names: list[str], count: int) -> list[str]:
    """``count`` evenly spaced names, the last included; all of them where there are fewer."""
    places = torch.linspace(len(names) - 1, 0, min(count, len(names))).round().long()
    return [names[place] for place in sorted(places.tolist())]
