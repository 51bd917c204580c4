"""Means of sampled items with standard errors, confidence intervals and the minimum detectable difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from synbench_lightning.checks import check_floats, check_integer, check_number, shown

BELOW_ONE = math.nextafter(1, 0)


class Estimate(NamedTuple):
    """A value, its standard error (infinite where unknown) and the error's degrees of freedom, ``(...)`` each.

    Example:
        >>> low, high = mean_estimate(torch.tensor([1.0, 2.0, 3.0, 4.0])).interval()
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.446, 4.554)
    """

    value: Tensor
    standard_error: Tensor
    degrees_of_freedom: Tensor

    def interval(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Compute the confidence interval of Student's t for the true value, ``(...)`` each."""
        half = _quantile(confidence, self.degrees_of_freedom) * self.standard_error
        return self.value - half, self.value + half

    def part(self, place: int) -> Estimate:
        """One of several estimates, from their first dimension."""
        return Estimate(self.value[place], self.standard_error[place], self.degrees_of_freedom[place])


def mean_estimate(values: Tensor, population: int | None = None) -> Estimate:
    """Estimate the mean of a population from a simple random sample of items.

    Args:
        values: ``(..., m)`` values of the items.
        population: number of items that they were sampled from, without replacement; ``None`` for infinitely many.

    Returns:
        The estimate ``(...)`` of the population's mean; the standard error is infinite for a single item, and 0 where
        all items were evaluated.

    Raises:
        ValueError: for no values, or more of them than the population has.

    Example:
        >>> mean_estimate(torch.tensor([1.0, 2.0, 3.0]), population=4).standard_error
        tensor(0.2887, dtype=torch.float64)
    """
    values = check_values(values)
    count = values.shape[-1]
    total = count if population is None else check_population(population, count)
    left = 1.0 if population is None else 1 - count / total  # the finite population correction
    variance = values.var(-1) if count > 1 else torch.full_like(values[..., 0], torch.inf)
    error = (variance * left / count).sqrt() if left else torch.zeros_like(values[..., 0])
    return estimate_of(values.mean(-1), error, count - 1)


def weighted_mean(values: Tensor, weights: Tensor, population: int | None = None) -> Estimate:
    """Estimate the mean of a population by a weighted mean of items, as of anchors that represent clusters.

    The standard error is that of a ratio of two weighted sums over independent samples. Anchors are not sampled: for
    them it describes the scatter between clusters, and the interval has no guaranteed coverage.

    Args:
        values: ``(..., m)`` values of the items.
        weights: ``(m,)`` weights, not negative, not all 0; scaled to sum 1 here.
        population: number of items that they represent; ``None`` for infinitely many.

    Returns:
        The estimate ``(...)``; the standard error is infinite for a single item.

    Raises:
        ValueError: for no values, weights that do not fit, or more values than the population has.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 5.0]), torch.tensor([3.0, 1.0])).value
        tensor(2., dtype=torch.float64)
    """
    values = check_values(values)
    count = values.shape[-1]
    shares = check_shares("weights", weights, count, "one for each of `values`")
    left = 1.0 if population is None else 1 - count / check_population(population, count)
    shares = shares / shares.sum()
    mean = (shares * values).sum(-1)
    scatter = (shares * (values - mean[..., None])).square().sum(-1)
    inflated = scatter * count / (count - 1) if count > 1 else torch.full_like(mean, torch.inf)
    error = (inflated * left).sqrt() if left else torch.zeros_like(mean)
    return estimate_of(mean, error, count - 1)


def mean_of_tasks(estimates: Sequence[Estimate]) -> Estimate:
    """Estimate the mean over tasks that were estimated independently of each other: the value of the benchmark.

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
    listed = isinstance(estimates, Sequence) and all(isinstance(one, Estimate) for one in estimates)
    if not listed or not estimates:
        raise ValueError(f"`estimates` must be a sequence of Estimate, at least one, got {shown(estimates)}.")
    variances = torch.stack([estimate.standard_error.square() for estimate in estimates])
    freedom = torch.stack([estimate.degrees_of_freedom for estimate in estimates])
    total = variances.sum(0)
    satterthwaite = total.square() / (variances.square() / freedom.clamp_min(1)).sum(0)
    known = torch.isfinite(satterthwaite)
    value = torch.stack([estimate.value for estimate in estimates]).mean(0)
    return Estimate(value, total.sqrt() / len(estimates), torch.where(known, satterthwaite, freedom.amin(0)))


def minimum_detectable_difference(difference: Estimate, confidence: float = 0.95, power: float = 0.8) -> Tensor:
    r"""Compute the minimum detectable difference between two checkpoints.

    :math:`(t_{1-\alpha/2} + z_{power})\, SE` with the standard error of their difference. Where both were evaluated
    on the same items, paired differences are more precise.

    Args:
        difference: an estimate of the difference of two checkpoints.
        confidence: 1 minus the probability of a false positive, in (0, 1).
        power: probability of detecting a difference of that size, in (0, 1).

    Returns:
        ``(...)`` the smallest difference that is detected with probability ``power``.

    Raises:
        ValueError: for a probability outside (0, 1).

    Example:
        >>> one = torch.linspace(0, 1, 50)
        >>> other = one + 0.1 + 0.01 * (-1) ** torch.arange(50)
        >>> alone, paired = mean_estimate(one), mean_estimate(other - one)
        >>> [round(minimum_detectable_difference(found).item(), 4) for found in (alone, paired)]
        [0.12, 0.0041]
    """
    if not isinstance(difference, Estimate):
        raise ValueError(f"`difference` must be an Estimate, got {shown(difference)}.")
    power = check_number("power", power, "a probability in (0, 1)", 0, BELOW_ONE, low_in=False)
    factor = _quantile(confidence, difference.degrees_of_freedom) + float(norm.ppf(power))
    return factor * difference.standard_error


def _quantile(confidence: float, degrees_of_freedom: Tensor) -> Tensor:
    """Two-sided quantile of Student's t, ``(...)``."""
    confidence = check_number("confidence", confidence, "a probability in (0, 1)", 0, BELOW_ONE, low_in=False)
    freedom = np.maximum(degrees_of_freedom.numpy(), 1)
    return torch.as_tensor(student.ppf((1 + confidence) / 2, freedom), dtype=torch.float64)


def estimate_of(value: Tensor, error: Tensor, degrees_of_freedom: int) -> Estimate:
    """Build an estimate whose values ``(...)`` all have the same degrees of freedom."""
    return Estimate(value, error, torch.full_like(value, float(degrees_of_freedom)))


def check_values(values: Tensor, name: str = "values") -> Tensor:
    """Check values ``(..., m)`` and return them as float64."""
    return check_floats(name, values, "(..., points) with at least one point", (..., None))


def check_shares(name: str, shares: Tensor, count: int, what: str) -> Tensor:
    """Check that weights ``(count,)`` are not negative and not all 0, and return them as float64."""
    checked = check_floats(name, shares, f"of shape {(count,)}, {what}", (count,))
    if bool((checked < 0).any()) or not bool(checked.sum() > 0):
        raise ValueError(f"`{name}` must be numbers of at least 0, not all 0, got {checked.tolist()[:8]}.")
    return checked


def check_population(population: int, points: int) -> int:
    """Check that the population's size is at least the number of evaluated items, and return it."""
    population = check_integer("population", population, 1)
    if population < points:
        raise ValueError(f"`population` must be at least the number of evaluated points, {points}, got {population}.")
    return population
