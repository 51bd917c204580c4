"""When the encoder in training is probed, and what is then logged."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from synbench_lightning.callbacks.config_warnings import best_key_warnings
from synbench_lightning.callbacks.figure_logging import FigureLogger
from synbench_lightning.callbacks.label_collection import held_out_labels
from synbench_lightning.callbacks.layer_advice import LayerAdvice
from synbench_lightning.callbacks.metric_keys import keys_of, logged_values, watched_names
from synbench_lightning.callbacks.probe_warnings import ProbeWarnings
from synbench_lightning.callbacks.probing_callback import ProbingCallback
from synbench_lightning.callbacks.reread_views import READ_SECONDS
from synbench_lightning.callbacks.run_state import history_of
from synbench_lightning.callbacks.view_collection import ViewCollection
from synbench_lightning.checks import check_flag, check_input_shape, check_number, shown
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy
from synbench_lightning.functional.gaussian.discriminant import check_epsilons
from synbench_lightning.functional.gaussian.score import check_thresholds
from synbench_lightning.probe.families import Task
from synbench_lightning.probe.labelled_inputs import Labels, check_labels
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.probe import OFFICIAL_THRESHOLDS, Probe
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.runtime.collectives import Progress, StrategyProcesses
from synbench_lightning.runtime.encoder import EncoderSpec
from synbench_lightning.runtime.features import module_behind
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.input_shape import example_shape
from synbench_lightning.runtime.layer_reading import LayerReader, check_layers
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, rank_zero_info, rank_zero_warn


class SynBenchCallback(ProbingCallback[ProbeResult]):
    """Probe the encoder while it trains and log how good its representation is, without labels or data.

    Every N optimizer steps the encoder is shown samples of Gaussian proxy tasks whose best possible classifier is
    known. The SynBench score is the share of that optimum that a linear discriminant on the encoder's features still
    reaches: 1 if nothing is lost, 0 if nothing is left. Training is not changed by it: modes, buffers, plain attributes
    and random states are put back after each probe.

    Logged, one point for each probe, over the number of training steps made before it:

    ====================================== ===============================================================
    ``synbench/information``               with ``inputs``: what the features of views or noisy versions of them tell
                                           about which one it was, in nats; higher is better; with ``views`` the one to
                                           monitor
    ``synbench/information_se``            its standard error over the views or the noise, and over the inputs
    ``synbench/readout``                   with ``labels``: the share of their variance that a ridge regression tells of
                                           left-out examples, at most 1; the one to monitor where there are no views
    ``synbench/readout_se``                its standard error over the labelled examples
    ``synbench/score``                     score of the first task at epsilon 0; higher is better; the one to monitor
                                           where there are neither inputs nor labels
    ``synbench/score_se``                  its standard error over the noise of the examples
    ``synbench/worst``                     lowest score of a task; of equally hard tasks it reads low by about
                                           ``worst_se``
    ``synbench/worst_se``                  its standard error
    ``synbench_details/accuracy``          accuracy of the first task, averaged over the scales
    ``synbench_details/alpha_req``         how fast the eigenvalues of the features' covariance within a class fall
                                           (exponent of a power law)
    ``synbench_details/best_layer``        index of the layer with the highest value among those as wide as the
                                           encoder's output
    ``synbench_details/best_layer_...``    its information or readout, and its margin above the encoder's output, or
                                           above the second best, in standard errors
    ``synbench_details/cvar``              mean score of the worse half of the tasks
    ``synbench_details/effective_rank``    in how many directions the features vary (RankMe's entropy of that
                                           covariance)
    ``synbench_details/feature_std``       standard deviation of the features, averaged over the dimensions
    ``synbench_details/gap``               mean score of the tasks minus the lowest
    ``synbench_details/mean``              mean score of the tasks
    ``synbench_details/mean_se`` ...       standard errors of ``mean``, ``cvar``, ``smoothed_worst`` and ``gap``
    ``synbench_details/overhead``          time spent in probes so far, as a fraction of the time since training started
    ``synbench_details/probe_seconds``     wall-clock time of the probe
    ``synbench_details/score_eps_0.20``    score of the first task at each further epsilon
    ``synbench_details/smoothed_worst``    the lowest score, smoothed: between lowest and mean
    ``synbench_layers/<index>_<name>``     information, or readout, of each layer, the first to be called first
    ``synbench_tasks/<name>``              score of each task
    ``synbench_figures/<name>``            figures, see ``log_figures``
    ====================================== ===============================================================

    The first key in the alphabet is the one to monitor, and what the progress bar shows by the name of the prefix.
    Information with white noise says less than a readout: beside one it is ``synbench_details/information``.

    Args:
        encoder: what to probe. ``None``: the call of the first training step whose output is the representation, made
            as training makes it: module or method, with all its arguments (the log names it and the others). Or a
            dotted attribute, as ``"student.trunk"`` or ``"backbone.forward_features"``; or a callable
            ``(pl_module, x) -> features``. Features are ``(N, D)``, tokens ``(N, T, D)`` or maps ``(N, C, ...)``, whose
            mean is taken (over tokens that the attention mask leaves), or an object, dict or list of these. The log
            says where another reading is possible.
        input_shape: shape of one real-valued example, without the batch dimension. ``None``: what the first training
            step gives the encoder; for token ids, what the first embedding makes of them, in whose place the Gaussian
            examples are put. Where that cannot be seen (the encoder is a callable, the step is compiled, weights are
            sharded): the shape of ``example_input_array``, else of the largest real tensor in the first batch. Where
            real vectors have no place at all there is no score, and information and readout alone are logged.
        tasks: ``"default"`` (the paper's task and smooth variations of it), ``"dc"`` (the paper's alone), another
            family of :func:`task_family`, or a sequence of :class:`GaussianTask` and, for real examples,
            :class:`LabelledTask`; the first is the one that is monitored.
        plan: ``"fast"`` (8,192 forwards for all tasks together), ``"official"`` (200,704 for each), or a
            :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1); 0 among them.
        threshold: threshold accuracy of the logged scores, in [0.5, 1).
        every_n_train_steps: optimizer steps between probes. Where Lightning counts none (an optimizer that is not from
            ``configure_optimizers``, steps outside ``training_step``), batches, after 50 of them and a warning; a
            result's ``step`` counts them too.
        every_n_epochs: epochs between probes; if given, it takes the place of ``every_n_train_steps``.
        probe_at_start: probe before the first step.
        probe_at_end: probe when training ends, if the last step was not probed.
        max_overhead: the fraction of the time since training started that probes may take, in (0, 1]. A probe that
            would exceed it is put off by one interval.
        batch_size: examples in one forward of the encoder.
        normalize: mean and standard deviation, numbers or one per channel: the encoder then sees
            ``(x + 0.5 - mean) / std``, as in the paper. ``None`` shows it the standard normal examples themselves.
        inputs: what ``synbench/information`` is measured on. ``"auto"``: 128 training examples, each read 16 times on
            the way that training reads them (dataset, collate function, transfer hooks, training step up to the
            encoder), in a process of its own; where they cannot be read again, the views that training steps give the
            encoder; where nothing is random, noise. Of texts 512 are read, and encoded in four parts each, which share
            no token. The log says which. Or at least 32 unlabelled inputs
            ``(N, *input_shape)`` as the encoder takes them, of which 128 are encoded; ``(N, V, *input_shape)``
            holds V views of each; or a structure of tensors with N rows (token ids and their mask). Values for other
            inputs are not comparable. ``None``: the key is not logged.
        views: a function from a batch of ``inputs``, on the CPU, to a random view of each, such as the augmentations of
            the pretraining; they must be label-preserving. It is called 16 times or more, with a seed of its own and
            without advancing any random generator. For a transform of single examples:
            ``lambda batch: torch.stack([transform(x) for x in batch])``. ``None``: white noise.
        labels: a few labels for ``synbench/readout``: integers ``(N,)``, those of ``inputs``, or a pair (x, y) of
            labelled inputs and their labels; at least 20, of which the first 512 are encoded. They must be of examples
            that are not trained on. ``"auto"``: the classes beside the inputs of the first validation loader.
        layers: which layers are compared, by ``synbench/information`` or, without views and with labels, by
            ``synbench/readout``, from the same forwards. ``"auto"``: the stages or blocks of the encoder, at most
            twelve; or dotted names as ``("backbone.layer2", "backbone.layer4")``; ``None``: none. Without ``inputs``
            and ``labels`` there is nothing to compare them by. Layers of different width are not ranked against each
            other.
        seed: of the examples, which are the same in every probe of a run.
        prefix: of the logged keys; two callbacks in one trainer need two.
        log_figures: give TensorBoard, Wandb and MLflow figures of the probes (the robustness-accuracy curve, accuracy
            and bound over the scale, the tasks over the steps), where matplotlib is installed, and TensorBoard a page
            of charts. Figures between the first and the last probe are left out while drawing them takes more than two
            percent of the time; what cannot be shown is said once and costs nothing else.
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

    title = "SynBench probe"
    _fit_scoped: ClassVar[dict[str, Any]] = {**ProbingCallback._fit_scoped, "_shown": None}

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
        views: Views | None = None,
        labels: Labels | Literal["auto"] | None = None,
        layers: str | Sequence[str] | None = "auto",
        seed: int = 0,
        prefix: str = "synbench",
        log_figures: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
    ) -> None:
        self.threshold = check_number("threshold", threshold, "an accuracy in [0.5, 1)", 0.5, math.nextafter(1, 0))
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
        _check_inputs(inputs, views)
        if labels is not None and not (isinstance(labels, str) and labels == "auto"):
            check_labels(labels, inputs)
        self.inputs, self.views, self.labels = inputs, views, labels
        if isinstance(check_layers(layers), tuple) and inputs is None and labels is None:
            raise ValueError("`layers` needs `inputs`, with `views`, or `labels` to compare them by, got neither.")
        self.layers = layers
        self.log_figures = check_flag("log_figures", log_figures)
        self._figure_logger = FigureLogger(prefix, self.threshold) if log_figures else None
        self._shown: Probe | None = None  # the samples, ready to be shown

    def _begin(self) -> None:
        super()._begin()
        self._probe_warnings = ProbeWarnings(self.threshold)
        self._shape: tuple[int, ...] | None = None  # of an input, likewise
        self._view_collection = ViewCollection(self.seed)
        self._layer_advice = LayerAdvice(self.prefix)

    def _state(self) -> dict[str, Any]:
        return {
            "history": [result.to_dict() for result in self.history],
            "views": self._view_collection.state(),
            "input_shape": None if self._shape is None else list(self._shape),
            "call": self._discovery.state(),
        }

    @classmethod
    def _history_of(cls, state: Any) -> list[ProbeResult]:
        return history_of(state, ProbeResult.from_dict)

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        super()._restore_state(state)
        if isinstance(self.inputs, str) and state.get("views") is not None:
            self._view_collection.restore(state["views"])
        shape = state.get("input_shape")
        self._shape = None if shape is None else check_input_shape(shape)
        self._discovery.restore(state.get("call"))

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
        keys = ("information", "information_se") if self._view_collection.collecting else ()
        return tuple(f"{self.prefix}/{key}" for key in keys)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Probe where the first probe is due, and see what the step gives the encoder where views are still needed."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._view_collection.begin_step(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Fall back to the views of one epoch: in the next one the examples come again."""
        if self._view_collection.end(trainer):
            self._use_views()

    def _release(self) -> None:
        self._view_collection.release()
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
            normalize=self.normalize, inputs=self._inputs(trainer, pl_module, shape), views=self.views,
            labels=self._labels(trainer, pl_module, shape), seed=self.seed, device=trainer.strategy.root_device,
            module=module_behind(self._encoder.forward), call=self._discovery.call,
            layers=self._layer_reader(pl_module),
        )  # fmt: skip
        if not self._ready() and not self._view_collection.collecting:
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
        if isinstance(self.inputs, str):
            self._use_views()
        elif probe.shown is not None:
            self._tell(probe)
        elif self.inputs is None:
            rank_zero_info(
                "SynBench: the tasks do not depend on your data. `inputs='auto'`, or `labels=` of a few held-out "
                "inputs, rank checkpoints better."
            )

    def _ready(self) -> bool:
        return self._shown is not None and self._shown.num_forwards > 0

    def _layer_reader(self, pl_module: LightningModule) -> LayerReader | None:
        if self.layers is None:
            return None
        return LayerReader(pl_module, self.layers, self._encoder_path or "")

    @property
    def _encoder_path(self) -> str | None:
        """The dotted name of the encoder; ``None`` where it has none that is known."""
        if self._discovery.call is not None:
            return self._discovery.call.path
        return self.encoder if isinstance(self.encoder, str) else None

    def _can_probe_unobserved(self) -> bool:
        return self.input_shape is not None or self._shape is not None

    def _decided_shape(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> tuple[int, ...] | None:
        """The shape of one Gaussian example, for the whole run: the first process decides; ``None`` for no examples."""
        if self.input_shape is not None:
            return self.input_shape
        if self._shape is not None:
            return self._shape
        if self._discovery.call is not None:
            placement = self._discovery.call.placement
            return None if placement is None else placement.shape
        found: tuple[int, ...] | str
        try:  # the other processes must hear of it before anybody leaves
            example = pl_module.example_input_array
            source = "the first training batch" if example is None else "`example_input_array`"
            found = example_shape(batch if example is None else example, source)
        except ValueError as error:
            found = str(error)
        found = trainer.strategy.broadcast(found)
        if isinstance(found, str):
            raise ValueError(found)
        return found

    def _inputs(self, trainer: Trainer, pl_module: LightningModule, shape: tuple[int, ...] | None) -> Any:
        """The inputs for the information, the same on every process; ``None`` where there are none yet."""
        if not isinstance(self.inputs, str):
            return self.inputs
        seconds = READ_SECONDS if self.max_overhead is None else None
        with self._counted():
            self._view_collection.begin(trainer, pl_module, self._discovery.call, shape, seconds)
        return self._view_collection.inputs

    def _labels(self, trainer: Trainer, pl_module: LightningModule, shape: tuple[int, ...] | None) -> Labels | None:
        """The labels for the readout, the same on every process; ``None`` where there are none."""
        if not isinstance(self.labels, str):
            return self.labels
        with self._counted():
            found = held_out_labels(trainer, pl_module, self._discovery.call, shape, self.seed)
        measured = "is measured on" if found.pair else "is not measured:"
        rank_zero_info(f"SynBench: `{self.prefix}/readout` {measured} {found.sentence}.")
        return found.pair

    def _use_views(self) -> None:
        """Measure information on the views that were found, from the next probe on."""
        probe, found = self._shown, self._view_collection.inputs
        if probe is None or self._view_collection.collecting:
            return
        probe.shown = found
        if found is not None:
            self._tell(probe)
        elif self._view_collection.sentence:
            rank_zero_info(
                f"SynBench: `{self.prefix}/information`: {self._view_collection.sentence.removesuffix('.')}."
            )

    def _tell(self, probe: Probe) -> None:
        """Say what information is measured on, and where that may mislead."""
        shown = probe.shown
        assert shown is not None
        what = self._view_collection.sentence
        if not isinstance(self.inputs, str):
            what = {
                "views": f"{shown.num_inputs} inputs in {shown.draws} random views each, from `views`",
                "pairs": f"{shown.num_inputs} inputs in {shown.draws} views each, which were given",
                "noise": f"{shown.num_inputs} inputs with white noise in {shown.draws} draws each. Noise approximates "
                "nuisance variation; it misleads where labels are not about what mostly varies: give `views`, your "
                "augmentations",
            }[shown.kind]
        rank_zero_info(f"SynBench: `{self.prefix}/information` is measured on {what.removesuffix('.')}.")
        for warning in probe.warnings:
            rank_zero_warn(warning)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, and probe where a probe is due."""
        if isinstance(outputs, Mapping) and isinstance(outputs.get("loss"), Tensor):
            self._probe_warnings.trained(outputs["loss"])
        if self._view_collection.end_step(trainer, pl_module, batch):
            self._use_views()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _read_deferred(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read views, put off by `max_overhead`, once they take no more than what is allowed by now."""
        if not self._view_collection.deferred or self.max_overhead is None:
            return
        elapsed = time.perf_counter() - self._train_start
        allowed = trainer.strategy.broadcast(self.max_overhead * elapsed - self._probe_seconds)
        if allowed < self._view_collection.least_seconds:
            return
        call, shape = self._discovery.call, None if self._shown is None else self._shown.given_shape
        with self._counted():
            self._view_collection.begin(trainer, pl_module, call, shape, min(allowed, READ_SECONDS))
        self._use_views()

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
            reason = self._view_collection.discard(str(error))
            probe.shown = None
            if not probe.num_forwards:
                raise
            result = probe(encoder, processes, progress)
            rank_zero_warn(f"`{self.prefix}/information` is not measured on training examples: {reason}")
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


def _check_inputs(inputs: Any, views: Any) -> None:
    """What can be said of inputs and views before the encoder is known."""
    if isinstance(inputs, str) and inputs != "auto":
        raise ValueError(
            f"`inputs` must be 'auto', inputs as the encoder takes them, or None, got {inputs!r}"
            f"{': ' + repr('auto') + ' takes views from training steps too' if inputs == 'first_batch' else ''}."
        )
    usable = inputs is None or isinstance(inputs, (str, Tensor)) or num_examples(inputs) is not None
    if not usable and not (isinstance(inputs, (list, tuple)) and inputs):
        raise ValueError(
            f"`inputs` must be 'auto', a tensor (N, *input_shape), a structure of tensors, or None, got "
            f"{shown(inputs)}: `torch.as_tensor` makes a tensor of an array."
        )
    if views is not None and (inputs is None or isinstance(inputs, str) or not callable(views)):
        needed = "needs `inputs` of which views are drawn, a tensor or a structure of tensors"
        kind = f"must be a function from a batch of inputs to views of them, or None, got {shown(views)}"
        raise ValueError(f"`views` {needed if callable(views) else kind}.")
