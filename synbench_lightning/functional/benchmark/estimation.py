"""A benchmark's value from the points that were evaluated, with a standard error and an interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from synbench_lightning.checks import check_integer, check_number
from synbench_lightning.functional.benchmark.dynamics import standardised


class Estimate(NamedTuple):
    """A value, its standard error (infinite where it is not known) and the degrees of freedom of that, ``(...)`` each.

    Example:
        >>> low, high = mean_estimate(torch.tensor([1.0, 2.0, 3.0, 4.0])).interval()
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.446, 4.554)
    """

    value: Tensor
    standard_error: Tensor
    degrees_of_freedom: Tensor

    def interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Limits that hold the true value with the given probability if errors are Gaussian, ``(...)`` each."""
        half = _quantile(confidence, self.degrees_of_freedom) * self.standard_error
        return self.value - half, self.value + half


def mean_estimate(values: Tensor, population: int | None = None) -> Estimate:
    """Mean of points that were drawn at random, each with the same probability.

    Args:
        values: ``(..., m)`` values of the points.
        population: number of points that they were drawn from, without replacement; ``None`` for infinitely many.

    Returns:
        The estimate ``(...)`` of the population's mean; the standard error is infinite for a single point, and 0 where
        all points were evaluated.

    Raises:
        ValueError: for no values, or more of them than the population has.

    Example:
        >>> mean_estimate(torch.tensor([1.0, 2.0, 3.0]), population=4).standard_error
        tensor(0.2887, dtype=torch.float64)
    """
    values = _values(values)
    count = values.shape[-1]
    total = count if population is None else _population(population, count)
    left = 1.0 if population is None else 1 - count / total
    variance = values.var(-1) if count > 1 else torch.full_like(values[..., 0], torch.inf)
    error = (variance * left / count).sqrt() if left else torch.zeros_like(values[..., 0])
    return _estimate(values.mean(-1), error, count - 1)


def weighted_mean(values: Tensor, weights: Tensor, population: int | None = None) -> Estimate:
    """Mean of points that stand for different shares of a population, as anchors do for their clusters.

    The standard error is that of a ratio of two weighted sums over independent draws. Anchors are not drawn: for them
    it describes the scatter between clusters, and no probability stands behind the interval.

    Args:
        values: ``(..., m)`` values of the points.
        weights: ``(m,)`` weights, not negative, not all 0; scaled to sum 1 here.
        population: number of points that they stand for; ``None`` for infinitely many.

    Returns:
        The estimate ``(...)``; the standard error is infinite for a single point.

    Raises:
        ValueError: for no values, weights that do not fit, or more values than the population has.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])).value
        tensor(2., dtype=torch.float64)
    """
    values = _values(values)
    count = values.shape[-1]
    shares = weights.double()
    if shares.shape != (count,) or not bool((shares >= 0).all()) or not bool(shares.sum() > 0):
        raise ValueError(
            f"`weights` must be {count} numbers of at least 0, one for each value and not all 0, got "
            f"{tuple(weights.shape)}: {weights.tolist()[:8]}."
        )
    left = 1.0 if population is None else 1 - count / _population(population, count)
    shares = shares / shares.sum()
    mean = (shares * values).sum(-1)
    scatter = (shares * (values - mean[..., None])).square().sum(-1)
    inflated = scatter * count / (count - 1) if count > 1 else torch.full_like(mean, torch.inf)
    error = (inflated * left).sqrt() if left else torch.zeros_like(mean)
    return _estimate(mean, error, count - 1)


def lure_weights(proposal: Tensor, population: int) -> Tensor:
    r"""Weights ``(M,)`` of the levelled unbiased risk estimator: the estimate is the sum of weight times value.

    :math:`v_m / M` with :math:`v_m = 1 + \frac{N-M}{N-m} \left(\frac{1}{(N-m+1) q_m} - 1\right)`.
    Source: Farquhar, Gal and Rainforth, On Statistical Bias in Active Learning (2021).

    Args:
        proposal: ``(M,)`` probability :math:`q_m` of each draw among the points that were left, in the order of draws.
        population: number N of points that were drawn from, at least M.

    Raises:
        ValueError: for probabilities outside (0, 1], or more draws than the population has points.

    Example:
        >>> lure_weights(torch.tensor([1 / 10, 1 / 9]), population=10)  # all equally likely: the plain mean
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    q = proposal.double()
    if q.ndim != 1 or len(q) == 0 or not bool(((q > 0) & (q <= 1)).all()):
        raise ValueError(f"`proposal` must be probabilities in (0, 1], at least one, got {proposal.tolist()[:8]}.")
    draws = len(q)
    total = _population(population, draws)
    if draws == total:
        return torch.full_like(q, 1 / draws)
    turn = torch.arange(1, draws + 1, dtype=torch.float64)
    return (1 + (total - draws) / (total - turn) * (1 / ((total - turn + 1) * q) - 1)) / draws


def lure(values: Tensor, proposal: Tensor, population: int) -> Estimate:
    r"""Mean of a population from points drawn one by one without replacement, whatever the proposal: unbiased.

    After each draw :math:`a_m = L_m / (N q_m) + \frac{1}{N} \sum_{t<m} L_t` estimates the mean without bias, and the
    errors of the :math:`a_m` are uncorrelated; the levelled estimator is a weighted mean of them, and its standard
    error follows from their scatter. Source: Farquhar, Gal and Rainforth (2021); Kossen et al., Active Testing (2021).

    Args:
        values: ``(..., M)`` values :math:`L_m` in the order of the draws.
        proposal: ``(M,)`` probability :math:`q_m` of each draw among the points that were left.
        population: number N of points that were drawn from, at least M.

    Returns:
        The estimate ``(...)``; the standard error is infinite for a single point, and 0 where all were evaluated.

    Raises:
        ValueError: for values, probabilities or a population that do not fit.

    Example:
        >>> losses = torch.tensor([4.0, 1.0])  # of three points with losses 4, 1, 1
        >>> lure(losses, torch.tensor([4 / 6, 1 / 2]), population=3).value  # drawn in proportion to the loss
        tensor(2.0000, dtype=torch.float64)
    """
    values = _values(values)
    draws = values.shape[-1]
    if proposal.shape != (draws,):
        raise ValueError(f"`proposal` must have shape {(draws,)}, one for each value, got {tuple(proposal.shape)}.")
    weights = lure_weights(proposal, population)
    value = (weights * values).sum(-1)
    if draws == population:
        return _estimate(value, torch.zeros_like(value), draws - 1)
    turn = torch.arange(1, draws + 1, dtype=torch.float64)
    level = population * (population - draws) / ((population - turn) * (population - turn + 1)) / draws
    before = values.cumsum(-1) - values
    single = values / (population * proposal.double()) + before / population
    # Each term over what it would be on average if all had the same variance: so the sum has no bias then.
    shrunk = 1 - 2 * level + level.square().sum()
    terms = (level * (single - value[..., None])).square() / shrunk
    error = terms.sum(-1).sqrt() if draws > 1 else torch.full_like(value, torch.inf)
    return _estimate(value, error, draws - 1)


def aipw(values: Tensor, predictions: Tensor, indices: Tensor, proposal: Tensor | None = None) -> Estimate:
    r"""Predictions for all points, corrected by how far off they were for those that were evaluated.

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`lure` estimate of the mean residual :math:`y - f` (augmented
    inverse probability weighting). It has no bias whatever the predictions, as long as they were not made from the
    values; the better they are, the smaller its error. As predictions, the values at earlier checkpoints serve.

    Args:
        values: ``(..., m)`` values of the points that were evaluated, in the order of the draws.
        predictions: ``(N,)`` predicted values of all points.
        indices: ``(m,)`` places of the evaluated points among them.
        proposal: ``(m,)`` probability of each draw among the points that were left; ``None``: all equally likely.

    Returns:
        The estimate ``(...)`` of the mean over all points.

    Raises:
        ValueError: for values, predictions or probabilities that do not fit.

    Example:
        >>> before = torch.tensor([1.0, 2.0, 3.0, 4.0])
        >>> aipw(torch.tensor([2.5, 4.5]), before, torch.tensor([1, 3]))  # both have risen by a half
        Estimate(value=tensor(3., dtype=torch.float64), standard_error=tensor(0., dtype=torch.float64), degrees_of_freedom=tensor(1., dtype=torch.float64))
    """  # noqa: E501 (one line, as it is printed)
    values, predicted = _residual_parts(values, predictions, indices)
    residuals = values - predicted[indices]
    if proposal is None:
        residual = mean_estimate(residuals, len(predicted))
    else:
        residual = lure(residuals, proposal, len(predicted))
    return residual._replace(value=predicted.mean() + residual.value)


def weighted_residual(values: Tensor, predictions: Tensor, indices: Tensor, weights: Tensor) -> Estimate:
    r"""Predictions for all points, corrected by how far off they were for points that stand for the others.

    :math:`\frac{1}{N} \sum_i f_i` plus the :func:`weighted_mean` of the residuals :math:`y - f`: what :func:`aipw` is
    for points drawn at random, for anchors or centres of clusters. It has a bias where residuals within a cluster
    differ, and no probability stands behind its interval.

    Args:
        values: ``(..., m)`` values of the points that were evaluated.
        predictions: ``(N,)`` predicted values of all points.
        indices: ``(m,)`` places of the evaluated points among them.
        weights: ``(m,)`` share of the points that each of them stands for.

    Returns:
        The estimate ``(...)`` of the mean over all points.

    Raises:
        ValueError: for values, predictions or weights that do not fit.

    Example:
        >>> before, shares = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0.75, 0.25])
        >>> weighted_residual(torch.tensor([2.0, 5.0]), before, torch.tensor([1, 3]), shares).value
        tensor(2.7500, dtype=torch.float64)
    """
    values, predicted = _residual_parts(values, predictions, indices)
    residual = weighted_mean(values - predicted[indices], weights, len(predicted))
    return residual._replace(value=predicted.mean() + residual.value)


def anchor_predictions(curves: Tensor, anchors: Tensor, values: Tensor) -> Tensor:
    r"""Values of all points, each predicted from the anchor that it has moved with.

    A straight line :math:`y_i = a_i + b_i y_{anchor(i)}`, fitted to earlier checkpoints, for the anchor with the
    highest correlation. Source: Vivek et al., Anchor Points (2024).

    Args:
        curves: ``(T, n)`` curves of all points over earlier checkpoints; missing values (NaN) count as the mean.
        anchors: ``(m,)`` places of the anchors.
        values: ``(..., m)`` values of the anchors at another checkpoint.

    Returns:
        ``(..., n)`` predicted values; a point whose curve is constant keeps its mean.

    Raises:
        ValueError: for shapes that do not fit.

    Example:
        >>> curves = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
        >>> anchor_predictions(curves, torch.tensor([0]), torch.tensor([3.0])).round(decimals=6)
        tensor([3., 6.], dtype=torch.float64)
    """
    values = _values(values)
    if anchors.shape != values.shape[-1:]:
        raise ValueError(
            f"`anchors` must have shape {tuple(values.shape[-1:])}, one for each value, got {anchors.shape}."
        )
    shape, mean = standardised(curves).nan_to_num(0.0), curves.double().nanmean(0)
    length = torch.where(torch.isnan(curves), 0.0, curves.double() - mean).norm(dim=0)
    similarity, nearest = (shape.T @ shape[:, anchors]).max(1)
    scale = torch.where(length[anchors] > 0, 1 / length[anchors], 0.0)
    moved = ((values - mean[anchors]) * scale)[..., nearest]
    predicted: Tensor = mean + similarity * length * moved
    return predicted


def anchor_estimate(curves: Tensor, anchors: Tensor, values: Tensor, importance: Tensor | None = None) -> Estimate:
    """Mean of :func:`anchor_predictions`, with the error that such predictions had in the past.

    The standard error is the root mean square error when the first half of the curves predicts the second. It is a
    forecast: how far the points will move together in the future is not known to anybody.

    Args:
        curves: ``(T, n)`` curves of all points over earlier checkpoints, in order.
        anchors: ``(m,)`` places of the anchors.
        values: ``(..., m)`` values of the anchors at a later checkpoint.
        importance: ``(n,)`` weight of each point in the mean; ``None`` for equal ones.

    Returns:
        The estimate ``(...)``; the standard error is infinite with fewer than four checkpoints.

    Example:
        >>> steps = torch.arange(6.0)[:, None]
        >>> found = anchor_estimate(steps * torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0]), torch.tensor([10.0]))
        >>> round(found.value.item(), 6), round(found.standard_error.item(), 6)
        (20.0, 0.0)
    """
    weights = torch.ones(curves.shape[1]) if importance is None else importance
    shares = weights.double() / weights.sum()
    value = anchor_predictions(curves, anchors, values) @ shares
    half = len(curves) // 2
    if half < 2:
        return _estimate(value, torch.full_like(value, torch.inf), 1)
    predicted = anchor_predictions(curves[:half], anchors, curves[half:, anchors])
    wrong = (predicted - curves[half:].double()).nan_to_num(0.0) @ shares
    return _estimate(value, wrong.square().mean().sqrt().expand_as(value), len(wrong))


def mean_of_tasks(estimates: Sequence[Estimate]) -> Estimate:
    """The benchmark: the mean over tasks that were estimated independently of each other.

    Args:
        estimates: one for each task.

    Returns:
        Their mean; the degrees of freedom are those of Welch and Satterthwaite.

    Raises:
        ValueError: if there is none.

    Example:
        >>> easy, hard = mean_estimate(torch.tensor([3.0, 5.0])), mean_estimate(torch.tensor([1.0, 1.0]))
        >>> mean_of_tasks([easy, hard])
        Estimate(value=tensor(2.5000, dtype=torch.float64), standard_error=tensor(0.5000, dtype=torch.float64), degrees_of_freedom=tensor(1., dtype=torch.float64))
    """  # noqa: E501 (one line, as it is printed)
    if not estimates:
        raise ValueError("`estimates` must hold at least one, got none.")
    variances = torch.stack([estimate.standard_error.square() for estimate in estimates])
    freedom = torch.stack([estimate.degrees_of_freedom for estimate in estimates])
    total = variances.sum(0)
    satterthwaite = total.square() / (variances.square() / freedom.clamp_min(1)).sum(0)
    known = torch.isfinite(satterthwaite)
    value = torch.stack([estimate.value for estimate in estimates]).mean(0)
    return Estimate(value, total.sqrt() / len(estimates), torch.where(known, satterthwaite, freedom.amin(0)))


def minimum_detectable_difference(difference: Estimate, confidence: float = 0.95, power: float = 0.8) -> Tensor:
    r"""How far apart two checkpoints must be to be told apart.

    :math:`(t_{1-\alpha/2} + z_{power})\, SE` with the standard error of their difference. Where both were evaluated
    on the same points, estimate the difference from the differences of the points: it is known better than either.

    Args:
        difference: an estimate of the difference of two checkpoints.
        confidence: 1 minus the probability of seeing a difference where there is none, in (0, 1).
        power: probability of seeing one that is as large as the result, in (0, 1).

    Returns:
        ``(...)`` the smallest difference that is seen with probability ``power``.

    Raises:
        ValueError: for a probability outside (0, 1).

    Example:
        >>> one = torch.linspace(0, 1, 50)
        >>> other = one + 0.1 + 0.01 * (-1) ** torch.arange(50)
        >>> alone, paired = mean_estimate(one), mean_estimate(other - one)
        >>> [round(minimum_detectable_difference(found).item(), 4) for found in (alone, paired)]
        [0.12, 0.0041]
    """
    power = check_number("power", power, "a probability in (0, 1)", 0, 1 - 1e-12, low_in=False)
    factor = _quantile(confidence, difference.degrees_of_freedom) + float(norm.ppf(power))
    return factor * difference.standard_error


def _quantile(confidence: float, degrees_of_freedom: Tensor) -> Tensor:
    confidence = check_number("confidence", confidence, "a probability in (0, 1)", 0, 1 - 1e-12, low_in=False)
    freedom = np.maximum(degrees_of_freedom.numpy(), 1)
    return torch.as_tensor(student.ppf((1 + confidence) / 2, freedom), dtype=torch.float64)


def _estimate(value: Tensor, error: Tensor, degrees_of_freedom: int) -> Estimate:
    return Estimate(value, error, torch.full_like(value, float(degrees_of_freedom)))


def _residual_parts(values: Tensor, predictions: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    values, predicted = _values(values), _values(predictions, "predictions")
    if predicted.ndim != 1 or indices.shape != values.shape[-1:]:
        raise ValueError(
            f"`predictions` must be (points,) and `indices` of shape {tuple(values.shape[-1:])}, one for each value, "
            f"got {tuple(predictions.shape)} and {tuple(indices.shape)}."
        )
    return values, predicted


def _values(values: Tensor, name: str = "values") -> Tensor:
    if values.ndim == 0 or values.shape[-1] == 0 or not values.is_floating_point():
        raise ValueError(
            f"`{name}` must be a floating-point tensor (..., points) with at least one point, got {values.dtype} of "
            f"shape {tuple(values.shape)}."
        )
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinity for {int((~torch.isfinite(values)).sum())}.")
    return values.double()


def _population(population: int, points: int) -> int:
    population = check_integer("population", population, 1)
    if population < points:
        raise ValueError(f"`population` must be at least the number of evaluated points, {points}, got {population}.")
    return population
