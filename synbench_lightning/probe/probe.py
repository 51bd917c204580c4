"""Probe an encoder: Gaussian and labeled tasks, information of views, readout of labels, layers."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synbench_lightning.checks import check_integer
from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy
from synbench_lightning.functional.gaussian.discriminant import accuracy_and_bound, check_epsilons, class_moments
from synbench_lightning.functional.gaussian.pooled_covariance import expected_seconds
from synbench_lightning.functional.gaussian.score import check_thresholds, synbench_score
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.functional.representation.readout import Readout, few_label_readout
from synbench_lightning.functional.representation.spectrum import spectrum_statistics
from synbench_lightning.probe.batched_encoding import BatchedEncoding
from synbench_lightning.probe.families import Task, resolve_tasks
from synbench_lightning.probe.labelled_inputs import LabelledInputs, Labels
from synbench_lightning.probe.layers import Information, layer_results
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.proxy_samples import Normalize, ProxySamples, as_it_is, labelled_examples
from synbench_lightning.probe.result import ProbeResult, as_table
from synbench_lightning.probe.tasks import GaussianTask, LabelledTask
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.probe.views import ViewedInputs, viewed_inputs
from synbench_lightning.runtime.collectives import Processes, Progress, SingleProcess
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.features import FeatureReader
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.layer_reading import LayerReader
from synbench_lightning.runtime.placements import Proxy

FEW = 3
"""Number of examples in the forward in which layers are selected."""
LONG = 10.0
"""Statistics that are expected to take more seconds than this trigger a warning."""
UNCLEAR = 0.1
"""Larger standard errors of a score due to too few forwards trigger a warning."""
OFFICIAL_THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99)


class Probe:
    """A probe of fixed tasks, plan, inputs and labels that can be run on an encoder any number of times.

    The arguments are those of :func:`evaluate`, plus the encoder's module, if there is one, how it is called, and the
    reader of its layers. In addition to the features, memory holds one batch, and the noise if it fits into 256 MiB.
    """

    def __init__(
        self,
        tasks: str | Sequence[Task],
        plan: ProbePlan | str,
        input_shape: Sequence[int] | None,
        *,
        epsilons: Sequence[float],
        thresholds: Sequence[float],
        batch_size: int,
        normalize: Normalize | None,
        inputs: Any,
        views: Views | None = None,
        labels: Labels | None = None,
        seed: int,
        device: torch.device,
        module: nn.Module | None = None,
        call: EncoderCall | None = None,
        layers: LayerReader | None = None,
    ) -> None:
        self.tasks = () if input_shape is None else resolve_tasks(tasks, input_shape)
        self.plan = ProbePlan.of(plan)
        self.epsilons = check_epsilons(epsilons)
        self.thresholds = check_thresholds(thresholds, self.plan.lowest_threshold)
        self.batch_size = check_integer("batch_size", batch_size, 1)
        reached = float(optimal_accuracy(self.plan.scales[-1]))
        if reached <= max(self.thresholds):
            raise ValueError(
                f"`plan`: at its largest scale, {self.plan.scales[-1]:g}, the best possible accuracy is {reached:.3f}, "
                f"below the threshold {max(self.thresholds):g}: the score is undefined. Raise `max_scale`."
            )
        self._warned = self._announced = self._judged = False
        self._read = FeatureReader(module)
        self.layers = layers
        gaussian = [task for task in self.tasks if isinstance(task, GaussianTask)]
        self.labelled = [task for task in self.tasks if isinstance(task, LabelledTask)]
        self.seed, self.device = check_integer("seed", seed, 0), device
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self._fixed_size = None if call is None else call.batch_size
        self._samples = None
        if input_shape is not None:
            given = as_it_is if call is None else Proxy
            self._samples = ProxySamples(
                gaussian, self.plan, normalize=normalize, seed=seed, device=device, given=given
            )
        self.given_shape = self.input_shape
        if call is not None and (call.placement is None or call.placement.kind != "input"):
            self.given_shape = None if call.input is None else call.input.shape
        self.shown = viewed_inputs(inputs, views, self.given_shape, seed, device)
        self.with_labels = None
        if labels is not None:
            self.with_labels = LabelledInputs(labels, inputs, self.given_shape, device)

    @property
    def samples(self) -> ProxySamples:
        """The examples of the Gaussian tasks; only if there are any."""
        assert self._samples is not None
        return self._samples

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about views that may not be as intended."""
        return () if self.shown is None else self.shown.warnings

    @property
    def num_forwards(self) -> int:
        """Number of examples that one probe encodes, over all processes."""
        shown = 0 if self.shown is None else self.shown.num_inputs * self.shown.draws
        labelled = sum(task.num_examples for task in self.labelled)
        few = 0 if self.with_labels is None else self.with_labels.num_inputs
        gaussian = self.plan.num_forwards(len(self.samples.tasks)) if self._samples else 0
        return gaussian + labelled + shown + few

    def __call__(
        self,
        encoder: Callable[[Tensor], Any],
        processes: Processes | None = None,
        progress: Progress | None = None,
    ) -> ProbeResult:
        """Probe an encoder that is ready to be run (see :func:`synbench_lightning.runtime.isolation.isolated`).

        Args:
            encoder: from a batch ``(N, *input_shape)`` on the probe's device to features.
            processes: processes that share the work; each of them must make this call.
            progress: called with the number of finished examples and their total on this process.

        Raises:
            ValueError: if the features are not finite; the errors of :class:`FeatureReader`.
            RuntimeError: if the encoder raises; if the probe failed on another process.
        """
        start = time.perf_counter()
        processes = processes or SingleProcess()
        encoding = BatchedEncoding(
            encoder, self._read, self.input_shape or (), self.device, self.batch_size, self.num_forwards, processes,
            progress, self._fixed_size,
        )  # fmt: skip
        try:
            found = self._gaussian(encoding) if self._samples else None
            told, features = self._input_metrics(encoding)
        finally:
            self.batch_size = encoding.batch_size
        if found is None:
            found = _without_tasks(features)
        rank, alpha, deviation = spectrum_statistics(found.eigenvalues, found.variances)
        result = ProbeResult(
            tasks=tuple(task.name for task in self.tasks),
            epsilons=self.epsilons,
            thresholds=self.thresholds,
            accuracy=as_table(found.accuracy),
            bound=as_table(found.bound),
            standard_errors=None if found.standard_errors is None else as_table(found.standard_errors),
            labelled=tuple(task.name for task in self.labelled),
            plan=self.plan,
            feature_dim=found.feature_dim,
            effective_rank=rank,
            alpha_req=alpha,
            feature_std=deviation,
            **told,
            input_shape=self.input_shape,
            num_forwards=self.num_forwards,
            seed=self.seed,
            seconds=time.perf_counter() - start,
        )
        return processes.broadcast(result)

    def _gaussian(self, encoding: BatchedEncoding) -> _Found:
        found = self._limit(encoding) if self.plan.protocol == "fast" else self._official(encoding)
        return self._with_labelled(found, encoding) if self.labelled else found

    def _limit(self, encoding: BatchedEncoding) -> _Found:
        features = encoding.features(self.samples.examples(self.samples.cells))
        dim, scales = features.shape[-1], self.plan.scales
        shaped = features.unflatten(0, (len(self.samples.tasks), len(scales), -1))
        if encoding.processes.rank == 0:
            self._announce(dim)
        found = []
        for rows in self._groups:
            found.append(estimate_limit(shaped if len(self._groups) == 1 else shaped[rows], scales, self.epsilons))
        order = torch.tensor([row for rows in self._groups for row in rows]).argsort()

        def scores(accuracy: Tensor, bound: Tensor) -> Tensor:
            return synbench_score(accuracy, bound, scales, self.thresholds, self.plan.weights)

        fields = list(zip(*found, strict=True))
        accuracy, bound = (torch.cat(curves).cpu()[order] for curves in fields[:2])
        replicates = (torch.cat(curves, 1).cpu()[:, order] for curves in fields[2:4])
        uncorrected = (torch.cat(curves).cpu()[order] for curves in fields[4:6])
        value = scores(accuracy, bound)
        of_noise = jackknife_error(value, scores(*replicates))
        of_correction = found[0].correction_error * (value - scores(*uncorrected)).abs()
        if encoding.processes.rank == 0 and not self._warned:
            groups = zip(found, self._groups, strict=True)
            unresolved = [(one.rank, len(rows)) for one, rows in groups if not one.resolved]
            decides = torch.where(of_correction > of_noise, of_correction, 0.0)[:, 0, 0]
            self._warn_too_few(dim, unresolved, float(decides.max()))
        errors = of_noise.hypot(of_correction)
        return _Found(accuracy, bound, errors, dim, found[0].eigenvalues, found[0].variances)

    def _input_metrics(self, encoding: BatchedEncoding) -> tuple[dict[str, Any], Tensor | None]:
        """Measure inputs and labels, if any; returns fields of :class:`ProbeResult` and features ``(N, D)``."""
        told: dict[str, Any] = {}
        information: list[Information] | None = None
        readouts: list[Readout] | None = None
        features: list[Tensor] = []
        if self.shown is not None:
            features = self._of_layers(encoding, self.shown)
            of_inputs = features[-1]
            information = [Information.of(of_layer) for of_layer in features]
            told["information"], told["information_error"], told["information_replicates"] = information[-1]
            told["information_kind"], told["inputs"] = self.shown.kind, self.shown.identity
        if self.with_labels is not None:
            features = self._of_layers(encoding, self.with_labels)
            readouts = [few_label_readout(of_layer, self.with_labels.labels) for of_layer in features]
            told["readout"], told["readout_error"] = readouts[-1].value, readouts[-1].error
            told["readout_replicates"] = tuple(map(tuple, readouts[-1].replicates.tolist()))
            told["labels"] = self.with_labels.identity
            if self.shown is not None and not self._judged and encoding.processes.rank == 0:
                self._judged = True
                if (words := self.with_labels.lost_under_views(features[-1], self.shown, of_inputs)) is not None:
                    warnings.warn(words, stacklevel=4)  # mutants: which line is named
        if self.layers is not None and features:
            widths = [of_layer.shape[-1] for of_layer in features]
            names, in_heads = self.layers.names, self.layers.in_heads
            told["layers"] = layer_results(names, widths, information, readouts, in_heads)
        return told, features[-1].flatten(0, -2) if features else None

    def _of_layers(self, encoding: BatchedEncoding, source: ViewedInputs | LabelledInputs) -> list[Tensor]:
        """Features ``(..., D)`` of the layers that are read, if any, then of the encoder's output."""
        if self.layers is not None and not self.layers.chosen:
            self._choose_layers(self.layers, encoding, source)
        if self.layers is None:
            return [source.features(encoding)]
        with self.layers.attached(self._read, encoding.input_shape) as read, encoding.reading(read):
            features = source.features(encoding)
        read.widths = encoding.processes.broadcast(read.widths)  # another process may have had no example
        return read.split(features)

    def _choose_layers(
        self, layers: LayerReader, encoding: BatchedEncoding, source: ViewedInputs | LabelledInputs
    ) -> None:
        """Select the layers; with ``layers="auto"``, skip them if that fails or there are fewer than two."""
        few = source.few(encoding, self._fixed_size or FEW)
        try:
            size = num_examples(few)
            if size is None:
                raise ValueError("layers cannot be read for inputs without a batch dimension")
            layers.choose(partial(encoding.encoder, few), self._read, size, encoding.input_shape, encoding.processes)
        except Exception as error:
            if not layers.automatic:
                raise
            self.layers = None
            warnings.warn(
                f"The layers of the encoder could not be read and are skipped: {type(error).__name__}: {error}",
                stacklevel=4,  # mutants: which line is named
            )
        else:
            if layers.automatic and len(layers.names) < 2:
                self.layers = None

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Tasks grouped by noise color: one covariance is estimated from all tasks of a group."""
        groups: dict[int, list[int]] = {}
        for row, task in enumerate(self.samples.tasks):
            groups.setdefault(id(task.colour), []).append(row)
        return list(groups.values())

    def _announce(self, dim: int) -> None:
        expected = sum(expected_seconds(len(rows) * self._rows_of_a_task, dim) for rows in self._groups)
        if expected > LONG and not self._announced:
            self._announced = True
            warnings.warn(
                f"The statistics of {dim:,} features will take about {expected:.0f} s on two CPU cores in each probe. "
                "Average the features over space, or use fewer forwards (`plan=ProbePlan(forwards=...)`).",
                stacklevel=4,  # mutants: which line is named
            )

    @property
    def _rows_of_a_task(self) -> int:
        return self.samples.vectors * self.plan.signs * len(self.plan.scales)

    def _warn_too_few(self, dim: int, unresolved: Sequence[tuple[int, int]], error: float) -> None:
        """Warn if there are too few forwards.

        Args:
            dim: dimensions of the features.
            unresolved: rank and number of tasks of each group whose covariance the forwards do not resolve.
            error: largest standard error of the tasks' scores that is due to the finite-sample correction, not to
                noise; at epsilon 0 and the lowest threshold, where it is smallest.
        """
        if not unresolved and error <= UNCLEAR:  # mutants: equal with probability 0
            return
        self._warned = True
        # The error falls as forwards ** -1.5: both the correction and its relative error shrink.
        needed = self.plan.forwards * (2 * error / UNCLEAR) ** (2 / 3)
        forwards = self.plan.num_forwards(len(self.samples.tasks))
        by = f" by {error:.2f}" if error > UNCLEAR else ""  # mutants: equal with probability 0
        off = f"scores may be off{by}, as their standard errors indicate"
        if unresolved:
            rank, tasks = unresolved[0]
            needed = max(needed, 4 * dim * len(self.samples.tasks) / tasks)
            words = (
                f"The representation varies in {rank} of its {dim} dimensions, more than {forwards} forwards "
                f"resolve: the discriminants are ridge-regularized, and {off}."
            )
        else:
            words = (
                f"{forwards} forwards are too few for {len(self.samples.tasks)} tasks and this representation "
                f"of {dim} dimensions: {off}."
            )
        enough = 256 * math.ceil(needed / 256)
        warnings.warn(
            f"{words} Use `plan=ProbePlan(forwards={enough})` or more.", stacklevel=4
        )  # mutants: which line is named

    def _official(self, encoding: BatchedEncoding) -> _Found:
        labels = (self.samples.signs > 0).long()  # mutants: signs are 1 and -1
        half, scales = self.samples.vectors // 2, self.plan.scales
        found: list[Tensor] = []
        pooled: Tensor | None = None
        for cell in self.samples.cells:
            features = encoding.features(self.samples.examples([cell]))[:, 0]
            of_both = labels.to(features.device)
            if cell[0] in self._groups[0]:
                covariance = class_moments(features.double(), of_both, 2)[1] / (len(scales) * len(self._groups[0]))
                pooled = covariance if pooled is None else pooled + covariance
            train, test = (features[:half], of_both[:half]), (features[half:], of_both[half:])
            found.append(torch.stack(accuracy_and_bound(*train, *test, self.epsilons)))
        accuracy, bound = torch.stack(found, 1).unflatten(1, (len(self.samples.tasks), -1)).transpose(2, 3)
        assert pooled is not None
        eigenvalues = torch.linalg.eigvalsh(pooled).clamp_min(0)
        return _Found(accuracy, bound, None, features.shape[-1], eigenvalues, pooled.diagonal())

    def _with_labelled(self, gaussian: _Found, encoding: BatchedEncoding) -> _Found:
        """Insert the labeled tasks at their positions in the family; their curves are constant over the scales."""
        curves, errors = [torch.stack(pair) for pair in zip(gaussian.accuracy, gaussian.bound, strict=True)], []
        limits = 1 - torch.tensor(self.thresholds, dtype=torch.float64)
        for task in self.labelled:
            features, labels = encoding.features(labelled_examples(task))[:, 0].cpu(), task.labels
            halves = [(features[part], labels[part]) for part in (task.fold, ~task.fold)]
            both = [torch.stack(accuracy_and_bound(*halves[a], *halves[b], self.epsilons)) for a, b in ((0, 1), (1, 0))]
            found = torch.stack(both).mean(0)
            curves.append(found[..., None].expand(-1, -1, len(self.plan.scales)))
            errors.append((found[0] * (1 - found[0]) / task.num_examples).sqrt()[:, None] / limits)
        places = {id(task): row for row, task in enumerate((*self.samples.tasks, *self.labelled))}
        order = torch.tensor([places[id(task)] for task in self.tasks])
        accuracy, bound = torch.stack(curves)[order].unbind(1)
        of_all = None
        if gaussian.standard_errors is not None:
            of_all = torch.cat([gaussian.standard_errors, torch.stack(errors)])[order]
        return gaussian._replace(accuracy=accuracy, bound=bound, standard_errors=of_all)


def _without_tasks(features: Tensor | None) -> _Found:
    """Results without Gaussian tasks: the covariance of the inputs' features alone."""
    assert features is not None
    centred = features.double() - features.double().mean(0)
    eigenvalues = torch.linalg.svdvals(centred).square() / max(len(centred) - 1, 1)
    none = torch.empty(0, 0, 0)
    return _Found(none, none, none, features.shape[1], eigenvalues, centred.var(0))


class _Found(NamedTuple):
    """Accuracy and bound ``(T, E, K)``, standard errors ``(T, E, H)`` of the scores, dimension of the features.

    Eigenvalues and variances ``(D,)`` are those of the within-class covariance, pooled over the scales and over the
    tasks with the same noise color as the first.
    """

    accuracy: Tensor
    bound: Tensor
    standard_errors: Tensor | None
    feature_dim: int
    eigenvalues: Tensor
    variances: Tensor
