"""The levelled unbiased risk estimator (LURE): a mean from items sampled with unequal probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_floats
from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    check_population,
    check_values,
    estimate_of,
)


def lure(values: Tensor, proposal: Tensor, population: int) -> Estimate:
    r"""Estimate the mean of a population without bias, from items sampled sequentially without replacement.

    For any proposal :math:`q`, :math:`a_m = L_m / (N q_m) + \frac{1}{N} \sum_{t<m} L_t` is an unbiased estimate of the
    mean, and the errors of the :math:`a_m` are uncorrelated; the levelled estimator is a weighted mean of them, and its
    standard error follows from their scatter. Source: Farquhar, Gal and Rainforth (2021); Kossen et al., Active Testing
    (2021).

    Args:
        values: ``(..., M)`` values :math:`L_m` in the order in which they were sampled.
        proposal: ``(M,)`` probability :math:`q_m` of each item among those not yet sampled.
        population: number N of items that were sampled from, at least M.

    Returns:
        The estimate ``(...)``; the standard error is infinite for a single item, and 0 where all were evaluated.

    Raises:
        ValueError: for values, probabilities or a population that do not fit.

    Example:
        >>> losses = torch.tensor([4.0, 1.0])  # of three points with losses 4, 1, 1
        >>> lure(losses, torch.tensor([4 / 6, 1 / 2]), population=3).value  # drawn in proportion to the loss
        tensor(2.0000, dtype=torch.float64)
    """
    values = check_values(values)
    draws = values.shape[-1]
    proposal = check_floats("proposal", proposal, f"of shape {(draws,)}, one for each of `values`", (draws,))
    weights = lure_weights(proposal, population)
    value = (weights * values).sum(-1)
    if draws == population:
        return estimate_of(value, torch.zeros_like(value), draws - 1)
    turn = torch.arange(1, draws + 1, dtype=torch.float64)  # m
    level = population * (population - draws) / ((population - turn) * (population - turn + 1)) / draws
    before = values.cumsum(-1) - values
    single = values / (population * proposal) + before / population
    # Divided by their expectation under equal variances, which makes the estimate of the variance unbiased there.
    shrunk = 1 - 2 * level + level.square().sum()
    terms = (level * (single - value[..., None])).square() / shrunk
    error = terms.sum(-1).sqrt() if draws > 1 else torch.full_like(value, torch.inf)
    return estimate_of(value, error, draws - 1)


def lure_weights(proposal: Tensor, population: int) -> Tensor:
    r"""Compute the weights ``(M,)`` of the levelled unbiased risk estimator, the sum of weight times value.

    :math:`v_m / M` with :math:`v_m = 1 + \frac{N-M}{N-m} \left(\frac{1}{(N-m+1) q_m} - 1\right)`.
    Source: Farquhar, Gal and Rainforth, On Statistical Bias in Active Learning (2021).

    Args:
        proposal: ``(M,)`` probability :math:`q_m` of each item among those not yet sampled, in the order of sampling.
        population: number N of items that were sampled from, at least M.

    Raises:
        ValueError: for probabilities outside (0, 1], or more of them than the population has items.

    Example:
        >>> lure_weights(torch.tensor([1 / 10, 1 / 9]), population=10)  # all equally likely: the plain mean
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    q = check_floats("proposal", proposal, "(draws,)", (None,))
    if not bool(((q > 0) & (q <= 1)).all()):
        raise ValueError(f"`proposal` must be probabilities in (0, 1], at least one, got {q.tolist()[:8]}.")
    draws = len(q)
    total = check_population(population, draws)
    if draws == total:
        return torch.full_like(q, 1 / draws)
    turn = torch.arange(1, draws + 1, dtype=torch.float64)
    return (1 + (total - draws) / (total - turn) * (1 / ((total - turn + 1) * q) - 1)) / draws
