"""The callback that evaluates a benchmark during training, completely at first and then on selected items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor

from synbench_lightning.benchmark.adaptive_evaluation import Climb, Climbed
from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.benchmark.tasks import Benchmark, Tasks, check_log_likelihood
from synbench_lightning.callbacks.metric_keys import keys_of
from synbench_lightning.callbacks.probing_callback import ProbingCallback
from synbench_lightning.callbacks.run_state import history_of
from synbench_lightning.checks import check_integer
from synbench_lightning.functional.benchmark.prediction import Method
from synbench_lightning.functional.benchmark.selection import Selection
from synbench_lightning.runtime.collectives import Progress, StrategyProcesses
from synbench_lightning.runtime.encoder import EncoderSpec
from synbench_lightning.runtime.features import FeatureReader, module_behind
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, rank_zero_info, rank_zero_warn


class BenchmarkCallback(ProbingCallback[BenchmarkResult]):
    """Evaluate a benchmark of labeled tasks while training, completely at first and then on a few of its items.

    The benchmark is the mean over its tasks of the mean log-likelihood of the right label, in nats. In a warm-up every
    item is evaluated. Then items are sampled with a probability that grows with the forecast error in the warm-up, and
    from there on only those are evaluated. The others are forecast from the complete evaluations, and the mean residual
    of the sampled items corrects the forecasts (AIPW). Every few evaluations a random audit of other items estimates
    the error without bias. Training stays bit-for-bit identical.

    ``benchmark/value`` is the key to monitor. All keys: ``docs/logged.md``.

    Args:
        tasks: a dataset for each task, by name, whose items are pairs ``(input, label)`` with labels from 0 on; or a
            DataLoader, for its collate function. Without random augmentation. For proxies: :func:`labelled_proxies`.
        budget: fraction of the items that is evaluated after the warm-up, in (0, 1]; at least two of each task.
        log_likelihood: ``(pl_module, batch) -> (N,)``, the log-likelihood of the right label of each example of a
            collated batch, at most 0; or 1 and 0 for right and wrong answers, for which an item response model makes
            the forecasts where it is better. ``None``: a closed-form few-shot discriminant on the encoder's features.
        encoder: the source of the features, as in :class:`SynBenchCallback`; not with ``log_likelihood``.
        support: examples of each task that the discriminant is fitted to, at least two of each class; they are encoded
            in each evaluation and are not items.
        warmup: number of complete evaluations before items are selected.
        method: how items are selected in each task. ``"residual"``: sampled in proportion to their forecast errors;
            unbiased, and on all matrices of ``python -m tests.performance.points`` better than uniform sampling, or as
            good within a tenth. ``"random"``: sampled uniformly. ``"clusters"``: nearest to the cluster centers of the
            warm-up's curves; the interval has no guaranteed coverage.
        audit_every: number of evaluations between audits, after the warm-up; ``None`` for no audits.
        audit: fraction of the items that an audit samples in addition, in (0, 1]; at least two of each task.
        every_n_train_steps: optimizer steps between evaluations.
        every_n_epochs: epochs between evaluations; if given, it replaces ``every_n_train_steps``.
        probe_at_start: evaluate before the first step.
        probe_at_end: evaluate when training ends, if the last step was not evaluated.
        max_overhead: the fraction of the time since training started that evaluations may take, in (0, 1]; an
            evaluation that would exceed it is deferred by one interval.
        batch_size: examples in one forward.
        seed: of support sets, selections and audits.
        prefix: of the logged keys; two callbacks in one trainer need two.
        on_error: ``"warn"``: an evaluation that fails is skipped with a warning; ``"raise"``: it ends the run. The
            first one of a run raises in either case.

    Raises:
        ValueError: for an argument outside its range; at fit start if no encoder is found.

    Example:
        >>> import torch
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
        check_log_likelihood(log_likelihood)
        if log_likelihood is not None and encoder is not None:
            raise ValueError("`encoder` and `log_likelihood` are mutually exclusive: pass one of them.")
        super().__init__(
            encoder=encoder if log_likelihood is None else log_likelihood, every_n_train_steps=every_n_train_steps,
            every_n_epochs=every_n_epochs, probe_at_start=probe_at_start, probe_at_end=probe_at_end,
            max_overhead=max_overhead, batch_size=batch_size, seed=seed, prefix=prefix, on_error=on_error,
        )  # fmt: skip
        support = check_integer("support", support, 4) if log_likelihood is None else 0
        self.benchmark = Benchmark(tasks, support=support, batch_size=self.batch_size, seed=self.seed)
        self.climb = Climb(
            self.benchmark, budget=budget, method=method, warmup=warmup, audit_every=audit_every, audit=audit,
            seed=self.seed,
        )  # fmt: skip
        self._read = FeatureReader(None)

    def _begin(self) -> None:
        super()._begin()
        self._climbed = self._next = Climbed()  # after the evaluations that count, and with one that may yet fail

    @property
    def curves(self) -> tuple[Tensor, ...]:
        """Log-likelihoods ``(n,)`` of all items in each complete evaluation, float32."""
        return self._climbed.curves

    @property
    def selection(self) -> Selection | None:
        """The items that are evaluated after the warm-up."""
        return self._climbed.selection

    def _state(self) -> dict[str, Any]:
        history = [result.to_dict() for result in self.history]
        return {"history": history, **self._climbed.to_dict(), "settings": self.climb.settings}

    @classmethod
    def _history_of(cls, state: Any) -> list[BenchmarkResult]:
        return history_of(state, BenchmarkResult.from_dict)

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        super()._restore_state(state)
        settings = self.climb.settings
        if state["settings"] == settings:
            self._climbed = Climbed.from_dict(state)
        else:
            rank_zero_warn(
                "The benchmark of the checkpoint was another one, or evaluated otherwise: its values are not "
                "comparable to those from here on, and all items are evaluated again for a warm-up. "
                f"Before: {state['settings']}. Now: {settings}."
            )

    def _keep(self, result: BenchmarkResult) -> None:
        super()._keep(result)
        if self._climbed.selection is None and self._next.selection is not None:
            rank_zero_info(_worth(result))
        self._climbed = self._next

    def metrics(self, result: BenchmarkResult) -> dict[str, float]:
        """The logged values of a result by key, but for the overhead."""
        low, high = result.interval
        values = {"value": result.value, "value_se": result.standard_error, "value_low": low, "value_high": high}
        watched = list(values)
        for name, value, limits in zip(result.tasks, result.task_values, result.task_intervals, strict=True):
            values |= {f"task/{name}": value, f"task/{name}_low": limits[0], f"task/{name}_high": limits[1]}
        values["points"] = result.num_points
        if result.detectable_difference is not None:
            values["detectable_difference"] = result.detectable_difference
        if result.audit_error is not None and result.audit_standard_error is not None:
            values |= {"audit_error": result.audit_error, "audit_error_se": result.audit_standard_error}
        keys = ["", *(f"task/{name}_" for name in result.tasks)]
        if result.signal is not None and result.noise is not None:
            signals, noises = (result.signal, *result.task_signals), (result.noise, *result.task_noises)
            each = zip(keys, signals, noises, strict=True)
            values |= {f"{key}signal_to_noise": signal / noise for key, signal, noise in each if noise}
        if result.decision_accuracy is not None:
            values["decision_accuracy"] = result.decision_accuracy
        values["probe_seconds"] = result.seconds
        return keys_of(self.prefix, {name: float(value) for name, value in values.items()}, watched)

    def monitored(self, result: BenchmarkResult) -> str:
        """The logged key that matters most: the benchmark's value."""
        return f"{self.prefix}/value"

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        assert self._encoder is not None
        self._read = FeatureReader(module_behind(self._encoder.forward))
        sizes = ", ".join(f"{name} ({size:,})" for name, size in self.benchmark.settings.items())
        rank_zero_info(
            f"The benchmark is evaluated through {self._encoder.name}, every {self.schedule}: the points of {sizes}; "
            f"{self.benchmark.points(self.climb.budget):,} of {len(self.benchmark.tasks):,} after a warm-up of "
            f"{self.climb.warmup} complete evaluations."
        )

    def _also_called(self) -> Sequence[Callable[..., Any]]:
        return [*super()._also_called(), *self.benchmark.readers]

    def _probe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        encoder: Callable[[Tensor], Any],
        processes: StrategyProcesses,
        progress: Progress | None,
    ) -> BenchmarkResult:
        def evaluated(places: Tensor) -> Tensor:
            device = trainer.strategy.root_device
            return self.benchmark.log_likelihoods(encoder, places, processes, progress, device, self._read)

        found, self._next = self.climb.evaluate(self._climbed, self.history, evaluated, self.schedule.step(trainer))
        return processes.broadcast(found)


def _worth(result: BenchmarkResult) -> str:
    """What the complete evaluations say of the benchmark's worth for decisions."""
    told = []
    if result.decision_accuracy is not None:
        told.append(
            f"The chosen points put {result.decision_accuracy:.0%} of the pairs of complete evaluations in their true "
            "order."
        )
    if result.signal is not None and result.noise:
        told.append(f"The signal of the benchmark is {result.signal / result.noise:.1f} times its noise so far.")
    if result.silent_tasks:
        told.append(f"Tasks that tell nothing so far, in no other than random order: {', '.join(result.silent_tasks)}.")
    return " ".join(told) or "All points were evaluated for the warm-up; the chosen ones are evaluated from here on."
