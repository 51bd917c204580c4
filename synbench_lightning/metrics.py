"""The SynBench score as a torchmetrics metric, for precomputed features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from synbench_lightning.checks import check_number
from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.gaussian.discriminant import accuracy_and_bound, check_epsilons
from synbench_lightning.functional.gaussian.score import check_thresholds, synbench_score
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.runtime.devices import statistics_device


class SynBenchScore(Metric):
    r"""SynBench score of one Gaussian task, from the features of its examples.

    For plain training loops: encode examples :math:`x = \pm s\,u + noise` at the scales of a plan (see
    :class:`ProbePlan` and :class:`GaussianTask`) and update with their features. The score is the one that
    :func:`evaluate` computes from the same features, with the same estimators (:func:`.estimate_limit`,
    :func:`.accuracy_and_bound`, :func:`.synbench_score`). All features are kept, since the estimators need held-out
    features: 4 bytes x examples x dimensions. Those of all processes are gathered in ``compute``.

    With the protocol ``"fast"`` every scale needs as many examples of class 1 as of class 0, and as many as the other
    scales. The i-th example of one class and the i-th of the other are a pair. If they have the same noise, the
    estimate has a smaller variance; it is valid in either case. With ``"official"`` the discriminant is fitted to the
    first half of each class's examples at a scale, and the second half is held out.

    Args:
        plan: ``"fast"``, ``"official"`` or a :class:`ProbePlan`: the scales, their weights and the estimator. The
            number of examples is that of the updates.
        epsilon: strength of the shift that the discriminant is robust to, in [0, 1).
        threshold: threshold accuracy, in [0.5, 1); from 0.6 with the official plan.
        **kwargs: those of :class:`torchmetrics.Metric`.

    Raises:
        ValueError: for an argument outside its range.

    Example:
        >>> metric, generator = SynBenchScore(plan=ProbePlan(num_scales=8)), torch.Generator().manual_seed(0)
        >>> direction, labels = torch.ones(16) / 4, torch.arange(2).repeat_interleave(256)
        >>> for scale in metric.plan.scales:
        ...     noise = torch.randn(256, 16, generator=generator).repeat(2, 1)
        ...     features = noise + (2 * labels[:, None] - 1) * scale * direction  # a lossless encoder
        ...     metric.update(features, labels, scale)
        >>> 0.97 < metric.compute() < 1.03
        tensor(True)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    features: list[Tensor]
    labels: list[Tensor]
    places: list[Tensor]

    def __init__(
        self, plan: ProbePlan | str = "fast", epsilon: float = 0.0, threshold: float = 0.7, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.plan = ProbePlan.of(plan)
        (self.epsilon,) = check_epsilons((check_number("epsilon", epsilon, "a number in [0, 1)", 0),))
        self.threshold = check_number("threshold", threshold, "a threshold accuracy", 0)
        check_thresholds((self.threshold,), self.plan.lowest_threshold)
        for name in ("features", "labels", "places"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, labels: Tensor, scale: float | Tensor) -> None:
        """Add the features of a batch.

        Args:
            features: ``(N, D)`` features, floating-point.
            labels: ``(N,)`` classes of the examples, 1 (shifted by ``+s u``) or 0 (by ``-s u``).
            scale: the scale ``s`` of the examples, one for all or ``(N,)``; each one of the plan's.

        Raises:
            ValueError: for shapes that do not fit, labels other than 0 and 1, a scale that is not in the plan.
        """
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"`features` must be a floating-point tensor (samples, dimensions), got {features.dtype} of shape "
                f"{tuple(features.shape)}."
            )
        if labels.shape != features.shape[:1] or not bool(((labels == 0) | (labels == 1)).all()):
            raise ValueError(
                f"`labels` must be 0 or 1, one for each of the {len(features)} rows of `features`, got shape "
                f"{tuple(labels.shape)} with {labels.unique().tolist()[:8]}."
            )
        where = statistics_device(features.device)
        given = torch.as_tensor(scale).to(where, torch.float64)
        if given.ndim and given.shape != labels.shape:
            raise ValueError(
                f"`scale` must be a number or of shape {(len(features),)}, one for each row of `features`, got "
                f"{tuple(given.shape)}."
            )
        known = torch.tensor(self.plan.scales, dtype=torch.float64, device=where)
        distance, place = (given.expand(labels.shape)[:, None] - known).abs().min(1)
        if bool((distance > 1e-6).any()):
            raise ValueError(
                f"`scale` must be one of the plan's scales, {_listed(self.plan.scales)}, got "
                f"{float(given.expand(labels.shape)[distance.argmax()]):g}."
            )
        self.features.append(features.detach() if features.dtype == torch.float64 else features.detach().float())
        self.labels.append(labels.long())
        self.places.append(place.to(features.device))

    def compute(self) -> Tensor:
        """Compute the score, a scalar in float64, or in float32 on a device that has no float64.

        Raises:
            ValueError: if scales are missing, or the numbers of examples do not suit the protocol.
        """
        states = [_joined(state) for state in (self.features, self.labels, self.places)]
        home = states[0].device
        where = statistics_device(home)
        features, labels, places = (state.to(where) for state in states)
        scales = self.plan.scales
        cells = [[features[(places == place) & (labels == label)] for label in (1, 0)] for place in range(len(scales))]
        missing = [scale for scale, (plus, minus) in zip(scales, cells, strict=True) if not (len(plus) and len(minus))]
        if missing:
            raise ValueError(
                f"SynBenchScore needs examples of both classes at every scale of its plan; missing are "
                f"{_listed(missing)}. Update with all of them before `compute`."
            )
        accuracy, bound = self._limit(cells) if self.plan.protocol == "fast" else self._official(cells)
        score = synbench_score(
            accuracy.cpu(), bound.cpu(), scales, (self.threshold,), self.plan.weights, grid=self.plan.grid
        )
        return (score[0] if where == home else score[0].float()).to(home)

    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: Any = None) -> Any:
        """Plot one or several values, by default the current one (needs matplotlib).

        Args:
            val: a value of ``compute``, or several.
            ax: matplotlib axes to draw into.

        Returns:
            The figure and its axes.

        Example:
            >>> figure, axes = SynBenchScore().plot([torch.tensor(0.2), torch.tensor(0.8)])
        """
        return self._plot(val, ax)

    def _limit(self, cells: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        counts = sorted({len(of_class) for cell in cells for of_class in cell})
        if len(counts) > 1:
            raise ValueError(
                "With a fast plan every class and scale needs the same number of examples, got between "
                f"{counts[0]} and {counts[-1]}."
            )
        paired = torch.stack([torch.stack(cell, 1) for cell in cells])
        found = estimate_limit(paired[None], self.plan.scales, (self.epsilon,))
        return found.accuracy[0, 0], found.bound[0, 0]

    def _official(self, cells: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        found = []
        for plus, minus in cells:
            halves = [of_class.tensor_split([len(of_class) // 2]) for of_class in (plus, minus)]
            (train, train_labels), (test, test_labels) = map(_labelled, *halves)
            curves = accuracy_and_bound(train, train_labels, test, test_labels, (self.epsilon,))
            found.append(torch.cat(curves))
        accuracy, bound = torch.stack(found, 1)
        return accuracy, bound


def _labelled(plus: Tensor, minus: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([plus, minus]), torch.cat([plus.new_ones(len(plus)), minus.new_zeros(len(minus))])


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    """Concatenate a state of torchmetrics: a list of updates, or one tensor after gathering from the processes."""
    return state if isinstance(state, Tensor) else torch.cat(state) if state else torch.empty(0)


def _listed(scales: Sequence[float]) -> str:
    return ", ".join(f"{scale:.4g}" for scale in scales)
