"""A benchmark of labelled tasks, and the log-likelihood that a module gives the right labels of some of its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from synbench_lightning.checks import check_fields, check_integer, check_name, numbers
from synbench_lightning.functional.representation.readout import class_log_probabilities
from synbench_lightning.probe.families import resolve_tasks
from synbench_lightning.probe.tasks import NOISE_BLOCK, GaussianTask, noise_block
from synbench_lightning.runtime.distributed import Processes, Progress, gathered
from synbench_lightning.runtime.features import feature_matrix

Tasks = Mapping[str, Dataset | DataLoader]  # type: ignore[type-arg]  # with arguments LightningCLI cannot type it
"""Datasets by the name of their task; a DataLoader says how its dataset is collated into batches."""


@dataclass(frozen=True)
class BenchmarkResult:
    """What one evaluation of a benchmark found; values are mean log-likelihoods of the right label, in nats.

    Args:
        tasks: names of the K tasks.
        value: the benchmark, the mean over the tasks; predicted unless ``complete``.
        standard_error: of the value; 0 if ``complete``.
        interval: of 95 percent for the value.
        task_values: ``(K,)`` value of each task.
        task_intervals: ``(K,)`` interval of 95 percent for each.
        complete: whether all points were evaluated, and nothing was predicted.
        num_points: points that were evaluated, with those of an audit and without the support sets.
        detectable_difference: the smallest change since the evaluation before that would be seen with probability .8;
            ``None`` for a complete one.
        audit_error: prediction minus what an audit of other points found; ``None`` where there was none.
        audit_standard_error: of what the audit found.
        seconds: wall-clock time of the evaluation.
        step: optimizer steps before it.

    Example:
        >>> result = BenchmarkResult(
        ...     tasks=("parity",), value=-0.3, standard_error=0.01, interval=(-0.32, -0.28), task_values=(-0.3,),
        ...     task_intervals=((-0.32, -0.28),), complete=False, num_points=50, detectable_difference=0.03,
        ...     audit_error=None, audit_standard_error=None, seconds=0.1, step=100,
        ... )
        >>> BenchmarkResult.from_dict(result.to_dict()) == result
        True
    """

    tasks: tuple[str, ...]
    value: float
    standard_error: float
    interval: tuple[float, float]
    task_values: tuple[float, ...]
    task_intervals: tuple[tuple[float, float], ...]
    complete: bool
    num_points: int
    detectable_difference: float | None
    audit_error: float | None
    audit_standard_error: float | None
    seconds: float
    step: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, texts, lists and dicts: safe in checkpoints and in JSON."""
        lists = {name: list(getattr(self, name)) for name in ("tasks", "interval", "task_values")}
        return {**asdict(self), **lists, "task_intervals": [list(pair) for pair in self.task_intervals]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BenchmarkResult:
        """The result that :meth:`to_dict` was called on.

        Raises:
            ValueError: for unknown or missing fields, or values that are none of them.
        """
        check_fields(cls, values)
        tuples = {name: tuple(values[name]) for name in ("tasks", "interval", "task_values")}
        return cls(**{**values, **tuples, "task_intervals": tuple(tuple(pair) for pair in values["task_intervals"])})


class Benchmark:
    """Labelled tasks whose points can be evaluated all or in part, any number of times.

    Args:
        tasks: a dataset for each name, with ``__len__`` and ``__getitem__``.
        support: examples of each task that the built-in readout is fitted to, and which are no points; 0 where the
            module answers by itself.
        batch_size: examples in one forward.
        seed: of the choice of support examples.

    Raises:
        ValueError: for tasks that are no such datasets, or have too few examples.
    """

    def __init__(self, tasks: Tasks, *, support: int, batch_size: int, seed: int) -> None:
        if not isinstance(tasks, Mapping) or not tasks:
            raise ValueError(f"`tasks` must be a non-empty mapping of names to datasets, got {tasks!r}.")
        self.names = tuple(check_name("tasks", name) for name in tasks)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self._examples, self._collate, self._support, points = [], [], [], []
        for index, (name, given) in enumerate(tasks.items()):
            dataset, collate = (given.dataset, given.collate_fn) if isinstance(given, DataLoader) else (given, None)
            if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
                raise ValueError(
                    f"`tasks`: {name!r} must be a dataset with a length and items by index, got a "
                    f"{type(dataset).__name__}."
                )
            if len(dataset) < support + 2:
                raise ValueError(
                    f"`tasks`: {name!r} has {len(dataset)} examples; at least {support + 2} are needed, {support} to "
                    "fit the readout to (`support`) and two to evaluate."
                )
            order = torch.from_numpy(np.random.default_rng([seed, index]).permutation(len(dataset)))
            self._examples.append(dataset)
            self._collate.append(default_collate if collate is None else collate)
            self._support.append(order[:support])
            points.append(order[support:].sort().values)
        self._points = torch.cat(points)
        self.indices = dict(zip(self.names, points, strict=True))
        """Places of the points of each task in its dataset, in the order of the points."""
        self.tasks = torch.arange(len(points)).repeat_interleave(torch.tensor([len(own) for own in points]))

    @property
    def settings(self) -> dict[str, int]:
        """The number of points of each task: what decides whether two benchmarks have the same points."""
        return dict(zip(self.names, torch.bincount(self.tasks).tolist(), strict=True))

    def points(self, share: float) -> int:
        """Number of points that are a share of the benchmark, at least two of each task."""
        return min(max(round(share * len(self.tasks)), 2 * len(self.names)), len(self.tasks))

    def log_likelihoods(
        self,
        answer: Callable[[Any], Any],
        places: Tensor,
        processes: Processes,
        progress: Progress | None,
        device: torch.device,
    ) -> Tensor:
        """Log-likelihood of the right labels of some points, on every process.

        Args:
            answer: from a batch to features, which the readout judges; without support sets, from a batch to
                log-likelihoods ``(N,)``.
            places: ``(B,)`` different places of points among all.
            processes: those that share the examples; each of them makes this call.
            progress: called with the number of examples done and their total on this process.
            device: where batches are needed.

        Returns:
            ``(B,)`` float64, on the CPU.

        Raises:
            ValueError: for features, labels or log-likelihoods that are none.
            RuntimeError: if the evaluation failed on another process.
        """
        readout = len(self._support[0]) > 0
        values = torch.empty(len(places), dtype=torch.float64)
        total = -(-(len(places) + sum(map(len, self._support))) // processes.size)
        done = 0

        def advance(examples: int) -> None:
            nonlocal done
            done += examples
            if progress is not None:
                progress(min(done, total), total)

        for task, support in enumerate(self._support):
            inside = self.tasks[places] == task
            indices = torch.cat([support, self._points[places[inside]]])
            if not len(indices):
                continue
            found = self._gathered(answer, task, indices, processes, advance, device, readout)
            values[inside] = self._judged(found, task, len(support)) if readout else found[:, 0].double()
        values = processes.same(values)
        if not bool(torch.isfinite(values).all()) or bool((values > 1e-6).any()):
            wrong = self.names[int(self.tasks[places][~(values <= 1e-6) | ~torch.isfinite(values)][0])]
            raise ValueError(
                f"Log-likelihoods of labels must be finite and at most 0; for the task {wrong!r} they are not. Return "
                "the logarithm of a probability, bounded from below, for each example."
            )
        return values

    def _gathered(
        self,
        answer: Callable[[Any], Any],
        task: int,
        indices: Tensor,
        processes: Processes,
        advance: Callable[[int], None],
        device: torch.device,
        readout: bool,
    ) -> Tensor:
        """Answers ``(n, width)`` for some examples of a task, of all processes, on each; labels in the last column."""
        rounds = -(-len(indices) // (self.batch_size * processes.size))
        blocks = [block for block in torch.arange(len(indices)).tensor_split(rounds * processes.size) if len(block)]

        def make() -> list[tuple[Tensor, Tensor]]:
            own, found = blocks[processes.rank :: processes.size], []
            for block in own:
                found.append((block, self._answered(answer, task, indices[block], device, readout)))
                advance(len(block))
            if processes.lockstep and len(own) < rounds:
                self._answered(answer, task, indices[blocks[0]], device, readout)  # others make one more forward
            return found

        return gathered(processes, len(indices), device, make).cpu()

    def _answered(
        self, answer: Callable[[Any], Any], task: int, indices: Tensor, device: torch.device, readout: bool
    ) -> Tensor:
        name = self.names[task]
        batch = self._collate[task]([self._examples[task][index] for index in indices.tolist()])
        if not readout:
            output = answer(move_data_to_device(batch, device))
            if not isinstance(output, Tensor) or output.shape != (len(indices),) or not output.is_floating_point():
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(
                    f"`log_likelihood` must return a floating-point tensor of shape {(len(indices),)} for a batch of "
                    f"the task {name!r}, one number for each example, got {shape}."
                )
            return output.float()[:, None]
        if not isinstance(batch, Sequence) or len(batch) < 2 or not isinstance(batch[1], Tensor):
            raise ValueError(
                f"The examples of the task {name!r} must be pairs (input, label) for the built-in readout; for others "
                "pass `log_likelihood=`."
            )
        inputs, labels = batch[:2]
        if labels.shape != (len(indices),) or labels.is_floating_point():
            raise ValueError(
                f"The labels of the task {name!r} must be integers, one for each example, got {labels.dtype} of shape "
                f"{tuple(labels.shape)} for {len(indices)}."
            )
        features = feature_matrix(answer(move_data_to_device(inputs, device)), len(indices))
        return torch.cat([features, labels.to(features)[:, None]], 1)

    def _judged(self, found: Tensor, task: int, support: int) -> Tensor:
        features, labels = found[:, :-1], found[:, -1].round().long()
        if not bool(torch.isfinite(features).all()):
            bad = int((~torch.isfinite(features)).any(1).sum())
            raise ValueError(
                f"The encoder's features are NaN or infinite for {bad} of {len(features)} examples of the task "
                f"{self.names[task]!r}."
            )
        try:
            log_probabilities = class_log_probabilities(features[:support], labels[:support], features[support:])
        except ValueError as error:
            raise ValueError(f"The readout of the task {self.names[task]!r}, of {support} examples: {error}") from error
        if len(labels) > support and int(labels[support:].max()) >= log_probabilities.shape[1]:
            raise ValueError(
                f"The task {self.names[task]!r} has the label {int(labels.max())}, of which no example is among the "
                f"{support} that the readout is fitted to. Raise `support`."
            )
        return log_probabilities.gather(1, labels[support:, None])[:, 0]


def labelled_proxies(
    tasks: str | Sequence[GaussianTask],
    input_shape: Sequence[int],
    scales: Sequence[float] = (0.5, 1.0, 2.0),
    examples: int = 256,
    seed: int = 0,
) -> dict[str, Dataset[Any]]:
    """Gaussian proxy tasks as a benchmark of labelled examples: one task for each of them at each scale.

    Args:
        tasks: the name of a family (:func:`task_family`) or Gaussian tasks of your own.
        input_shape: shape of one input of the encoder, without the batch dimension.
        scales: Mahalanobis half-distances of the classes, positive.
        examples: labelled examples of each task at each scale.
        seed: of the noise.

    Returns:
        Datasets of pairs (input, label) by names such as ``"dc@0.5"``.

    Raises:
        ValueError: for tasks, scales or a number of examples outside their range.

    Example:
        >>> benchmark = labelled_proxies("dc", (1, 8, 8), scales=(1.0,), examples=100)
        >>> list(benchmark), len(benchmark["dc@1"])
        (['dc@1'], 100)
    """
    count = check_integer("examples", examples, 4)
    levels = numbers("scales", scales)
    if not levels or min(levels) <= 0:
        raise ValueError(f"`scales` must be positive numbers, at least one, got {list(levels)}.")
    labels = torch.arange(count) % 2
    signs = (2.0 * labels - 1.0).reshape(-1, *[1] * len(input_shape))
    found: dict[str, Dataset[Any]] = {}
    for task in resolve_tasks(tasks, input_shape):
        if not isinstance(task, GaussianTask):
            raise ValueError(f"`tasks` must be Gaussian tasks, {task.name!r} is labelled already: make it a dataset.")
        for scale in levels:
            blocks = [
                noise_block(seed, task.name, scale, block, input_shape) for block in range(-(-count // NOISE_BLOCK))
            ]
            white = torch.cat(blocks)[:count] + scale * signs * task.direction
            middle = 0.0 if task.mean is None else task.mean
            found[f"{task.name}@{scale:g}"] = TensorDataset(task.coloured(white) + middle, labels)
    return found
