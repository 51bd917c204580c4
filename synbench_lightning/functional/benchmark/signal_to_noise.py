"""Signal and noise of a benchmark over a run, and the accuracy of decisions that are based on it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor

LEAST = 5
"""Number of values below which signal and noise are not separated."""


class SignalNoise(NamedTuple):
    """Signal and noise of one or several series, ``(...)`` each.

    ``signal`` and ``noise`` are standard deviations in the unit of the values. ``p_value`` is that of von Neumann's
    test of the hypothesis that the values are in random order, against positive serial correlation.
    """

    signal: Tensor
    noise: Tensor
    p_value: Tensor


def signal_and_noise(values: Tensor) -> SignalNoise:
    r"""Compute the standard deviations of signal and noise of a series, from its second differences.

    The variance of the noise is :math:`\overline{(v_{t-1} - 2 v_t + v_{t+1})^2} / 6`, without any trend that is linear
    over three values (independent noise has second differences of six times its variance); that of the signal is the
    variance of the values minus it. The p-value is that of the ratio of von Neumann (1941), normal for long series.
    Source of the idea: Heineman et al., Signal and Noise (2025), who divide the spread of models by that of the last
    checkpoints of one.

    Args:
        values: ``(T, ...)`` values of the evaluations in order, at least five.

    Raises:
        ValueError: for fewer values.

    Example:
        >>> rising = torch.tensor([0.0, 1.1, 1.9, 3.1, 3.9, 5.1])
        >>> signal, noise, p_value = signal_and_noise(rising)
        >>> round(signal.item(), 2), round(noise.item(), 2), p_value.item() < 0.05
        (1.87, 0.15, True)
    """
    if values.ndim == 0 or len(values) < LEAST:
        raise ValueError(f"`values` must be at least {LEAST} in order, got shape {tuple(values.shape)}.")
    values, count = values.double(), len(values)
    spread = values.var(0)
    noise = (values[:-2] - 2 * values[1:-1] + values[2:]).square().mean(0) / 6
    # The ratio has mean 2 and this variance for independent normal values.
    ratio = values.diff(dim=0).square().sum(0) / ((count - 1) * spread).clamp_min(torch.finfo(torch.float64).tiny)
    ratio = torch.where(spread > 0, ratio, 2.0)
    scale = (4 * (count - 2) / (count**2 - 1)) ** 0.5
    p_value = torch.as_tensor(norm.cdf(((ratio - 2) / scale).numpy()), dtype=torch.float64)
    return SignalNoise((spread - noise).clamp_min(0).sqrt(), noise.sqrt(), p_value)


def decision_accuracy(estimates: Tensor, truth: Tensor) -> Tensor:
    """Compute the fraction of pairs of evaluations that the estimates rank in their true order.

    Pairs that are equal in truth are ignored; equal estimates count one half.

    Args:
        estimates: ``(T, ...)``.
        truth: ``(T, ...)``.

    Returns:
        ``(...)`` in [0, 1]; NaN where all are equal in truth.

    Example:
        >>> decision_accuracy(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.6667, dtype=torch.float64)
    """
    first, second = torch.triu_indices(len(truth), len(truth), 1)
    true, found = ((one.double()[first] - one.double()[second]).sign() for one in (truth, estimates))
    differ = true != 0
    return torch.where(differ, (1 + true * found) / 2, 0.0).sum(0) / differ.sum(0)
