"""What a benchmark is worth for decisions: how far checkpoints lie apart, and neighbours by chance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor

LEAST = 5
"""Values in a row below which signal and noise are not told apart."""


class SignalNoise(NamedTuple):
    """Of one or several series, ``(...)`` each.

    ``signal`` and ``noise`` are standard deviations in the unit of the values. ``p_value`` is the probability of a
    series in which neighbours are so much alike, if its values were in random order.
    """

    signal: Tensor
    noise: Tensor
    p_value: Tensor


def signal_and_noise(values: Tensor) -> SignalNoise:
    r"""Signal: how far the values of a run lie apart. Noise: how far each is off the line between its neighbours.

    The variance of the noise is :math:`\overline{(v_{t-1} - 2 v_t + v_{t+1})^2} / 6`, free of any trend that is
    straight over three values; that of the signal is what it leaves of the variance of the values. The p-value is that
    of the ratio of von Neumann (1941), normal for long series.
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
    """Share of the pairs of evaluations whose order is the same for the estimates as in truth.

    Pairs that are equal in truth are left out; equal estimates are right by half.

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
    told = true != 0
    return torch.where(told, (1 + true * found) / 2, 0.0).sum(0) / told.sum(0)
