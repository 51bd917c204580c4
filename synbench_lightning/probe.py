"""Run an encoder over the samples of a family of tasks, under a plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from synbench_lightning.functional.crossfit import crossfit_accuracy_and_bound
from synbench_lightning.functional.discriminant import accuracy_and_bound, check_epsilons
from synbench_lightning.functional.score import check_thresholds
from synbench_lightning.plan import ProbePlan
from synbench_lightning.result import ProbeResult
from synbench_lightning.runtime.distributed import Processes, SingleProcess
from synbench_lightning.runtime.features import feature_matrix
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.tasks import NOISE_BLOCK, GaussianTask, check_input_shape, noise_block, resolve_tasks

OFFICIAL_THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)
NOISE_BUDGET_BYTES = 2**28
"""Noise that fits is kept on the device between probes; more is drawn again, block by block."""

Normalize = tuple[float | Sequence[float], float | Sequence[float]]
Progress = Callable[[int, int], None]


def evaluate(
    encoder: Callable[[Tensor], Any],
    input_shape: Sequence[int],
    *,
    tasks: str | Sequence[GaussianTask] = "dc",
    plan: ProbePlan | str = "fast",
    epsilons: Sequence[float] = (0.0, 0.2),
    thresholds: Sequence[float] = OFFICIAL_THRESHOLDS,
    batch_size: int = 256,
    normalize: Normalize | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> ProbeResult:
    """The SynBench score of an encoder, outside training.

    A module is run in evaluation mode and without gradients, and left as it was.

    Args:
        encoder: a module or callable from ``(N, *input_shape)`` to features: ``(N, D)``, tokens ``(N, T, D)``, maps
            ``(N, C, H, W)``, or an object or dict with ``pooler_output`` or ``last_hidden_state``.
        input_shape: shape of one example, without the batch dimension.
        tasks: ``"dc"`` (the paper's task), ``"default"`` (a family), or tasks of your own.
        plan: ``"fast"``, ``"official"`` or a :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1), relative to half the
            distance of the class means in the representation.
        thresholds: threshold accuracies for :attr:`ProbeResult.scores`, each in [0.5, 1).
        batch_size: examples in one forward.
        normalize: mean and standard deviation, numbers or one per channel (the first dimension of an input): the
            encoder then sees ``(x + 0.5 - mean) / std``, as in the paper.
        seed: of the noise; the same seed shows every encoder the same examples.
        device: where to draw the examples; ``None`` for where the module's parameters are.

    Returns:
        The result for all tasks, epsilons and scales.

    Raises:
        ValueError: for an argument outside its range, or features that are NaN or infinite.
        TypeError: for an encoder that returns something else than features.
        RuntimeError: if the encoder raises.

    Example:
        >>> result = evaluate(torch.nn.Flatten(), (1, 4, 4))  # nothing is lost
        >>> 0.97 < result.score() < 1.03
        True
    """
    module = encoder if isinstance(encoder, nn.Module) else None
    parameter = None if module is None else next((p for p in module.parameters() if p.is_floating_point()), None)
    home = torch.device("cpu") if parameter is None else parameter.device
    chosen = home if device is None else torch.device(device)
    if parameter is not None and chosen.type != home.type:
        raise ValueError(
            f"`device` is {chosen}, but the encoder's parameters are on {home}: move it with `.to()` first."
        )
    dtype = torch.float32 if parameter is None else parameter.dtype
    probe = Probe(
        tasks, plan, input_shape, epsilons=epsilons, thresholds=thresholds, batch_size=batch_size, normalize=normalize,
        seed=seed, device=chosen,
    )  # fmt: skip
    with isolated(module):
        return probe(lambda x: encoder(x.to(dtype)))


class Probe:
    """The examples of a family of tasks under a plan, to be shown to an encoder any number of times.

    The arguments are those of :func:`evaluate`. Which process draws an example, and in which batch it is shown, changes
    nothing about the example. Beside the features, memory holds one batch, and the noise where it fits a budget of
    256 MiB.
    """

    def __init__(
        self,
        tasks: str | Sequence[GaussianTask],
        plan: ProbePlan | str,
        input_shape: Sequence[int],
        *,
        epsilons: Sequence[float],
        thresholds: Sequence[float],
        batch_size: int,
        normalize: Normalize | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.input_shape = check_input_shape(input_shape)
        self.tasks = resolve_tasks(tasks, self.input_shape)
        self.plan = ProbePlan.of(plan)
        self.epsilons = check_epsilons(epsilons)
        grid = self.plan.grid
        self.thresholds = check_thresholds(thresholds, 0.5 if grid is None else float(grid[0]))
        self.batch_size = check_batch_size(batch_size)
        self.seed = check_seed(seed)
        self.device = device
        self.vectors = self.plan.noise_vectors(len(self.tasks))
        self._offset, self._factor = _affine(normalize, self.input_shape, device)
        self._kept: dict[tuple[int, int, int], Tensor] | None = {}
        examples = self.vectors * len(self.plan.scales) * len(self.tasks)
        if 4 * examples * self.tasks[0].direction.numel() > NOISE_BUDGET_BYTES:
            self._kept = None

    @property
    def num_forwards(self) -> int:
        """Examples that one probe shows the encoder, over all processes."""
        return self.plan.num_forwards(len(self.tasks))

    def __call__(
        self,
        encoder: Callable[[Tensor], Any],
        processes: Processes | None = None,
        progress: Progress | None = None,
    ) -> ProbeResult:
        """Probe an encoder that is ready to be run (see :func:`synbench_lightning.runtime.isolation.isolated`).

        Args:
            encoder: from a batch ``(N, *input_shape)`` on the probe's device to features.
            processes: those that share the work; each of them makes this call.
            progress: called with the number of examples done and their total on this process.

        Raises:
            ValueError: if the features are not finite; the errors of :func:`feature_matrix`.
            RuntimeError: if the encoder raises; if the probe failed on another process.
        """
        start = time.perf_counter()
        processes = processes or SingleProcess()
        accuracy, bound, dim = self._accuracy_and_bound(encoder, processes, progress)
        result = ProbeResult(
            tasks=tuple(task.name for task in self.tasks),
            epsilons=self.epsilons,
            thresholds=self.thresholds,
            accuracy=tuple(tuple(map(tuple, rows)) for rows in accuracy.tolist()),
            bound=tuple(tuple(map(tuple, rows)) for rows in bound.tolist()),
            plan=self.plan,
            feature_dim=dim,
            num_forwards=self.num_forwards,
            seconds=time.perf_counter() - start,
        )
        return processes.same(result)

    def _accuracy_and_bound(
        self, encoder: Callable[[Tensor], Any], processes: Processes, progress: Progress | None
    ) -> tuple[Tensor, Tensor, int]:
        cells = [(task, scale) for task in range(len(self.tasks)) for scale in range(len(self.plan.scales))]
        advance = _Advance(self.num_forwards // processes.size, progress)
        if self.plan.protocol == "fast":
            features = self._features(cells, encoder, processes, advance)
            shaped = features.unflatten(0, (len(self.tasks), len(self.plan.scales), self.vectors))
            return *crossfit_accuracy_and_bound(shaped, self.epsilons), features.shape[-1]
        labels = (self._signs() > 0).long()
        half = self.vectors // 2
        found = []
        for cell in cells:
            features = self._features([cell], encoder, processes, advance)[:, 0]
            train, test = (features[:half], labels[:half]), (features[half:], labels[half:])
            found.append(torch.stack(accuracy_and_bound(*train, *test, self.epsilons)))
        accuracy, bound = torch.stack(found, 1).unflatten(1, (len(self.tasks), -1)).transpose(2, 3)
        return accuracy, bound, features.shape[-1]

    def _features(
        self,
        cells: Sequence[tuple[int, int]],
        encoder: Callable[[Tensor], Any],
        processes: Processes,
        advance: _Advance,
    ) -> Tensor:
        """Features ``(cells * vectors, signs, D)`` of all processes, on each of them."""
        blocks = [
            (row * self.vectors + first, task, scale, first)
            for row, (task, scale) in enumerate(cells)
            for first in range(0, self.vectors, NOISE_BLOCK)
        ]
        own: list[tuple[int, Tensor]] = []
        failure: Exception | None = None
        try:
            for first, features in self._own_features(blocks[processes.rank :: processes.size], encoder):
                own.append((first, features))
                advance(features.shape[0] * features.shape[1])
        except Exception as error:  # the other processes must hear of it before anybody leaves
            failure = error
        if processes.any(failure is not None):
            raise failure or RuntimeError("The probe failed on another process; its log has the reason.")
        dim = processes.same(own[0][1].shape[-1] if own else 0)
        kind = own[0][1] if own else torch.zeros(0, device=self.device)
        whole = kind.new_zeros(len(cells) * self.vectors, self.plan.signs, dim)
        for first, features in own:
            whole[first : first + len(features)] = features
        whole = processes.sum(whole)
        if not bool(torch.isfinite(whole).all()):
            bad = int((~torch.isfinite(whole)).any(-1).sum())
            raise ValueError(
                f"The encoder's features are NaN or infinite for {bad} of {whole[..., 0].numel()} examples."
            )
        return whole.cpu() if whole.device.type == "mps" else whole  # which has no float64

    def _own_features(
        self, blocks: Sequence[tuple[int, int, int, int]], encoder: Callable[[Tensor], Any]
    ) -> Iterator[tuple[int, Tensor]]:
        """Row of a block's first noise vector, and its features ``(vectors, signs, D)``, block by block."""
        per_batch = max(1, self.batch_size // (self.plan.signs * NOISE_BLOCK))
        for position in range(0, len(blocks), per_batch):
            batch = blocks[position : position + per_batch]
            examples = [self._examples(task, scale, first) for _, task, scale, first in batch]
            x = torch.cat(examples)
            found = torch.cat([_encoded(encoder, part) for part in x.split(self.batch_size)])
            for (row, *_), features in zip(batch, found.split([len(block) for block in examples]), strict=True):
                yield row, features.unflatten(0, (self.plan.signs, -1)).transpose(0, 1)

    def _examples(self, task: int, scale: int, first: int) -> Tensor:
        """Examples of one block, ``(signs * vectors, *input_shape)``, those of the plus sign first."""
        noise = self._noise(task, scale, first)
        shift = self.tasks[task].direction.to(self.device) * self._factor * self.plan.scales[scale]
        if self.plan.signs == 2:
            return torch.cat([noise + shift, noise - shift])
        signs = self._signs()[first : first + len(noise)].reshape(-1, *[1] * shift.ndim)
        return torch.addcmul(noise, signs, shift.unsqueeze(0))

    def _noise(self, task: int, scale: int, first: int) -> Tensor:
        key = (task, scale, first)
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        name, value = self.tasks[task].name, self.plan.scales[scale]
        noise = noise_block(self.seed, name, value, first // NOISE_BLOCK, self.input_shape, self.device)
        noise = noise[: self.vectors - first] * self._factor + self._offset
        if self._kept is not None:
            self._kept[key] = noise
        return noise

    def _signs(self) -> Tensor:
        """The classes of the official protocol's samples, ``(vectors,)``: in turn +1 and -1."""
        return 1.0 - 2.0 * (torch.arange(self.vectors, device=self.device) % 2)


def _encoded(encoder: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    try:
        output = encoder(x)
    except Exception as error:
        raise RuntimeError(
            f"The encoder failed on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {error}. If its inputs "
            "have another shape, pass `input_shape=`; if it takes other arguments or is another module, pass a "
            "callable `encoder=lambda pl_module, x: ...` or the name of the module."
        ) from error
    return feature_matrix(output, len(x))


class _Advance:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def __call__(self, examples: int) -> None:
        self.done += examples
        if self.progress is not None:
            self.progress(min(self.done, self.total), self.total)


def check_batch_size(batch_size: int) -> int:
    """The batch size.

    Raises:
        ValueError: if it is not a positive integer.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive integer, got {batch_size!r}.")
    return batch_size


def check_seed(seed: int) -> int:
    """The seed.

    Raises:
        ValueError: if it is not an integer of at least 0.
    """
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0, got {seed!r}.")
    return seed


def _affine(normalize: Normalize | None, shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Offset and factor, broadcastable to an input, of ``(x + 0.5 - mean) / std``."""
    if normalize is None:
        return torch.zeros((), device=device), torch.ones((), device=device)
    try:
        mean, std = (torch.as_tensor(values, dtype=torch.float32, device=device) for values in normalize)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`normalize` must be a pair (mean, std) of numbers or of numbers per channel, got {normalize!r}."
        ) from error
    for name, values in (("mean", mean), ("std", std)):
        if values.ndim > 1 or (values.ndim == 1 and len(values) not in (1, shape[0])):
            raise ValueError(
                f"`normalize`: {name} must be a number or {shape[0]} numbers, one for each channel of an input of "
                f"shape {shape}, got {values.tolist()}."
            )
    if not bool((std > 0).all()):
        raise ValueError(f"`normalize`: std must be positive, got {std.tolist()}.")
    columns = [1] * (len(shape) - 1)
    return ((0.5 - mean) / std).reshape(-1, *columns), (1 / std).reshape(-1, *columns)
