"""A benchmark during training: complete at first, then predicted from the points that tell most."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.benchmark.tasks import Benchmark, Tasks
from synbench_lightning.callbacks.probing import ProbingCallback
from synbench_lightning.checks import check_integer, check_number
from synbench_lightning.functional.benchmark.estimation import Estimate, mean_of_tasks, minimum_detectable_difference
from synbench_lightning.functional.benchmark.prediction import (
    Method,
    change_of_benchmark,
    choose_points,
    forecast,
    predict_tasks,
)
from synbench_lightning.functional.benchmark.residuals import aipw
from synbench_lightning.functional.benchmark.selection import Selection, stratified
from synbench_lightning.runtime.distributed import Progress, StrategyProcesses
from synbench_lightning.runtime.encoder import EncoderSpec
from synbench_lightning.runtime.features import FeatureReader, module_behind


class BenchmarkCallback(ProbingCallback[BenchmarkResult]):
    """Evaluate a benchmark of labelled tasks while training, completely at first and then on few of its points.

    The benchmark is the mean over its tasks of the mean log-likelihood of the right label, in nats. In a warm-up every
    point is evaluated. Then points are drawn, likelier the worse they could be forecast, and from there only those are
    evaluated. The others are forecast from the complete evaluations, and corrected by how far off that is for the drawn
    points. Every so often some other points are drawn at random for an audit, which finds the error
    without bias. Training is not changed by any of it.

    Logged, one point for each evaluation, over the number of training steps made before it:

    ======================================= ==============================================================
    ``benchmark/value``                     the benchmark, predicted after the warm-up: the one to monitor, higher is
                                            better
    ``benchmark/value_se``                  its standard error; 0 where all points were evaluated
    ``benchmark/low``, ``benchmark/high``   its interval of 95 percent
    ``benchmark/task/<name>``               value of each task
    ``benchmark/task/<name>_low``, _high    its interval of 95 percent
    ``benchmark/points``                    points evaluated
    ``benchmark/detectable_difference``     the smallest change since the last evaluation that would be seen; after the
                                            warm-up
    ``benchmark/audit_error``               prediction minus what the audit found; at audits
    ``benchmark/audit_error_se``            its standard error, from the audit
    ``benchmark/probe_seconds``             wall-clock time of the evaluation
    ``benchmark/overhead``                  time spent in evaluations so far, as a fraction of the time since training
                                            started
    ======================================= ==============================================================

    Args:
        tasks: a dataset for each task, by name, whose items are pairs ``(input, label)`` with labels from 0 on; or a
            DataLoader, which says how batches are collated. Proxy tasks: :func:`labelled_proxies`. No random
            augmentation: a point must be the same in each evaluation.
        budget: share of the points that is evaluated after the warm-up, in (0, 1]; at least two of each task.
        log_likelihood: ``(pl_module, batch) -> (N,)``: the log-likelihood of the right label of each example of a
            collated batch, at most 0. ``None``: a closed-form few-shot discriminant on the encoder's features.
        encoder: what gives the features, as in :class:`SynBenchCallback`; not with ``log_likelihood``.
        support: examples of each task that the discriminant is fitted to, at least two of each class; they are encoded
            in each evaluation and are no points.
        warmup: complete evaluations before points are chosen.
        method: how points are chosen in each task: ``"residual"``, drawn with probabilities that grow with how far off
            the forecasts of a point were in the warm-up; unbiased, with an interval that covers, and not worse than
            random drawing on any of the matrices of ``python -m tests.benchmarks.points``; ``"random"``, drawn all
            alike; ``"clusters"``, those nearest to the centres of clusters of the curves that the warm-up has seen: no
            probability stands behind its interval.
        audit_every: evaluations from one audit to the next, after the warm-up; ``None`` for no audits.
        audit: share of the points that an audit draws besides, in (0, 1]; at least two of each task.
        every_n_train_steps: optimizer steps between evaluations.
        every_n_epochs: epochs between evaluations; if given, it takes the place of ``every_n_train_steps``.
        probe_at_start: evaluate before the first step.
        probe_at_end: evaluate when training ends, if the last step was not evaluated.
        max_overhead: the fraction of the time since training started that evaluations may take, in (0, 1]; one that
            would exceed it is put off by one interval.
        batch_size: examples in one forward.
        seed: of support sets, choices and audits.
        prefix: of the logged keys; two callbacks in one trainer need two.
        on_error: ``"warn"``: an evaluation that fails is left out with a warning; ``"raise"``: it ends the run. The
            first one of a run raises in either case.

    Raises:
        ValueError: for an argument outside its range; at fit start if no encoder is found.

    Example:
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.randn(200, 32, generator=torch.Generator().manual_seed(0))
        >>> tasks = {"sign": TensorDataset(x, (x[:, 0] > 0).long()), "sum": TensorDataset(x, (x.sum(1) > 0).long())}
        >>> benchmark = BenchmarkCallback(tasks, budget=0.2, warmup=2, support=50, every_n_train_steps=10)
        >>> trainer = Trainer(max_steps=30, callbacks=[benchmark], logger=False, enable_checkpointing=False,
        ...                   enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(BoringModel())
        >>> [(result.step, result.num_points) for result in benchmark.history]
        [(0, 300), (10, 300), (20, 60), (30, 60)]
    """

    monitored = "value"
    title = "benchmark evaluation"

    def __init__(
        self,
        tasks: Tasks,
        budget: float = 0.05,
        *,
        log_likelihood: Callable[[LightningModule, Any], Tensor] | None = None,
        encoder: EncoderSpec = None,
        support: int = 100,
        warmup: int = 10,
        method: Method = "residual",
        audit_every: int | None = 5,
        audit: float = 0.02,
        every_n_train_steps: int = 1000,
        every_n_epochs: int | None = None,
        probe_at_start: bool = True,
        probe_at_end: bool = True,
        max_overhead: float | None = None,
        batch_size: int = 256,
        seed: int = 0,
        prefix: str = "benchmark",
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if log_likelihood is not None and not callable(log_likelihood):
            raise ValueError(
                f"`log_likelihood` must be a callable (pl_module, batch) -> (N,) or None, got {log_likelihood!r}."
            )
        if log_likelihood is not None and encoder is not None:
            raise ValueError("`encoder` is of no use beside `log_likelihood`, which answers by itself: pass one.")
        super().__init__(
            encoder if log_likelihood is None else log_likelihood, every_n_train_steps, every_n_epochs, probe_at_start,
            probe_at_end, max_overhead, prefix, on_error,
        )  # fmt: skip
        if method not in get_args(Method):
            raise ValueError(f"`method` must be 'residual', 'clusters' or 'random', got {method!r}.")
        self.budget = check_number("budget", budget, "a share of the points in (0, 1]", 0, 1, low_in=False)
        self.audit = check_number("audit", audit, "a share of the points in (0, 1]", 0, 1, low_in=False)
        self.audit_every = None if audit_every is None else check_integer("audit_every", audit_every, 1)
        self.warmup = check_integer("warmup", warmup, 1)
        self.method = method
        self.seed = check_integer("seed", seed, 0)
        self.benchmark = Benchmark(
            tasks,
            support=check_integer("support", support, 4) if log_likelihood is None else 0,
            batch_size=batch_size,
            seed=self.seed,
        )
        self.curves: list[Tensor] = []
        """Log-likelihoods ``(n,)`` of all points in each complete evaluation, float32."""
        self.selection: Selection | None = None
        """The points that are evaluated after the warm-up."""
        self._before: Tensor | None = None  # values of the selection in the evaluation before
        self._read = FeatureReader(None)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides whether a checkpoint's points are those of this callback."""
        return {
            "points": self.benchmark.settings, "budget": self.budget, "method": self.method, "warmup": self.warmup,
            "seed": self.seed,
        }  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """History, complete evaluations and selection, as tensors and plain types."""
        return {
            "history": [result.to_dict() for result in self.history],
            "curves": torch.stack(self.curves) if self.curves else None,
            "selection": None if self.selection is None else self.selection._asdict(),
            "before": self._before,
            "settings": self.settings,
            "last_step": self.schedule.last_step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of a checkpoint, and its selection if it was made for the same points."""
        super().load_state_dict(state_dict)
        self.history = [BenchmarkResult.from_dict(values) for values in state_dict["history"]]
        if state_dict["settings"] != self.settings:
            rank_zero_warn(
                "The benchmark of the checkpoint was another one, or evaluated otherwise: its values do not compare "
                "with those from here on, and all points are evaluated again for a warm-up. "
                f"Before: {state_dict['settings']}. Now: {self.settings}."
            )
            return
        self.curves = [] if state_dict["curves"] is None else list(state_dict["curves"])
        self.selection = None if state_dict["selection"] is None else Selection(**state_dict["selection"])
        self._before = state_dict["before"]

    def metrics(self, result: BenchmarkResult) -> dict[str, float]:
        """The logged values of a result by key, but for the overhead."""
        low, high = result.interval
        values = {"value": result.value, "value_se": result.standard_error, "low": low, "high": high}
        for name, value, limits in zip(result.tasks, result.task_values, result.task_intervals, strict=True):
            values |= {f"task/{name}": value, f"task/{name}_low": limits[0], f"task/{name}_high": limits[1]}
        values["points"] = result.num_points
        if result.detectable_difference is not None:
            values["detectable_difference"] = result.detectable_difference
        if result.audit_error is not None and result.audit_standard_error is not None:
            values |= {"audit_error": result.audit_error, "audit_error_se": result.audit_standard_error}
        values["probe_seconds"] = result.seconds
        return {f"{self.prefix}/{key}": float(value) for key, value in values.items()}

    def _forget(self) -> None:
        super()._forget()
        self.curves, self.selection, self._before = [], None, None

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        assert self._encoder is not None
        self._read = FeatureReader(module_behind(self._encoder.forward))
        sizes = ", ".join(f"{name} ({size:,})" for name, size in self.benchmark.settings.items())
        rank_zero_info(
            f"The benchmark is evaluated through {self._encoder.name}, every {self.schedule}: the points of {sizes}; "
            f"{self.benchmark.points(self.budget):,} of {len(self.benchmark.tasks):,} after a warm-up of {self.warmup} "
            "complete evaluations."
        )

    def _probe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        encoder: Callable[[Tensor], Any],
        processes: StrategyProcesses,
        progress: Progress | None,
    ) -> BenchmarkResult:
        start = time.perf_counter()

        def evaluated(places: Tensor) -> Tensor:
            device = trainer.strategy.root_device
            return self.benchmark.log_likelihoods(encoder, places, processes, progress, device, self._read)

        complete = self.selection is None
        if self.selection is None:
            values = evaluated(torch.arange(len(self.benchmark.tasks)))
            self.curves.append(values.float())
            estimates, difference, audited = self._exact(values), None, None
            if len(self.curves) == self.warmup:
                curves = torch.stack(self.curves)
                points = self.benchmark.points(self.budget)
                self.selection = choose_points(curves, self.benchmark.tasks, points, self.method, self.seed)
                self._before = values[self.selection.indices]
        else:
            extra = self._audit_points()
            values = evaluated(torch.cat([self.selection.indices, extra]))
            own, others = values.split([len(self.selection.indices), len(extra)])
            estimates = predict_tasks(own, self.selection, torch.stack(self.curves), self.benchmark.tasks)
            assert self._before is not None
            changed = change_of_benchmark(own - self._before, self.selection, self.benchmark.tasks)
            difference = float(minimum_detectable_difference(changed))
            audited = self._audited(own, extra, others) if len(extra) else None
            self._before = own
        whole = mean_of_tasks(estimates)
        found = BenchmarkResult(
            tasks=self.benchmark.names,
            value=float(whole.value),
            standard_error=float(whole.standard_error),
            interval=_limits(whole),
            task_values=tuple(float(estimate.value) for estimate in estimates),
            task_intervals=tuple(_limits(estimate) for estimate in estimates),
            complete=complete,
            num_points=len(values),
            detectable_difference=difference,
            audit_error=None if audited is None else float(whole.value - audited.value),
            audit_standard_error=None if audited is None else float(audited.standard_error),
            seconds=time.perf_counter() - start,
            step=trainer.global_step,
        )
        return processes.same(found)

    def _exact(self, values: Tensor) -> list[Estimate]:
        none = torch.zeros((), dtype=torch.float64)
        means = [values[own].mean() for own in self._of_tasks(torch.arange(len(values)))]
        return [Estimate(mean, none, torch.full_like(none, torch.inf)) for mean in means]

    def _audit_points(self) -> Tensor:
        """Points that are not in the selection: others in each audit, none where none is due or left."""
        assert self.selection is not None
        since = 1 + sum(not result.complete for result in self.history)
        left = torch.ones(len(self.benchmark.tasks), dtype=torch.bool)
        left[self.selection.indices] = False
        places, tasks = left.nonzero()[:, 0], self.benchmark.tasks[left]
        counts = torch.bincount(tasks, minlength=len(self.benchmark.names))
        if self.audit_every is None or since % self.audit_every or int(counts.min()) < 2:
            return places[:0]
        budget = min(self.benchmark.points(self.audit), len(places))
        return places[stratified(tasks, budget, self.seed + len(self.history)).indices]

    def _audited(self, own: Tensor, extra: Tensor, others: Tensor) -> Estimate:
        """The benchmark from the evaluated points and, for the rest, the audit: unbiased whatever the selection."""
        assert self.selection is not None
        indices, everything = self.selection.indices, torch.arange(len(self.benchmark.tasks))
        left = ~torch.isin(everything, indices)
        predictions = forecast(torch.stack(self.curves), self.benchmark.tasks).values
        found = []
        for task in range(len(self.benchmark.names)):
            mine, drawn, known = (self.benchmark.tasks[chosen] == task for chosen in (everything, extra, indices))
            rest = (mine & left).nonzero()[:, 0]
            share = len(rest) / int(mine.sum())
            places = torch.searchsorted(rest, extra[drawn])
            unseen = aipw(others[drawn], predictions[rest], places)
            value = share * unseen.value + (1 - share) * own[known].mean()
            found.append(Estimate(value, share * unseen.standard_error, unseen.degrees_of_freedom))
        return mean_of_tasks(found)

    def _of_tasks(self, places: Tensor) -> list[Tensor]:
        """Which of some points belong to each task."""
        tasks = self.benchmark.tasks[places]
        return [(tasks == task).nonzero()[:, 0] for task in range(len(self.benchmark.names))]


def _limits(estimate: Estimate) -> tuple[float, float]:
    low, high = estimate.interval()
    return float(low), float(high)
