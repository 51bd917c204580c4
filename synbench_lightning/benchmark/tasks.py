"""A benchmark of labeled tasks, and the log-likelihoods of the right labels of its items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from synbench_lightning.checks import check_integer, check_name, shown
from synbench_lightning.functional.representation.class_probabilities import class_log_probabilities
from synbench_lightning.runtime.collectives import Processes, Progress, gather_rows
from synbench_lightning.runtime.features import FeatureReader
from synbench_lightning.runtime.lightning_packages import move_data_to_device
from synbench_lightning.runtime.seeded_calls import reached

READ_TWICE = 8
"""Number of examples of each task that are read twice, in the first evaluation, to detect random augmentation."""

Tasks = Mapping[str, Dataset | DataLoader]  # type: ignore[type-arg]  # with arguments LightningCLI cannot type it
"""Datasets by the name of their task; a DataLoader says how its dataset is collated into batches."""


class Benchmark:
    """Labeled tasks of which all or some items can be evaluated, any number of times.

    Args:
        tasks: a dataset for each name, with ``__len__`` and ``__getitem__``.
        support: examples of each task that the built-in readout is fitted to, excluded from the items; 0 where the
            module returns log-likelihoods itself.
        batch_size: examples in one forward.
        seed: of the random support sets.

    Raises:
        ValueError: for tasks that are not such datasets, or have too few examples.
    """

    def __init__(self, tasks: Tasks, *, support: int, batch_size: int, seed: int) -> None:
        if not isinstance(tasks, Mapping) or not tasks:
            raise ValueError(f"`tasks` must be a non-empty mapping of names to datasets, got {shown(tasks)}.")
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
        self._read_twice: set[int] = set()  # tasks whose examples were found to be the same each time
        self._points = torch.cat(points)
        self.indices = dict(zip(self.names, points, strict=True))
        """Indices of the items of each task in its dataset, in the order of the items."""
        self.tasks = torch.arange(len(points)).repeat_interleave(torch.tensor([len(own) for own in points]))

    @property
    def settings(self) -> dict[str, int]:
        """Number of items of each task; two benchmarks with the same numbers have the same items."""
        return dict(zip(self.names, torch.bincount(self.tasks).tolist(), strict=True))

    @property
    def readers(self) -> list[Callable[[Any], Any]]:
        """The functions of the datasets, also of those within them, that read an example."""
        return [one.__getitem__ for one in reached(*self._examples) if isinstance(one, Dataset)]

    def points(self, share: float) -> int:
        """Number of items in a fraction ``share`` of the benchmark, at least two of each task."""
        return min(max(round(share * len(self.tasks)), 2 * len(self.names)), len(self.tasks))

    def log_likelihoods(
        self,
        answer: Callable[[Any], Any],
        places: Tensor,
        processes: Processes,
        progress: Progress | None,
        device: torch.device,
        read: FeatureReader,
    ) -> Tensor:
        """Compute the log-likelihoods of the right labels of some items, on every process.

        Args:
            answer: from a batch to features, to which the readout is fitted; without support sets, from a batch to
                log-likelihoods ``(N,)``.
            places: ``(B,)`` different indices of items.
            processes: those that share the examples; each of them makes this call.
            progress: called with the number of examples done and their total on this process.
            device: where batches are needed.
            read: takes features from what ``answer`` returns.

        Returns:
            ``(B,)`` float64, on the CPU.

        Raises:
            ValueError: for invalid features, labels or log-likelihoods.
            RuntimeError: if the evaluation failed on another process.
        """
        readout = bool(len(self._support[0]))
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
            found = self._gathered(answer, task, indices, processes, advance, device, read if readout else None)
            values[inside] = self._judged(found, task, len(support)) if readout else found[:, 0].double()
        values = processes.broadcast(values)
        graded = bool(((values == 0) | (values == 1)).all())  # right or wrong, no likelihoods
        right = torch.isfinite(values) & (values < 1e-6)  # mutants: equal with probability 0
        if not graded and not bool(right.all()):
            wrong = self.names[int(self.tasks[places][~right][0])]
            raise ValueError(
                f"Log-likelihoods of labels must be finite and at most 0; for the task {wrong!r} they are not. Return "
                "the logarithm of a probability, bounded from below, for each example; or 1 and 0 for all, right and "
                "wrong."
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
        read: FeatureReader | None,
    ) -> Tensor:
        """Gather answers ``(n, width)`` for some examples of a task from all processes; the last column is labels."""
        rounds = -(-len(indices) // (self.batch_size * processes.size))
        blocks = [block for block in torch.arange(len(indices)).tensor_split(rounds * processes.size) if len(block)]

        def make() -> list[tuple[Tensor, Tensor]]:
            own, found = blocks[processes.rank :: processes.size], []
            for block in own:
                found.append((block, self._answered(answer, task, indices[block], device, read)))
                advance(len(block))
            if processes.lockstep and len(own) < rounds:
                self._answered(answer, task, indices[blocks[0]], device, read)  # others make one more forward
            return found

        return gather_rows(processes, len(indices), device, make).cpu()

    def _answered(
        self,
        answer: Callable[[Any], Any],
        task: int,
        indices: Tensor,
        device: torch.device,
        read: FeatureReader | None,
    ) -> Tensor:
        name = self.names[task]
        batch = self._batch(task, indices)
        if read is None:
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
        shape = tuple(inputs.shape[1:]) if isinstance(inputs, Tensor) else ()
        features = read(answer(move_data_to_device(inputs, device)), len(indices), shape)
        return torch.cat([features, labels.to(features)[:, None]], 1)

    def _batch(self, task: int, indices: Tensor) -> Any:
        """Collate some examples of a task; the first ones are read twice."""
        name = self.names[task]

        def read(index: int) -> Any:
            try:
                return self._examples[task][index]
            except Exception as error:
                raise RuntimeError(
                    f"`tasks`: the example {index} of {name!r} cannot be read. {type(error).__name__}: {error}"
                ) from error

        examples = [read(index) for index in indices.tolist()]
        if task not in self._read_twice:
            twice = indices[:READ_TWICE].tolist()
            changed = [index for place, index in enumerate(twice) if not _same(examples[place], read(index))]
            if changed:
                raise ValueError(
                    f"`tasks`: the example {changed[0]} of {name!r} is another one each time it is read (a random "
                    "augmentation?). An item must be the same in each evaluation: use the transform of the evaluation."
                )
            self._read_twice.add(task)
        try:
            return self._collate[task](examples)
        except Exception as error:
            raise RuntimeError(
                f"`tasks`: {len(examples)} examples of {name!r}, the first of them {int(indices[0])}, cannot be made a "
                f"batch. {type(error).__name__}: {error}. A DataLoader in place of the dataset says how (`collate_fn`)."
            ) from error

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


def check_log_likelihood(log_likelihood: Any) -> None:
    """Raise where ``log_likelihood`` is not a function of a module and a batch."""
    wrong = not callable(log_likelihood) or isinstance(log_likelihood, (nn.Module, type))
    if log_likelihood is not None and wrong:
        raise ValueError(
            f"`log_likelihood` must be a callable (module, batch) -> (N,) or None, got {shown(log_likelihood)}."
        )


def _same(first: Any, second: Any) -> bool:
    """Whether two readings of an example agree in all their tensors, arrays and numbers."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return all(_same(first[key], second.get(key)) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(map(_same, first, second))
    if isinstance(first, (Tensor, np.ndarray)) and isinstance(second, (Tensor, np.ndarray)):
        ours, theirs = np.asarray(first), np.asarray(second)
        return ours.shape == theirs.shape and bool(((ours == theirs) | ((ours != ours) & (theirs != theirs))).all())
    return not isinstance(first, (int, float)) or first == second or first != first
