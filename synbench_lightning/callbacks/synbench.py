"""The callback that probes the encoder during training and logs the quality of its representation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Literal

from torch import Tensor

from synbench_lightning.callbacks.config_warnings import best_key_warnings
from synbench_lightning.callbacks.figure_logging import FigureLogger
from synbench_lightning.callbacks.information_inputs import InformationInputs, check_inputs
from synbench_lightning.callbacks.label_collection import held_out_labels
from synbench_lightning.callbacks.label_overlap import LabelOverlap
from synbench_lightning.callbacks.layer_advice import LayerAdvice
from synbench_lightning.callbacks.metric_keys import keys_of, logged_values, watched_names
from synbench_lightning.callbacks.probe_warnings import ProbeWarnings
from synbench_lightning.callbacks.probing_callback import ProbingCallback
from synbench_lightning.callbacks.run_state import history_of
from synbench_lightning.checks import check_flag, check_input_shape, check_number
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy
from synbench_lightning.functional.gaussian.discriminant import check_epsilons
from synbench_lightning.functional.gaussian.score import check_thresholds
from synbench_lightning.probe.families import Task
from synbench_lightning.probe.labelled_inputs import Labels, check_labels
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.probe import OFFICIAL_THRESHOLDS, Probe
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.probe.view_files import from_files, write_views
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.runtime.collectives import Progress, StrategyProcesses
from synbench_lightning.runtime.encoder import EncoderSpec
from synbench_lightning.runtime.features import module_behind
from synbench_lightning.runtime.input_shape import agreed_shape
from synbench_lightning.runtime.layer_reading import LayerReader, check_layers
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from synbench_lightning.runtime.sharding import is_sharded


class SynBenchCallback(ProbingCallback[ProbeResult]):
    """Measure the quality of the encoder's representation every N steps of training, without labels.

    A probe runs the encoder on a few inputs and logs the mutual information between the features of a view and the
    identity of its input, the leave-one-out R² of a few labels, and the SynBench score of Gaussian tasks, each where it
    can be measured. Training stays bit-for-bit identical.

    The first key in ``<prefix>/`` is the one to monitor; all keys are in ``docs/logged.md``. How the encoder and the
    views are found is in ``docs/how-it-works.md``, which number to trust in ``docs/which-number.md``.

    Args:
        encoder: ``None``: the call of the first training step whose output is the representation. Or a dotted module,
            inner layer or method, as ``"backbone.layer3"`` or ``"backbone.forward_features"``, or a callable
            ``(pl_module, x) -> features``. Tokens and maps are averaged.
        input_shape: shape of one real-valued example, without the batch dimension. ``None``: that of the encoder's
            input in the first training step, else of ``example_input_array`` or of the first batch.
        tasks: ``"default"``, ``"dc"`` (the paper's task) or another family of :func:`task_family`, or a sequence of
            :class:`GaussianTask` and :class:`LabelledTask`; the first task's score is ``<prefix>/score``.
        plan: ``"fast"`` (8,192 forwards for all tasks together), ``"official"`` (200,704 for each), or a
            :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1); 0 among them.
        threshold: threshold accuracy of the logged scores, in [0.5, 1).
        every_n_train_steps: optimizer steps between probes; batches, with a warning, where Lightning counts no steps.
        every_n_epochs: epochs between probes; if given, it replaces ``every_n_train_steps``.
        probe_at_start: probe before the first step.
        probe_at_end: probe when training ends, if the last step was not probed.
        max_overhead: the fraction of the time since training started that probes may take, in (0, 1]. A probe that
            would exceed it is deferred by one interval.
        batch_size: examples in one forward of the encoder.
        normalize: mean and standard deviation, numbers or one per channel: the encoder gets ``(x + 0.5 - mean) / std``,
            as in the paper. ``None``: the standard normal examples themselves.
        inputs: ``"auto"``: 128 training examples in 16 views each, through the run's own augmentations; 512 texts in
            four parts each. Or at least 32 unlabeled inputs ``(N, *input_shape)``, views of them
            ``(N, V, *input_shape)``, or a structure of tensors with N rows. ``None``: no information.
        views: a function from a batch of ``inputs``, on the CPU, to a random view of each; views must be
            label-preserving. It is called with a seed of its own. ``None``: noise approximates the nuisance variation.
            Or V views of each input ``(N, V, *input_shape)``, a tensor or a file (:func:`save_views`): one file for all
            runs of a sweep.
        labels: integers ``(N,)`` for ``inputs``, or a pair (x, y) of at least 20 labeled inputs that are not trained
            on; the first 512 are used. ``"auto"``: from the first validation loader. Inputs that the first training
            batches contain, as they are, trigger a warning; augmented ones are not recognized.
        layers: layers to compare from the same forwards. ``"auto"``: the stages or blocks of the encoder, and the head
            that training puts on it; or dotted names, as ``("backbone.layer2", "projector.0")``; ``None``: none. Heads
            are not ranked, nor layers more than four times as wide or narrow as the encoder's output.
        seed: of the examples, which are the same in every probe of a run.
        prefix: of the logged keys; two callbacks in one trainer need two.
        log_figures: add figures of the probes to TensorBoard, Wandb and MLflow, where matplotlib is installed, and a
            page of charts to TensorBoard. Figures are skipped while drawing them takes more than 2 % of the time.
        on_error: ``"warn"``: a probe that fails is skipped with a warning; ``"raise"``: it ends the run. The first
            probe of a run raises in either case, so that a wrong set-up is found at once.

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

    title = "SynBench probe"
    _fit_scoped: ClassVar[dict[str, Any]] = {**ProbingCallback._fit_scoped, "_shown": None, "_label_overlap": None}

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
        inputs: Any = "auto",
        views: Views | Tensor | str | None = None,
        labels: Labels | Literal["auto"] | None = None,
        layers: str | Sequence[str] | None = "auto",
        seed: int = 0,
        prefix: str = "synbench",
        log_figures: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.threshold = check_number("threshold", threshold, "an accuracy in [0.5, 1)", 0.5, math.nextafter(1, 0))
        self.inputs, self.views = from_files(inputs, views)
        check_inputs(self.inputs, self.views)
        super().__init__(
            encoder=encoder, every_n_train_steps=every_n_train_steps, every_n_epochs=every_n_epochs,
            probe_at_start=probe_at_start, probe_at_end=probe_at_end, max_overhead=max_overhead, batch_size=batch_size,
            seed=seed, prefix=prefix, on_error=on_error,
        )  # fmt: skip
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
        check_thresholds((self.threshold,), self.plan.lowest_threshold)
        self.normalize = normalize
        if labels is not None and not (isinstance(labels, str) and labels == "auto"):
            check_labels(labels, self.inputs)
        self.labels = labels
        if isinstance(check_layers(layers), tuple) and self.inputs is None and labels is None:
            raise ValueError("`layers` needs `inputs`, with `views`, or `labels` to compare them by, got neither.")
        self.layers = layers
        self.log_figures = check_flag("log_figures", log_figures)
        self._figure_logger = FigureLogger(prefix, self.threshold) if log_figures else None
        self._shown: Probe | None = None  # the samples, ready to be shown
        self._label_overlap: LabelOverlap | None = None

    def _begin(self) -> None:
        super()._begin()
        self._probe_warnings = ProbeWarnings(self.threshold)
        self._shape: tuple[int, ...] | None = None  # of an input, likewise
        self._information_inputs = InformationInputs(self.inputs, self.seed, self.prefix, self._budget)
        self._layer_advice = LayerAdvice(self.prefix)

    def _state(self) -> dict[str, Any]:
        return {
            "history": [result.to_dict() for result in self.history],
            "views": self._information_inputs.collection.state(),
            "input_shape": None if self._shape is None else list(self._shape),
            "call": self._discovery.state(),
        }

    @classmethod
    def _history_of(cls, state: Any) -> list[ProbeResult]:
        return history_of(state, ProbeResult.from_dict)

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        super()._restore_state(state)
        self._information_inputs.restore(state)
        shape = state.get("input_shape")
        self._shape = None if shape is None else check_input_shape(shape)
        self._discovery.restore(state.get("call"))

    def save_views(self, path: str | PathLike[str]) -> Tensor:
        """Write the views of training examples that this run was probed with to a file, for the other runs of a sweep.

        For ``inputs="auto"``, from the first probe on; see also :func:`save_views`. Every other run then has
        ``SynBenchCallback(views=path)``, whatever it trains with, so that their information is comparable.

        Args:
            path: of the file.

        Returns:
            What was written, ``(N, V, *input_shape)``.

        Raises:
            ValueError: where there are no views, or the encoder takes more than one tensor.
        """
        if self._information_inputs.collection.inputs is None:
            raise ValueError(
                "No views of training examples have been read in this process: `inputs='auto'` reads them before the "
                "first probe, in the processes that train; under `ddp_fork` or `ddp_spawn` call this in `on_train_end` "
                "of a callback. For `inputs` and `views` of your own there is `synbench_lightning.save_views(path, "
                "inputs, views)`."
            )
        return write_views(path, self._information_inputs.collection.inputs)

    def metrics(self, result: ProbeResult) -> dict[str, float]:
        """The logged values of a result by key, but for the overhead."""
        return keys_of(self.prefix, logged_values(result, self.threshold), watched_names(result))

    def monitored(self, result: ProbeResult) -> str:
        """The logged key that matters most: of those that are there, that with most knowledge of what matters."""
        return f"{self.prefix}/{result.best_key}"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the encoder, and get ready for the loggers' figures and charts."""
        super().on_fit_start(trainer, pl_module)
        if self._figure_logger is not None:
            self._figure_logger.open()

    @property
    def pending(self) -> tuple[str, ...]:
        """The information, while views are still taken from batches."""
        keys = ("information", "information_se") if self._information_inputs.collection.collecting else ()
        return tuple(f"{self.prefix}/{key}" for key in keys)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Probe where the first probe is due, and see what the step gives the encoder where views are still needed."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._information_inputs.collection.begin_step(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fall back to the views of one epoch: in the next one the examples come again."""
        if self._information_inputs.collection.end(trainer):
            self._information_inputs.use(self._shown)

    def _release(self) -> None:
        self._information_inputs.collection.release()
        super()._release()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the last weights where the end came unforeseen, and draw the last figures."""
        super().on_train_end(trainer, pl_module)
        if (advice := self._layer_advice.ended(self.history, self._encoder_path)) is not None:
            rank_zero_info(advice)
        if self._figure_logger is not None:
            self._figure_logger.close(trainer, self.history)

    def _prepare(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> None:
        shape = self._shape = self._decided_shape(trainer, pl_module, batch)
        assert self._encoder is not None
        best = float(optimal_accuracy(self.plan.scales[-1]))
        thresholds = sorted({self.threshold, *(t for t in OFFICIAL_THRESHOLDS if t < best)})
        self._shown = probe = Probe(
            self.tasks, self.plan, shape, epsilons=self.epsilons, thresholds=thresholds, batch_size=self.batch_size,
            normalize=self.normalize,
            inputs=self._information_inputs.begin(trainer, pl_module, self._discovery.call, shape), views=self.views,
            labels=self._labels(trainer, pl_module, shape), seed=self.seed, device=trainer.strategy.root_device,
            module=self._discovery.read_module(module_behind(self._encoder.forward)), call=self._discovery.call,
            layers=self._layer_reader(trainer, pl_module),
        )  # fmt: skip
        if probe.with_labels is not None and trainer.is_global_zero:
            self._label_overlap = LabelOverlap(probe.with_labels.inputs)
        if not self._ready() and not self._information_inputs.collection.collecting:
            rank_zero_warn(
                f"SynBench: training calls {self._encoder.name}, and nothing in it takes real vectors of one shape, so "
                "there is no score; without inputs or labels nothing else is measured, and no probes are made in this "
                "run. Give `inputs` and `views`, or `labels`."
            )
            return
        about = "" if probe.with_labels is None else f" and {probe.with_labels.num_inputs} labelled inputs"
        rank_zero_info(
            f"SynBench probes {self._encoder.name}, with inputs of shape {shape}, every {self.schedule}: "
            f"{probe.num_forwards} forwards for the tasks {', '.join(task.name for task in probe.tasks)}{about}."
        )
        self._information_inputs.attach(probe)

    def _ready(self) -> bool:
        return self._shown is not None and self._shown.num_forwards > 0

    def _layer_reader(self, trainer: Trainer, pl_module: LightningModule) -> LayerReader | None:
        if self.layers is None:
            return None
        call, precision = self._discovery.call, trainer.precision_plugin.val_step_context
        heads = () if call is None or is_sharded(trainer.strategy, pl_module) else call.heads
        return LayerReader(pl_module, self.layers, self._encoder_path or "", heads, precision)

    @property
    def _encoder_path(self) -> str | None:
        """The dotted name of the encoder; ``None`` where it has none that is known."""
        if (call := self._discovery.call) is not None:
            return ".".join(filter(None, (call.path, call.part)))
        return self.encoder if isinstance(self.encoder, str) else None

    @property
    def _given_shape(self) -> tuple[int, ...] | None:
        return self.input_shape

    def _can_probe_unobserved(self) -> bool:
        inner = isinstance(self.encoder, str) and "." in self.encoder  # which may be called within what is given this
        return (self.input_shape is not None and not inner) or self._shape is not None

    def _decided_shape(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[int, ...] | None:
        """The shape of one Gaussian example, for the whole run: the first process decides; ``None`` for no examples."""
        if self.input_shape is not None:
            return self.input_shape
        if self._shape is not None:
            return self._shape
        if self._discovery.call is not None:
            placement = self._discovery.call.placement
            return None if placement is None else placement.shape
        return agreed_shape(trainer.strategy, pl_module.example_input_array, batch)

    def _labels(self, trainer: Trainer, pl_module: LightningModule, shape: tuple[int, ...] | None) -> Labels | None:
        """The labels for the readout, the same on every process; ``None`` where there are none."""
        if not isinstance(self.labels, str):
            return self.labels
        with self._budget.counted():
            found = held_out_labels(trainer, pl_module, self._discovery.call, shape, self.seed)
        measured = "is measured on" if found.pair else "is not measured:"
        rank_zero_info(f"SynBench: `{self.prefix}/readout` {measured} {found.sentence}.")
        return found.pair

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and probe where a probe is due."""
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            self._probe_warnings.trained(outputs["loss"])
        if self._label_overlap is not None:
            self._look_for_labels(self._label_overlap, batch)
        if self._information_inputs.collection.end_step(trainer, pl_module, batch):
            self._information_inputs.use(self._shown)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _look_for_labels(self, overlap: LabelOverlap, batch: Any) -> None:
        """Warn where training is given the labelled inputs; whatever a batch is, it ends no run."""
        try:
            with self._budget.counted():
                words = overlap.see(batch)
        except Exception:
            self._label_overlap = None
        else:
            if words is not None:
                rank_zero_warn(words)

    def _read_deferred(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._information_inputs.read_deferred(trainer, pl_module, self._discovery.call, self._shown)

    def _probe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        encoder: Callable[[Tensor], Any],
        processes: StrategyProcesses,
        progress: Progress | None,
    ) -> ProbeResult:
        probe = self._shown
        assert probe is not None
        try:
            result = probe(encoder, processes, progress)
        except (RuntimeError, ValueError) as error:  # on every process
            known = any(result.information is not None for result in self.history)
            if not isinstance(self.inputs, str) or probe.shown is None or known:
                raise
            warning = self._information_inputs.discard(probe, error)
            result = probe(encoder, processes, progress)
            rank_zero_warn(warning)
        return result.at(step=processes.broadcast(self.schedule.step(trainer)))

    def _after_logging(
        self, trainer: Trainer, result: ProbeResult, metrics: Mapping[str, float], position: int
    ) -> None:
        before = self.history[-2] if len(self.history) > 1 else None
        self._probe_warnings.probed(result, before)
        for sentence in self._layer_advice.probed(result):
            rank_zero_info(sentence)
        if before is None or before.best_key != result.best_key:
            for advice in best_key_warnings(trainer, self.prefix, result.best_key):
                rank_zero_info(advice)
        if self._figure_logger is not None:
            self._figure_logger.update(trainer, self.history, metrics, self.monitored(result), position)
