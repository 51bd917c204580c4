"""The result of a probe: immutable, comparable, convertible to and from plain dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from synbench_lightning.checks import check_fields, shown
from synbench_lightning.functional.gaussian.aggregates import FRACTION, TEMPERATURE, aggregate, aggregate_weights
from synbench_lightning.functional.gaussian.score import synbench_score
from synbench_lightning.probe.layers import BestLayer, LayerResult, best_layer
from synbench_lightning.probe.plan import ProbePlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = tuple[tuple[tuple[float, ...], ...], ...]


class Aggregate(NamedTuple):
    """An aggregate over tasks, and its standard error; ``None`` if it is unknown."""

    value: float
    standard_error: float | None


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe: accuracy, bound and SynBench score of each task, information, readout and layers.

    Args:
        tasks: names of the tasks; the first is the default of :meth:`score`.
        epsilons: strengths of the shift, relative to half the distance of the class means.
        thresholds: threshold accuracies of :attr:`scores`.
        accuracy: ``(T, E, K)`` held-out accuracy of the epsilon-robust discriminant.
        bound: ``(T, E, K)`` mean margin of the correctly classified points, relative to that of the class mean.
        standard_errors: ``(T, E, H)`` standard errors of the scores over the noise; ``None`` for the official protocol.
        plan: the budget and protocol.
        feature_dim: dimensions of the representation.
        effective_rank: effective rank (RankMe, exponential of the spectral entropy) of the within-class covariance.
        alpha_req: power-law exponent of the eigenvalue decay of that covariance; ``None`` if the features vary in
            fewer than two directions.
        feature_std: within-class standard deviation of the features, averaged over the dimensions.
        information: mutual information between the features of a view (or noisy version) and the identity of the
            input, in nats; see :func:`.instance_information`. ``None`` without inputs.
        information_error: its standard error over noise or views and over the inputs.
        information_kind: how the inputs were varied: by ``"noise"``, by ``"views"`` that a function sampled, or as
            given ``"pairs"`` of views; ``None`` without inputs.
        inputs: number of these inputs, and a checksum of them and of their views.
        readout: leave-one-out R² of a ridge regression of a few labels; see :func:`.few_label_readout`. ``None``
            without labels.
        readout_error: its standard error over the labeled examples.
        labels: number of labeled examples, and checksums of them.
        information_replicates: jackknife replicates, the information without each group of inputs and of views;
            :func:`~synbench_lightning.rank` computes standard errors of differences from them. Empty without inputs.
        readout_replicates: ``(1, G)`` jackknife replicates, the readout without each group of labeled examples. Empty
            without labels.
        input_shape: shape of one example; ``None`` if it is unknown.
        num_forwards: number of encoded examples, over all processes.
        seed: seed of the examples.
        seconds: wall-clock time of the probe.
        step: optimizer steps before the probe, or batches if Lightning counts no steps; ``None`` outside training.
        layers: results of the encoder's layers, in the order of their calls; the last one that is not in a head is the
            encoder's output. Empty if none were read.
        labelled: names of the tasks made of real examples; their accuracy and bound are the same at every scale.

    Example:
        >>> result = ProbeResult(
        ...     tasks=("dc",), epsilons=(0.0,), thresholds=(0.7,), plan=ProbePlan(num_scales=2),
        ...     accuracy=(((0.8, 0.99),),), bound=(((1.3, 1.0),),), standard_errors=(((0.01,),),),
        ...     feature_dim=64, effective_rank=50.0, alpha_req=0.5, feature_std=1.0, num_forwards=8192,
        ...     seed=0, seconds=1.0,
        ... )
        >>> round(result.score(), 3)
        0.851
        >>> ProbeResult.from_dict(result.to_dict()) == result
        True
    """

    tasks: tuple[str, ...]
    epsilons: tuple[float, ...]
    thresholds: tuple[float, ...]
    accuracy: Table
    bound: Table
    standard_errors: Table | None
    plan: ProbePlan
    feature_dim: int
    effective_rank: float
    alpha_req: float | None
    feature_std: float
    num_forwards: int
    seed: int
    seconds: float
    step: int | None = None
    labelled: tuple[str, ...] = ()
    information: float | None = None
    information_error: float | None = None
    inputs: str | None = None
    information_kind: str | None = None
    readout: float | None = None
    readout_error: float | None = None
    labels: str | None = None
    input_shape: tuple[int, ...] | None = None
    layers: tuple[LayerResult, ...] = ()
    information_replicates: tuple[tuple[float, ...], ...] = ()
    readout_replicates: tuple[tuple[float, ...], ...] = ()

    @property
    def scales(self) -> tuple[float, ...]:
        """``(K,)`` scales of the probe."""
        return self.plan.scales

    @property
    def weights(self) -> tuple[float, ...]:
        """``(K,)`` weights of the scales in the score's areas."""
        return self.plan.weights

    @property
    def settings(self) -> str:
        """Settings of the probe as text: tasks, plan, epsilons, seed, input shape, inputs, labels."""
        shape = "" if self.input_shape is None else f"; input shape {self.input_shape}"  # of the Gaussian examples
        inputs = "" if self.inputs is None else f"; inputs {self.inputs}"
        labels = "" if self.labels is None else f"; labels {self.labels}"
        return f"{self._settings_of_score}{shape}{inputs}{labels}"

    @property
    def _settings_of_score(self) -> str:
        return f"tasks {', '.join(self.tasks)}; {self.plan}; epsilons {self.epsilons}; seed {self.seed}"

    @property
    def best_key(self) -> str:
        """The logged key to monitor: the first of these that is available.
        ``"information"`` under views; then ``"readout"``; then ``"information"`` with white noise; then ``"score"``.
        """
        if self.information_kind in ("views", "pairs"):
            return "information"
        if self.readout is not None:
            return "readout"
        return "information" if self.information is not None or not self.tasks else "score"

    @property
    def layer_key(self) -> str:
        """The key that layers are compared by: ``"information"`` under views, else ``"readout"``, else with noise."""
        return "information" if self.best_key == "score" else self.best_key

    @property
    def best_layer(self) -> BestLayer | None:
        """The best layer among those as wide as the encoder's output; ``None`` if there is no other.

        Also ``None`` with noise instead of views: information with noise favors early layers, which are nearly
        lossless.
        """
        if self.layer_key == "information" and self.information_kind == "noise":
            return None
        return best_layer(self.layers, self.layer_key)

    def compares(self, other: ProbeResult) -> bool:
        """Whether two results are comparable: the same settings for every value that both have.

        Example:
            >>> from synbench_lightning import evaluate
            >>> plain = evaluate(torch.nn.Flatten(), (4,))
            >>> informed, other = (evaluate(torch.nn.Flatten(), (4,), inputs=torch.randn(32, 4)) for _ in range(2))
            >>> plain.compares(informed), informed.compares(other)
            (True, False)
        """
        return not self.differences(other)

    def differences(self, other: ProbeResult) -> tuple[str, ...]:
        """Names of the settings that both results have and in which they differ.

        Example:
            >>> from synbench_lightning import evaluate
            >>> one, other = (evaluate(torch.nn.Flatten(), (4,), seed=seed, tasks=tasks) for seed, tasks in
            ...               ((0, "dc"), (1, "default")))
            >>> one.differences(other)
            ('tasks', 'seed')
        """
        names = ("tasks", "plan", "epsilons", "seed", "input_shape", "inputs", "labels")
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return tuple(name for name, own, its in pairs if None not in (own, its) and own != its)

    @property
    def collapsed(self) -> bool:
        """Whether the features have collapsed to a constant, so that no discriminant exists for any task."""
        if not self.tasks:
            return self.feature_std == 0
        return not any(value for rows in self.bound for row in rows for value in row)

    @property
    def scores(self) -> Table:
        """``(T, E, H)`` SynBench score of each task, epsilon and threshold."""
        return as_table(self._scores(self.thresholds))

    def score(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float:
        """The SynBench score of a task, by default the first one, at any threshold.

        Raises:
            ValueError: for a task or an epsilon that was not probed, or a threshold outside [0.5, 1).
        """
        row, column = self._place(task, epsilon)
        return float(self._scores((threshold,))[row, column, 0])

    def standard_error(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float | None:
        """Standard error of :meth:`score` over the noise of the examples, i.e. over seeds.

        A jackknife over the noise vectors. It does not include the bias of the estimate.

        Raises:
            ValueError: for a task, an epsilon or a threshold that was not probed.
        """
        if self.standard_errors is None:
            return None
        row, column = self._place(task, epsilon)
        return self.standard_errors[row][column][_position(self.thresholds, threshold, "threshold")]

    def task_scores(self, epsilon: float = 0.0, threshold: float = 0.7) -> dict[str, float]:
        """The scores of all tasks, in their order."""
        scores = self._scores((threshold,))[:, self._place(None, epsilon)[1], 0]
        return dict(zip(self.tasks, scores.tolist(), strict=True))

    def worst(self, epsilon: float = 0.0, threshold: float = 0.7) -> tuple[str, float]:
        """The task with the lowest score, and its score."""
        scores = self.task_scores(epsilon, threshold)
        task = min(scores, key=scores.__getitem__)
        return task, scores[task]

    def aggregates(
        self, epsilon: float = 0.0, threshold: float = 0.7, fraction: float = FRACTION, temperature: float = TEMPERATURE
    ) -> dict[str, Aggregate]:
        """Worst, conditional value at risk, smoothed worst, mean and gap of the tasks' scores, with standard errors.

        See :func:`.aggregate` for their definitions and for how much the worst of several estimates is biased low.
        Standard errors assume independent noise between tasks; they are ``None`` for the official protocol or a
        threshold that was not among :attr:`thresholds`.
        """
        scores = list(self.task_scores(epsilon, threshold).values())
        values, weights = (of(scores, fraction, temperature) for of in (aggregate, aggregate_weights))
        if self.standard_errors is None or threshold not in self.thresholds:
            return {name: Aggregate(float(value), None) for name, value in values.items()}
        of_tasks = [self.standard_error(task, epsilon, threshold) for task in self.tasks]
        errors = torch.tensor(of_tasks, dtype=torch.float64)
        return {name: Aggregate(float(value), float((weights[name] * errors).norm())) for name, value in values.items()}

    def accuracy_aggregates(
        self, epsilon: float = 0.0, fraction: float = FRACTION, temperature: float = TEMPERATURE
    ) -> dict[str, tuple[float, ...]]:
        """The same aggregates of the tasks' accuracies at each scale, ``(K,)``."""
        accuracy = torch.tensor(self.accuracy, dtype=torch.float64)[:, self._place(None, epsilon)[1]].T
        return {name: tuple(value.tolist()) for name, value in aggregate(accuracy, fraction, temperature).items()}

    def best_epsilon(self, task: str | None = None, threshold: float = 0.7) -> float:
        """The probed epsilon with the highest score of a task; the smallest one in a tie.

        SynBench suggests it as the epsilon of a robust linear probe of the representation, as in
        :class:`synbench_lightning.RobustLinearProbe`. That applies to the official plan, whose discriminants are fitted
        to few samples; with the fast plan, which estimates the large-sample limit, it is 0 for most encoders.
        """
        return max(sorted(self.epsilons), key=lambda epsilon: self.score(task, epsilon, threshold))

    def mean_accuracy(self, task: str | None = None, epsilon: float = 0.0) -> float:
        """Accuracy of a task, by default the first one, averaged over the scales."""
        row, column = self._place(task, epsilon)
        values = self.accuracy[row][column]
        weights = self.plan.weights
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain numbers, strings, lists and dicts that are safe in checkpoints and in JSON."""
        numbers = (
            "feature_dim",
            "effective_rank",
            "alpha_req",
            "feature_std",
            "information",
            "information_error",
            "information_kind",
            "inputs",
            "readout",
            "readout_error",
            "labels",
            "num_forwards",
            "seed",
            "seconds",
            "step",
        )
        plain = {name: getattr(self, name) for name in numbers}
        lists = {name: list(getattr(self, name)) for name in ("tasks", "epsilons", "thresholds", "labelled")}
        plain["input_shape"] = None if self.input_shape is None else list(self.input_shape)
        tables = {name: [[list(row) for row in rows] for rows in getattr(self, name)] for name in ("accuracy", "bound")}
        errors = self.standard_errors and [[list(row) for row in rows] for rows in self.standard_errors]
        plain["layers"] = [asdict(layer) for layer in self.layers]
        for name in ("information_replicates", "readout_replicates"):
            plain[name] = [list(row) for row in getattr(self, name)]
        return {**lists, **tables, "standard_errors": errors, "plan": asdict(self.plan), **plain}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ProbeResult:
        """Create a result from the output of :meth:`to_dict`.

        Raises:
            ValueError: for unknown or missing fields, or values of another type.
        """
        check_fields(cls, values)
        check_fields(ProbePlan, values["plan"])
        lists = {
            name: tuple(values[name])
            for name in ("tasks", "epsilons", "thresholds", "labelled", "input_shape")
            if values.get(name) is not None
        }
        tables = {name: _table(values[name]) for name in ("accuracy", "bound")}
        errors = None if values["standard_errors"] is None else _table(values["standard_errors"])
        plan = ProbePlan(**values["plan"])
        layers = tuple(map(_layer, values.get("layers") or ()))
        for name in ("information_replicates", "readout_replicates"):
            lists[name] = tuple(map(tuple, values.get(name) or ()))
        noise = {} if values.get("information") is None else {"information_kind": "noise"}  # was all that there was
        found = cls(**{**noise, **values, **lists, **tables, "standard_errors": errors, "plan": plan, "layers": layers})
        shape = (len(found.tasks), len(found.epsilons), len(plan.scales))
        for name, table in tables.items():
            if found.tasks and torch.tensor(table).shape != shape:
                raise ValueError(f"a ProbeResult has `{name}` of another shape than {shape}, tasks x epsilons x scales")
        return found

    def at(self, step: int | None) -> ProbeResult:
        """The same result, made at a step of training."""
        return replace(self, step=step)

    def plot(self, task: str | None = None, threshold: float = 0.7) -> Figure:
        """The robustness-accuracy curve of a task against the optimum (needs the extra ``plots``)."""
        from synbench_lightning.plots import robustness_accuracy_figure

        return robustness_accuracy_figure(self, task, threshold)

    def _place(self, task: str | None, epsilon: float) -> tuple[int, int]:
        """Indices of a task, by default the first one, and of an epsilon in the tables."""
        if not self.tasks:
            raise ValueError(
                "This probe has no score: the encoder does not accept the real-valued examples of Gaussian tasks. It "
                "has `information` or `readout`."
            )
        row = 0 if task is None else _position(self.tasks, task, "task")
        return row, _position(self.epsilons, epsilon, "epsilon")

    def _scores(self, thresholds: Sequence[float]) -> torch.Tensor:
        accuracy, bound = (torch.tensor(table, dtype=torch.float64) for table in (self.accuracy, self.bound))
        scores = synbench_score(accuracy, bound, self.scales, thresholds, self.plan.weights, grid=self.plan.grid)
        levels = torch.tensor([float(level) for level in thresholds], dtype=torch.float64)
        for row, task in enumerate(self.tasks):
            if task in self.labelled:  # the Bayes-optimal accuracy is unknown: 1 replaces it
                scores[row] = (accuracy[row, :, :1] - levels).clamp_min(0) / (1 - levels)
        return scores


def as_table(values: torch.Tensor) -> Table:
    """Convert a tensor with three dimensions to nested tuples of floats."""
    return tuple(tuple(tuple(row) for row in rows) for rows in values.tolist())


def _table(values: Sequence[Sequence[Sequence[float]]]) -> Table:
    return as_table(torch.tensor(values, dtype=torch.float64))


def _layer(values: Mapping[str, Any]) -> LayerResult:
    check_fields(LayerResult, values)
    return LayerResult(**{**values, "replicates": tuple(tuple(row) for row in values.get("replicates", ()))})


def _position(known: Sequence[object], value: object, name: str) -> int:
    if not isinstance(value, (str, float, int)) or value not in known:
        raise ValueError(f"`{name}` must be one that was probed, {list(known)}, got {shown(value)}.")
    return known.index(value)
