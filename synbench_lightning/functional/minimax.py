"""The maximum over task losses, smoothed, and the weights that its gradient gives to the tasks."""

from __future__ import annotations

import torch
from torch import Tensor


def smoothed_maximum(losses: Tensor, temperature: Tensor | float) -> Tensor:
    r"""A smooth upper bound of the largest of ``k`` losses.

    :math:`F = \mu \log \sum_i \exp(L_i / \mu)` with :math:`\max_i L_i \le F \le \max_i L_i + \mu \log k`. Its gradient
    is :func:`softmax_weights`, and its smoothness grows like :math:`1/\mu`: the choice
    :math:`\mu = \varepsilon / (2 \log k)` gives half of an error :math:`\varepsilon` to the smoothing. Source:
    Task-Robust Pre-Training for Worst-Case Downstream Adaptation (arXiv 2306.12070) for its use, Nesterov, Smooth
    minimization of non-smooth functions (2005), for the bounds.

    Args:
        losses: ``(..., k)``; a task at ``-inf`` is left out.
        temperature: :math:`\mu`, in units of the losses, positive.

    Returns:
        ``(...)`` smoothed maximum.

    Example:
        >>> smoothed_maximum(torch.tensor([1.0, 2.0, 4.0]), temperature=0.5)
        tensor(4.0103)
    """
    return temperature * torch.logsumexp(losses / temperature, -1)


def softmax_weights(losses: Tensor, temperature: Tensor | float) -> Tensor:
    r"""The gradient of :func:`smoothed_maximum`: :math:`p_i = \exp(L_i/\mu) / \sum_j \exp(L_j/\mu)`.

    Args:
        losses: ``(..., k)``; a task at ``-inf`` is left out.
        temperature: :math:`\mu`, in units of the losses, positive.

    Returns:
        ``(..., k)`` weights, each at least 0, with sum 1.

    Example:
        >>> softmax_weights(torch.tensor([1.0, 1.0, -torch.inf]), temperature=0.5)
        tensor([0.5000, 0.5000, 0.0000])
    """
    return torch.softmax(losses / temperature, -1)


def maximum_weights(losses: Tensor) -> Tensor:
    """A subgradient of the maximum: all weight on the largest loss, in equal parts where several are the largest.

    Args:
        losses: ``(..., k)``; a task at ``-inf`` is left out.

    Returns:
        ``(..., k)`` weights, each at least 0, with sum 1.

    Example:
        >>> maximum_weights(torch.tensor([1.0, 2.0, 2.0]))
        tensor([0.0000, 0.5000, 0.5000])
    """
    largest = (losses == losses.amax(-1, keepdim=True)).to(losses.dtype)
    return largest / largest.sum(-1, keepdim=True)


def exponentiated_gradient(weights: Tensor, losses: Tensor, step_size: Tensor | float) -> Tensor:
    r"""One step of exponentiated gradient ascent on the weights: :math:`q_i \propto q_i \exp(\eta L_i)`.

    Steps are additive: one step on the mean of ``m`` losses equals ``m`` steps of size :math:`\eta / m`. Source:
    Group DRO (Sagawa et al. 2020), algorithm 1.

    Args:
        weights: ``(..., k)`` present weights, each at least 0. Zeros are replaced by the smallest positive number, so
            that such a weight can grow again.
        losses: ``(..., k)``; a task at ``-inf`` gets no weight.
        step_size: :math:`\eta`, in units of one over the losses, positive.

    Returns:
        ``(..., k)`` weights, each at least 0, with sum 1.

    Example:
        >>> exponentiated_gradient(torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0]), step_size=1.0)
        tensor([0.2689, 0.7311])
    """
    smallest = torch.finfo(weights.dtype).tiny
    return torch.softmax(weights.clamp_min(smallest).log() + step_size * losses, -1)


def task_means(losses: Tensor, tasks: Tensor, num_tasks: int) -> tuple[Tensor, Tensor]:
    """Mean loss of each task, and how many losses it is the mean of.

    Args:
        losses: loss of each example (or token, or pixel), any shape.
        tasks: the task that each belongs to, integers in [0, ``num_tasks``) that broadcast to the shape of ``losses``.
        num_tasks: number of tasks ``k``.

    Returns:
        ``(k,)`` means, 0 for a task without examples, and ``(k,)`` counts, both of the losses' precision but at least
        float32.

    Example:
        >>> means, counts = task_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 2]), num_tasks=3)
        >>> means, counts
        (tensor([2., 0., 5.]), tensor([2., 0., 1.]))
    """
    values = losses.to(torch.promote_types(losses.dtype, torch.float32)).flatten()
    index = tasks.expand(losses.shape).flatten()
    sums, counts = values.new_zeros(num_tasks), values.new_zeros(num_tasks)
    counts = counts.index_add(0, index, torch.ones_like(values))
    return sums.index_add(0, index, values) / counts.clamp_min(1), counts
