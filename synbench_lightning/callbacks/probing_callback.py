"""The base class of callbacks that probe the module in training: schedule, isolation, and failures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from torch import Tensor

from synbench_lightning.callbacks.config_warnings import (
    interval_warnings,
    renamed_key_warnings,
    setup_warnings,
    unknown_key_warnings,
)
from synbench_lightning.callbacks.encoder_discovery import EncoderDiscovery
from synbench_lightning.callbacks.metric_keys import details_key, sections
from synbench_lightning.callbacks.metric_logging import ProbeListener, log_metrics_once, logger_step, notify_listeners
from synbench_lightning.callbacks.probe_history import HistoryCallback, R
from synbench_lightning.callbacks.progress import probe_progress
from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.callbacks.time_budget import TimeBudget
from synbench_lightning.checks import check_choice, check_integer, check_name, check_number
from synbench_lightning.runtime.collectives import Progress, StrategyProcesses
from synbench_lightning.runtime.encoder import Encoder, EncoderSpec, check_encoder, find_encoder
from synbench_lightning.runtime.encoder_call import plain_call
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from synbench_lightning.runtime.seeded_calls import modules_reached
from synbench_lightning.runtime.sharding import is_sharded, reachable_forward

MAX_FAILURES = 3
"""Consecutive failures after which no more probes are made."""


class ProbingCallback(HistoryCallback[R]):
    """Probes the module in training on a schedule, publishes the results, and saves them in checkpoints.

    A subclass defines what a probe is (:meth:`_probe`), what it is prepared with (:meth:`_prepare`), which values are
    logged (:meth:`metrics`), what belongs to one run (:meth:`_begin`) or to one fit (``_fit_scoped``), and how its
    state is saved (:meth:`_state`) and restored (:meth:`_restore_state`).

    The signatures of subclasses repeat the common arguments, for ``help``, editors and the command line. They are
    checked here.

    Args:
        encoder: what to probe, see :func:`~synbench_lightning.runtime.encoder.find_encoder`.
        every_n_train_steps: optimizer steps between probes.
        every_n_epochs: epochs between probes, in place of steps.
        probe_at_start: probe before the first step.
        probe_at_end: probe when training ends.
        max_overhead: the fraction of the time since training started that probes may take; ``None`` for no limit.
        batch_size: examples in one forward.
        seed: of all random samples.
        prefix: of the logged keys.
        on_error: ``"warn"`` or ``"raise"``.

    Raises:
        ValueError: for an argument outside its range.
    """

    title: str
    """What a probe is called in messages."""

    _fit_scoped: ClassVar[dict[str, Any]] = {**HistoryCallback._fit_scoped, "_encoder": None, "_prepared": False}

    def __init__(
        self,
        *,
        encoder: EncoderSpec,
        every_n_train_steps: int,
        every_n_epochs: int | None,
        probe_at_start: bool,
        probe_at_end: bool,
        max_overhead: float | None,
        batch_size: int,
        seed: int,
        prefix: str,
        on_error: Literal["warn", "raise"],
    ) -> None:
        check_encoder(encoder)
        schedule = Schedule(every_n_train_steps, every_n_epochs, probe_at_start, probe_at_end)
        if max_overhead is not None:
            check_number("max_overhead", max_overhead, "a fraction in (0, 1] or None", 0, 1, low_in=False)
        check_choice("on_error", on_error, ("warn", "raise"))
        self.encoder = encoder
        self.max_overhead = max_overhead
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.seed = check_integer("seed", seed, 0)
        self.on_error = on_error
        self._encoder: Encoder | None = None
        self._prepared = False
        self._budget = TimeBudget(max_overhead)
        super().__init__(schedule, check_name("prefix", prefix))

    def _begin(self) -> None:
        super()._begin()
        self._discovery = EncoderDiscovery(self.encoder)
        self._fresh = True  # no probe or restored state precedes the first batch
        self._failures = 0  # in a row

    @abstractmethod
    def metrics(self, result: R) -> dict[str, float]:
        """The logged values of a result by key, except the overhead."""

    @abstractmethod
    def monitored(self, result: R) -> str:
        """The logged key to monitor."""

    @abstractmethod
    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        """Prepare probes, once the first batch of a fit is known."""

    @abstractmethod
    def _probe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        encoder: Callable[[Tensor], Any],
        processes: StrategyProcesses,
        progress: Progress | None,
    ) -> R:
        """Make one probe; the module is isolated. Raises on every process or on none."""

    @property
    def pending(self) -> tuple[str, ...]:
        """Keys that will be logged later."""
        return ()

    def _after_logging(self, trainer: Trainer, result: R, metrics: Mapping[str, float], position: int) -> None:
        """Hook for further work after a result was published."""

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        super()._restore_state(state)
        self._fresh = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reject a prefix that two callbacks share."""
        callbacks = [c for c in trainer.callbacks if isinstance(c, ProbingCallback)]  # type: ignore[attr-defined]
        alike = [one for one in callbacks if not sections(one.prefix).isdisjoint(sections(self.prefix))]
        if len(alike) > 1:
            prefixes = list(dict.fromkeys(one.prefix for one in alike))
            have = f"the same `prefix={self.prefix!r}`" if len(prefixes) == 1 else f"the prefixes {prefixes}"
            raise ValueError(
                f"{' and '.join(type(one).__name__ for one in alike)} of one trainer have {have}, so that their "
                "values and states would collide: give each of them its own `prefix=`."
            )
        super().setup(trainer, pl_module, stage)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove all hooks from the module."""
        self._release()
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove all hooks from the module."""
        self._release()
        super().on_exception(trainer, pl_module, exception)

    def _release(self) -> None:
        """Remove all hooks from the module."""
        self._discovery.abandon()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the encoder, if it is named."""
        self._encoder, self._prepared = None, False
        self._resolve(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue a restored history, and warn about incompatible intervals."""
        super().on_train_start(trainer, pl_module)
        self.schedule.begin_fit(trainer)
        self._budget.begin()
        self._failures = 0
        if self.history:
            self._leave_history(trainer)
            last = self.history[-1]
            self._publish(trainer, last, self.metrics(last), position=None)
        intervals = interval_warnings(trainer, self.prefix, self.schedule, ProbeListener, type(self).__name__)
        for advice in (
            *setup_warnings(trainer),
            *renamed_key_warnings(trainer, self.prefix, ProbeListener),
            *intervals,
        ):
            rank_zero_warn(advice)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record the first training step; probe before it if nothing has to be recorded."""
        self.schedule.begin_batch()
        if self._prepared or self._discovery:
            return
        self._resolve(pl_module)
        unseen = self._discovery.call is None and self._discovery.possible(trainer.strategy, pl_module)
        if not unseen or (self.encoder is not None and self._can_probe_unobserved()):
            self._start(trainer, pl_module, batch)
        if unseen:
            self._discovery.begin(pl_module, batch, lambda: self._end_discovery(trainer, pl_module))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Any) -> None:
        """What activation checkpointing runs again is no call of training's own."""
        self._discovery.in_backward(True)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record calls again."""
        self._discovery.in_backward(False)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Probe before the first update, once the inputs of the encoder in training are known."""
        self._end_discovery(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe if due: `ModelCheckpoint` runs later in this step and sees the value."""
        if self._discovery:  # no optimizer has stepped: gradients are accumulated, or weights are updated manually
            by_hand = not (pl_module.automatic_optimization and trainer.optimizers)
            updated = by_hand and self._agreed(trainer, pl_module, self._discovery.is_updated(pl_module))
            if updated:
                self.schedule.count_uncounted()
            self._end_discovery(trainer, pl_module, batches=int(updated))
        self._discovery.end_step()
        if self._agreed(trainer, pl_module, self.schedule.due_after_batch(trainer, batch_idx)):
            self._make(trainer, pl_module, position=logger_step(trainer) + 1)

    def _ready(self) -> bool:
        """Whether the inputs of a probe are available."""
        return True

    def _read_deferred(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read inputs whose reading was deferred because of its cost."""

    @property
    def _given_shape(self) -> tuple[int, ...] | None:
        """The shape of one example, if given by the user."""
        return None

    def _can_probe_unobserved(self) -> bool:
        """Whether a named encoder can be probed before its inputs in training are known."""
        return True

    def _end_discovery(self, trainer: Trainer, pl_module: LightningModule, batches: int = 0) -> None:
        """End the recording of the first step, and probe; ``batches`` is added to the logged step."""
        if not self._discovery:
            return
        batch = self._discovery.end(trainer, pl_module, self._given_shape)
        if not (self._prepared or self._discovery.again):
            self._resolve(pl_module)
            with self._discovery.as_before_the_step():
                self._start(trainer, pl_module, batch, batches)

    def _resolve(self, pl_module: LightningModule, find: bool = False) -> None:
        """Look up the encoder by name, since the module of that name may have been replaced."""
        observed = self._discovery.encoder(pl_module)
        if observed is not None:
            self._encoder = observed
        elif find or self.encoder is not None:
            found = find_encoder(pl_module, self.encoder)
            self._encoder = found._replace(forward=partial(plain_call, found.forward))

    def _start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batches: int = 0) -> None:
        """Prepare the probes of a fit, and make the first one; after a resume, only if one was missed."""
        self._resolve(pl_module, find=True)
        self._prepare(trainer, pl_module, batch)
        self._prepared = True
        due = self.schedule.due_at_first_batch(trainer, self._fresh)
        self._fresh = False
        if due:
            self._make(trainer, pl_module, position=logger_step(trainer) + batches)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the last weights if training ended unexpectedly (early stopping, a time limit)."""
        self._discovery.abandon()
        if self._prepared and self._agreed(trainer, pl_module, self.schedule.due_at_end(trainer)):
            self._make(trainer, pl_module, position=logger_step(trainer))
        self._prepared = False

    def _agreed(self, trainer: Trainer, pl_module: LightningModule, due: bool) -> bool:
        """Whether a probe is due on the first process; then all processes make it.

        All of them count the same steps, except in manual optimization, where a process may skip a step.
        """
        if not pl_module.automatic_optimization:
            due = trainer.strategy.reduce_boolean_decision(due and trainer.is_global_zero, all=False)
        return due

    def _publish(self, trainer: Trainer, result: R, metrics: Mapping[str, float], position: int | None) -> None:
        # The bar shows the prefix only: a whole key would take a third of 80 columns.
        log_metrics_once(trainer, metrics, on_bar=(self.prefix, metrics[self.monitored(result)]), step=position)

    def _make(self, trainer: Trainer, pl_module: LightningModule, position: int) -> None:
        """Make the probe that is due. It remains due if interrupted by Ctrl-C or an error that ends the run."""
        self.schedule.owed = True
        self._resolve(pl_module, find=True)
        assert self._encoder is not None
        forward = reachable_forward(self._encoder, trainer.strategy, pl_module)
        precision = trainer.precision_plugin
        lockstep = is_sharded(trainer.strategy, pl_module)
        processes = StrategyProcesses(trainer.strategy, trainer.world_size, lockstep)
        if self._failures >= MAX_FAILURES or not self._ready() or self._exceeds_budget(trainer, processes):
            self.schedule.settle(trainer)
            return
        self._read_deferred(trainer, pl_module)

        def encoder(x: Any) -> Any:
            with precision.val_step_context():
                return forward(precision.convert_input(x))

        kept = isolated(pl_module, self._also_called())
        try:
            with self._budget.counted(), kept, probe_progress(trainer, self.title) as progress:
                result = self._probe(trainer, pl_module, encoder, processes, progress)
        except Exception as error:
            if self.on_error == "raise" or not self.history:
                raise
            self.schedule.settle(trainer)
            self._skip_probe(trainer, error)
            return
        self._failures = 0
        self._keep(result)
        self._leave_history(trainer)
        self.schedule.settle(trainer)
        overhead = processes.broadcast(self._budget.fraction())
        metrics = {**self.metrics(result), details_key(self.prefix, "overhead"): overhead}
        self._publish(trainer, result, metrics, position)
        if len(self.history) == 1:
            for advice in unknown_key_warnings(trainer, self.prefix, [*metrics, *self.pending], ProbeListener):
                rank_zero_warn(advice)
        with self._budget.counted():
            self._after_logging(trainer, result, metrics, position)
        notify_listeners(trainer, pl_module, metrics)

    def _also_called(self) -> Sequence[Callable[..., Any]]:
        """What a probe calls besides the module and its submodules, and what is restored as well."""
        return modules_reached(self.encoder)

    def _skip_probe(self, trainer: Trainer, error: Exception) -> None:
        self._failures += 1
        rank_zero_warn(
            f"The {self.title} after step {self.schedule.step(trainer)} failed and is skipped; training continues. "
            f"{type(error).__name__}: {error}"
        )
        if self._failures == MAX_FAILURES:
            rank_zero_warn(
                f"{MAX_FAILURES} consecutive {self.title}s failed: no more are made in this run. Callbacks that "
                f"monitor `{self.prefix}/...` keep seeing the value of step {self.history[-1].step}."
            )

    def _exceeds_budget(self, trainer: Trainer, processes: StrategyProcesses) -> bool:
        """Whether a probe as long as the last one would exceed `max_overhead`."""
        if self.max_overhead is None or not self.history:
            return False
        fraction = processes.broadcast(self._budget.fraction(self.history[-1].seconds))
        if fraction > self.max_overhead:
            rank_zero_info(
                f"The {self.title} after step {self.schedule.step(trainer)} is deferred; with it, probes would take "
                f"{fraction:.1%} of the time since training started, more than max_overhead={self.max_overhead:g}."
            )
        return fraction > self.max_overhead
