"""When the encoder in training is probed, and what is then logged."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Sequence
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from synbench_lightning.callbacks.advice import interval_advice, key_advice, set_up_advice
from synbench_lightning.callbacks.dashboard import Dashboard
from synbench_lightning.callbacks.progress import probe_progress
from synbench_lightning.callbacks.publishing import ProbeListener, notify, publish, steps_logged
from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.checks import check_flag, check_input_shape, check_integer, check_name, check_number
from synbench_lightning.families import Task
from synbench_lightning.functional.discriminant import check_epsilons
from synbench_lightning.functional.score import check_thresholds
from synbench_lightning.functional.theory import optimal_accuracy
from synbench_lightning.plan import ProbePlan
from synbench_lightning.probe import OFFICIAL_THRESHOLDS, Probe
from synbench_lightning.result import ProbeResult
from synbench_lightning.runtime.distributed import StrategyProcesses
from synbench_lightning.runtime.encoder import Encoder, EncoderSpec, find_encoder
from synbench_lightning.runtime.input_shape import example_shape
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.sharding import is_sharded, reachable_forward
from synbench_lightning.sampling import Normalize

MAX_FAILURES = 3
"""Failed probes in a row after which no more are made."""


class SynBenchCallback(Callback):
    """Probe the encoder while it trains and log how good its representation is, without labels or data.

    Every N optimizer steps the encoder is shown samples of Gaussian proxy tasks whose best possible classifier is
    known. The SynBench score is the share of that optimum that a linear discriminant on the encoder's features still
    reaches: 1 if nothing is lost, 0 if nothing is left. Training is not changed by it: modes, buffers, plain attributes
    and random states are put back after each probe.

    Logged, one point for each probe, over the number of training steps made before it:

    ================================ =====================================================================
    ``synbench/score``               score of the first task at epsilon 0: the one to monitor, higher is better
    ``synbench/score_se``            its standard error over the noise of the examples
    ``synbench/score_eps_0.20``      the same for each further epsilon
    ``synbench/mean``                mean score of the tasks
    ``synbench/worst``               lowest score of a task; of equally hard tasks it reads low by about ``worst_se``
    ``synbench/cvar``                mean score of the worse half of the tasks
    ``synbench/smoothed_worst``      the worst, smoothed: between worst and mean
    ``synbench/gap``                 mean minus worst
    ``synbench/mean_se`` ...         standard errors of ``mean``, ``worst``, ``cvar``, ``smoothed_worst`` and ``gap``
    ``synbench/task/<name>``         score of each task
    ``synbench/accuracy``            accuracy of the first task, averaged over the scales
    ``synbench/effective_rank``      in how many directions the features vary (RankMe's entropy of their covariance)
    ``synbench/alpha_req``           how fast the eigenvalues of that covariance fall (exponent of a power law)
    ``synbench/feature_std``         standard deviation of the features, averaged over the dimensions
    ``synbench/probe_seconds``       wall-clock time of the probe
    ``synbench/overhead``            time spent in probes so far, as a fraction of the time since training started
    ================================ =====================================================================

    Args:
        encoder: what to probe. ``None``: the first module among the attributes ``encoder``, ``backbone``,
            ``model.encoder``, ``model.backbone``, ``model``, else the LightningModule's ``forward``; a dotted attribute
            as ``"student.trunk"``; or a callable ``(pl_module, x) -> features``. Features are ``(N, D)``, tokens
            ``(N, T, D)`` or maps ``(N, C, H, W)`` (their mean is taken), or an object or dict with ``pooler_output`` or
            ``last_hidden_state``.
        input_shape: shape of one input of the encoder, without the batch dimension. ``None``: that of
            ``example_input_array``, else of the largest floating-point tensor in the first training batch.
        tasks: ``"default"`` (the paper's task and smooth variations of it), ``"dc"`` (the paper's alone), another
            family of :func:`task_family`, or a sequence of :class:`GaussianTask` and, for real examples,
            :class:`LabelledTask`; the first is the one that is monitored.
        plan: ``"fast"`` (8,192 forwards for all tasks together), ``"official"`` (200,704 for each), or a
            :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1); 0 among them.
        threshold: threshold accuracy of the logged scores, in [0.5, 1).
        every_n_train_steps: optimizer steps between probes.
        every_n_epochs: epochs between probes; if given, it takes the place of ``every_n_train_steps``.
        probe_at_start: probe before the first step.
        probe_at_end: probe when training ends, if the last step was not probed.
        max_overhead: the fraction of the time since training started that probes may take, in (0, 1]. A probe that
            would exceed it is put off by one interval.
        batch_size: examples in one forward of the encoder.
        normalize: mean and standard deviation, numbers or one per channel: the encoder then sees
            ``(x + 0.5 - mean) / std``, as in the paper. ``None`` shows it the standard normal examples themselves.
        seed: of the examples, which are the same in every probe of a run.
        prefix: of the logged keys; two callbacks in one trainer need two.
        log_figures: give TensorBoard, Wandb and MLflow figures of the probes (the robustness-accuracy curve, accuracy
            and bound over the scale, the tasks over the steps), where matplotlib is installed, and TensorBoard a page
            of charts and the score in its table of hyperparameters. Figures between the first and the last probe are
            left out while drawing them takes more than two percent of the time.
        on_error: ``"warn"``: a probe that fails is left out with a warning; ``"raise"``: it ends the run. The first
            probe of a run raises in either case, so that a wrong set-up is seen at once.

    Raises:
        ValueError: for an argument outside its range; at fit start if no encoder is found; at the first batch if the
            shape of the input cannot be read off it or does not fit the tasks.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lightning.pytorch.demos.boring_classes import BoringModel
        >>> synbench = SynBenchCallback(every_n_train_steps=10, plan=ProbePlan(forwards=512))
        >>> trainer = Trainer(max_steps=20, callbacks=[synbench], logger=False, enable_checkpointing=False,
        ...                   enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(BoringModel())
        >>> [result.step for result in synbench.history]
        [0, 10, 20]
    """

    def __init__(
        self,
        encoder: EncoderSpec = None,
        input_shape: Sequence[int] | None = None,
        *,
        tasks: str | Sequence[Task] = "default",
        plan: ProbePlan | str = "fast",
        epsilons: Sequence[float] = (0.0, 0.2),
        threshold: float = 0.7,
        every_n_train_steps: int = 1000,
        every_n_epochs: int | None = None,
        probe_at_start: bool = True,
        probe_at_end: bool = True,
        max_overhead: float | None = None,
        batch_size: int = 256,
        normalize: Normalize | None = None,
        seed: int = 0,
        prefix: str = "synbench",
        log_figures: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        if not (encoder is None or isinstance(encoder, str) or callable(encoder)):
            raise ValueError(
                "`encoder` must be None, a dotted attribute of the LightningModule, or a callable "
                f"(pl_module, x) -> features, got a {type(encoder).__name__}."
            )
        if isinstance(encoder, (nn.Module, type)):
            raise ValueError(
                f"`encoder` must not be a module or class itself, got {encoder!r}: name the attribute of the "
                "LightningModule that holds it, or pass `lambda pl_module, x: ...`."
            )
        self.schedule = Schedule(every_n_train_steps, every_n_epochs, probe_at_start, probe_at_end)
        if max_overhead is not None:
            check_number("max_overhead", max_overhead, "a fraction in (0, 1] or None", 0, 1, low_in=False)
        check_name("prefix", prefix)
        if on_error not in ("warn", "raise"):
            raise ValueError(f"`on_error` must be 'warn' or 'raise', got {on_error!r}.")
        self.encoder = encoder
        self.input_shape = None if input_shape is None else check_input_shape(input_shape)
        self.tasks = tasks
        self.plan = ProbePlan.of(plan)
        self.epsilons = check_epsilons(epsilons)
        if 0.0 not in self.epsilons:
            raise ValueError(f"`epsilons` must hold 0, the epsilon of `{prefix}/score`, got {list(self.epsilons)}.")
        if len({f"{epsilon:.2f}" for epsilon in self.epsilons}) < len(self.epsilons):
            raise ValueError(
                f"`epsilons` must differ in their first two decimals, which are in the keys, got {list(self.epsilons)}."
            )
        self.threshold = check_number("threshold", threshold, "an accuracy in [0.5, 1)", 0.5, math.nextafter(1, 0))
        check_thresholds((self.threshold,), self.plan.lowest_threshold)
        self.max_overhead = max_overhead
        self.batch_size = check_integer("batch_size", batch_size, 1)
        self.normalize = normalize
        self.seed = check_integer("seed", seed, 0)
        self.prefix = prefix
        self.log_figures = check_flag("log_figures", log_figures)
        self.on_error = on_error
        self.history: list[ProbeResult] = []
        self._dashboard = Dashboard(prefix, self.threshold) if log_figures else None
        self._encoder: Encoder | None = None
        self._probe: Probe | None = None
        self._failures = 0  # in a row
        self._restored = False
        self._trainer: weakref.ref[Trainer] | None = None
        self._train_start = 0.0
        self._probe_seconds = 0.0

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return f"{type(self).__qualname__}{{'prefix': {self.prefix!r}}}"

    def state_dict(self) -> dict[str, Any]:
        """The history, as plain types."""
        return {"history": [result.to_dict() for result in self.history], "last_step": self.schedule.last_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of a checkpoint."""
        self.history = [ProbeResult.from_dict(values) for values in state_dict["history"]]
        self.schedule.last_step = state_dict["last_step"]
        self._restored = True

    def metrics(self, result: ProbeResult) -> dict[str, float]:
        """The logged values of a result by key, but for those about time."""
        level = self.threshold
        values = {"score": result.score(threshold=level)}
        values |= {f"score_eps_{e:.2f}": result.score(epsilon=e, threshold=level) for e in result.epsilons if e}
        aggregates = result.aggregates(threshold=level)
        values |= {name: found.value for name, found in aggregates.items()}
        values |= {f"{k}_se": v.standard_error for k, v in aggregates.items() if v.standard_error is not None}
        values |= {f"task/{task}": score for task, score in result.task_scores(threshold=level).items()}
        error = result.standard_error(threshold=level)
        values |= {} if error is None else {"score_se": error}
        values |= {"effective_rank": result.effective_rank, "feature_std": result.feature_std}
        values |= {} if result.alpha_req is None else {"alpha_req": result.alpha_req}
        values |= {"accuracy": result.mean_accuracy(), "probe_seconds": result.seconds}
        return {f"{self.prefix}/{key}": value for key, value in values.items()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a trainer of the other package, in which half of this would silently not work."""
        if not isinstance(trainer, Trainer):
            raise TypeError(
                f"SynBenchCallback works with `lightning.pytorch`, and this trainer is a {type(trainer).__module__}."
                f"{type(trainer).__name__}: import Trainer and LightningModule from `lightning.pytorch`."
            )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let go of the module, so that it is freed and the callback can be copied."""
        self.__dict__ |= self._released()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **self._released(), "_trainer": None}

    @staticmethod
    def _released() -> dict[str, None]:
        # Lightning itself gives every callback the module's `log` and `log_dict`.
        return dict.fromkeys(("_encoder", "_probe", "log", "log_dict"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the encoder, and open the dashboard of the loggers."""
        self._encoder = find_encoder(pl_module, self.encoder)
        self._probe = None
        if self._dashboard is not None:
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            showing = [c.prefix for c in callbacks if isinstance(c, SynBenchCallback) and c._dashboard is not None]
            self._dashboard.open(trainer, pl_module, showing)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with a restored history, and advise on intervals that do not fit."""
        self._train_start, self._probe_seconds, self._failures = time.perf_counter(), 0.0, 0
        goes_on = self._trainer is not None and self._trainer() is trainer and trainer.global_step > 0
        if not self._restored and not goes_on:  # the history, if any, is that of another run
            self.history, self.schedule.last_step = [], 0
        self._restored, self._trainer = False, weakref.ref(trainer)
        if self.history:
            publish(trainer, self.metrics(self.history[-1]), f"{self.prefix}/score", step=None)
        for advice in (*set_up_advice(trainer), *interval_advice(trainer, self.prefix, self.schedule, ProbeListener)):
            rank_zero_warn(advice)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Probe before the first step, when the shape of an input is known; after a resume, where one was missed."""
        if self._probe is not None:
            return
        self._probe = self._prepare(trainer, pl_module, batch)
        due = self.schedule.due_at_first_batch(trainer, seen_before=bool(self.history))
        self.schedule.last_step = max(self.schedule.last_step, trainer.global_step)
        if due:
            self._run(trainer, pl_module, position=steps_logged(trainer))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Probe where one is due: `ModelCheckpoint` comes later in this step and sees the value."""
        if self._agreed(trainer, pl_module, self.schedule.due_after_batch(trainer, batch_idx)):
            self._run(trainer, pl_module, position=steps_logged(trainer) + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the last weights where the end came unforeseen (early stopping, a time limit)."""
        if self._probe is not None and self._agreed(trainer, pl_module, self.schedule.due_at_end(trainer)):
            self._run(trainer, pl_module, position=steps_logged(trainer))
        if self._dashboard is not None:
            self._dashboard.close(trainer, self.history)
        self._probe = None

    def _agreed(self, trainer: Trainer, pl_module: LightningModule, due: bool) -> bool:
        """Whether a probe is due on the first process; then all of them make it.

        They count the same steps, unless the module steps its optimizers by itself, where a process may leave one out.
        """
        if not pl_module.automatic_optimization:
            due = trainer.strategy.reduce_boolean_decision(due and trainer.is_global_zero, all=False)
        if due:
            self.schedule.last_step = trainer.global_step
        return due

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> Probe:
        shape = self.input_shape
        if shape is None and pl_module.example_input_array is not None:
            shape = example_shape(pl_module.example_input_array, "`example_input_array`")
        if shape is None:
            shape = example_shape(batch, "the first training batch")
        assert self._encoder is not None
        best = float(optimal_accuracy(self.plan.scales[-1]))
        thresholds = sorted({self.threshold, *(t for t in OFFICIAL_THRESHOLDS if t < best)})
        probe = Probe(
            self.tasks, self.plan, shape, epsilons=self.epsilons, thresholds=thresholds, batch_size=self.batch_size,
            normalize=self.normalize, seed=self.seed, device=trainer.strategy.root_device,
        )  # fmt: skip
        rank_zero_info(
            f"SynBench probes {self._encoder.name}, with inputs of shape {shape}, every {self.schedule}: "
            f"{probe.num_forwards} forwards for the tasks {', '.join(task.name for task in probe.tasks)}."
        )
        return probe

    def _run(self, trainer: Trainer, pl_module: LightningModule, position: int) -> None:
        assert self._probe is not None
        assert self._encoder is not None
        forward = reachable_forward(self._encoder, trainer.strategy, pl_module)
        precision = trainer.precision_plugin
        lockstep = is_sharded(trainer.strategy, pl_module)
        processes = StrategyProcesses(trainer.strategy, trainer.world_size, lockstep)
        if self._failures >= MAX_FAILURES or self._exceeds_budget(processes):
            return
        start = time.perf_counter()

        def encoder(x: Tensor) -> Any:
            with precision.val_step_context():
                return forward(precision.convert_input(x))

        try:
            with isolated(pl_module), probe_progress(trainer) as progress:
                result = self._probe(encoder, processes, progress)
        except Exception as error:
            if self.on_error == "raise" or not self.history:
                raise
            self._leave_out(trainer, error)
            return
        finally:
            self._probe_seconds += time.perf_counter() - start
        self._failures = 0
        self._tell(result)
        overhead = self._probe_seconds / (time.perf_counter() - self._train_start)
        step, overhead = processes.same((trainer.global_step, overhead))
        self.history.append(result.at(step))
        metrics = {**self.metrics(result), f"{self.prefix}/overhead": overhead}
        publish(trainer, metrics, on_bar=f"{self.prefix}/score", step=position)
        if len(self.history) == 1:
            for advice in key_advice(trainer, self.prefix, metrics, ProbeListener):
                rank_zero_warn(advice)
        if self._dashboard is not None:
            start = time.perf_counter()
            self._dashboard.update(trainer, self.history, metrics, position)
            self._probe_seconds += time.perf_counter() - start
        notify(trainer, pl_module, metrics)

    def _leave_out(self, trainer: Trainer, error: Exception) -> None:
        self._failures += 1
        rank_zero_warn(
            f"The SynBench probe after step {trainer.global_step} failed and is left out; training goes on. "
            f"{type(error).__name__}: {error}"
        )
        if self._failures == MAX_FAILURES:
            rank_zero_warn(
                f"{MAX_FAILURES} SynBench probes in a row have failed: no more are made in this run. What monitors "
                f"`{self.prefix}/...` keeps the value of step {self.history[-1].step}."
            )

    def _tell(self, result: ProbeResult) -> None:
        """Say what a curve does not: the first result, a break, a collapse."""
        before = self.history[-1] if self.history else None
        if before is None:
            score = result.score(threshold=self.threshold)
            rank_zero_info(f"SynBench: the representation has {result.feature_dim} dimensions, score {score:.3f}.")
        elif before.settings != result.settings:
            rank_zero_warn(
                f"The SynBench scores up to step {before.step}, from the checkpoint, were made with other arguments "
                "and do not compare with those from here on, nor does a best score among them. "
                f"Before: {before.settings}. Now: {result.settings}."
            )
        if result.collapsed and not (before and before.collapsed):
            rank_zero_warn("The representation has collapsed: the features are constant for all examples, score 0.")

    def _exceeds_budget(self, processes: StrategyProcesses) -> bool:
        """Whether a probe as long as the last one would take more of the run's time than it may."""
        if self.max_overhead is None or not self.history:
            return False
        elapsed = time.perf_counter() - self._train_start
        last = self.history[-1].seconds
        share = processes.same((self._probe_seconds + last) / (elapsed + last))
        if share > self.max_overhead:
            rank_zero_info(
                f"SynBench: the probe after step {self.schedule.last_step} is put off; with it, probes would take "
                f"{share:.1%} of the time since training started, more than max_overhead={self.max_overhead:g}."
            )
        return share > self.max_overhead
