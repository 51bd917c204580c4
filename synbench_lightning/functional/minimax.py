"""The smoothed maximum (log-sum-exp) of task losses, and the task weights of its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.checks import check_dense, check_integer, check_integers, check_number, shown


def smoothed_maximum(losses: Tensor, temperature: Tensor | float) -> Tensor:
    r"""Compute the smoothed maximum of ``k`` losses, a smooth upper bound of the largest.

    :math:`F = \mu \log \sum_i \exp(L_i / \mu)` with :math:`\max_i L_i \le F \le \max_i L_i + \mu \log k`. Its gradient
    is :func:`softmax_weights`, whose Lipschitz constant grows like :math:`1/\mu`: with :math:`\mu = \varepsilon / (2
    \log k)` smoothing contributes at most half of an error :math:`\varepsilon`. Source: Task-Robust Pre-Training for
    Worst-Case Downstream Adaptation (arXiv 2306.12070) for its use, Nesterov, Smooth minimization of non-smooth
    functions (2005), for the bounds.

    Args:
        losses: ``(..., k)``; a task at ``-inf`` is ignored.
        temperature: :math:`\mu`, in units of the losses, positive.

    Returns:
        ``(...)`` smoothed maximum.

    Example:
        >>> smoothed_maximum(torch.tensor([1.0, 2.0, 4.0]), temperature=0.5)
        tensor(4.0103)
    """
    check_dense("losses", losses)
    if not isinstance(losses, Tensor) or losses.ndim == 0 or losses.is_complex():
        raise ValueError(f"`losses` must be a tensor (..., tasks), got {shown(losses)}.")
    if not isinstance(temperature, Tensor):
        temperature = check_number("temperature", temperature, "a positive number", 0, low_in=False)
    elif temperature.numel() != 1 or temperature.is_complex():
        raise ValueError(f"`temperature` must be a positive number, got {shown(temperature)}.")
    return temperature * torch.logsumexp(losses / temperature, -1)


def softmax_weights(losses: Tensor, temperature: Tensor | float) -> Tensor:
    r"""Compute the gradient of :func:`smoothed_maximum`: :math:`p_i = \exp(L_i/\mu) / \sum_j \exp(L_j/\mu)`.

    Args:
        losses: ``(..., k)``; a task at ``-inf`` gets the weight 0.
        temperature: :math:`\mu`, in units of the losses, positive.

    Returns:
        ``(..., k)`` weights, each at least 0, with sum 1.

    Example:
        >>> softmax_weights(torch.tensor([1.0, 1.0, -torch.inf]), temperature=0.5)
        tensor([0.5000, 0.5000, 0.0000])
    """
    return torch.softmax(losses / temperature, -1)


def exponentiated_gradient(weights: Tensor, losses: Tensor, step_size: Tensor | float) -> Tensor:
    r"""Take one step of exponentiated gradient ascent on the weights: :math:`q_i \propto q_i \exp(\eta L_i)`.

    Steps are additive: one step on the mean of ``m`` losses equals ``m`` steps of size :math:`\eta / m`. Source:
    Group DRO (Sagawa et al. 2020), algorithm 1.

    Args:
        weights: ``(..., k)`` current weights, each at least 0. Zeros are replaced by the smallest positive number, so
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
    """Compute the mean loss of each task, and the number of losses in it.

    Args:
        losses: loss of each example (or token, or pixel), any shape.
        tasks: the task of each loss, integers below ``num_tasks`` that broadcast to the shape of ``losses``, as
            :mod:`~synbench_lightning.functional.task_splits` makes them. A negative integer means no task: such losses
            are ignored.
        num_tasks: number of tasks ``k``.

    Returns:
        ``(k,)`` means, 0 for a task without examples, and ``(k,)`` counts, both of the losses' precision but at least
        float32.

    Raises:
        ValueError: for tasks that are no integers, too large or of a shape that does not broadcast.

    Example:
        >>> means, counts = task_means(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, -1, 2]), num_tasks=3)
        >>> means, counts
        (tensor([1., 0., 5.]), tensor([1., 0., 1.]))
    """
    check_integer("num_tasks", num_tasks, 1)
    check_integers("tasks", tasks)
    check_dense("losses", losses)
    if not isinstance(losses, Tensor) or losses.is_complex():
        raise ValueError(f"`losses` must be a tensor of real numbers, got {shown(losses)}.")
    values = losses.to(torch.promote_types(losses.dtype, torch.float32)).flatten()
    try:
        index = tasks.expand(losses.shape).flatten()
    except RuntimeError:
        raise ValueError(
            f"`tasks` must broadcast to the shape of `losses`, {tuple(losses.shape)}, got {tuple(tasks.shape)}."
        ) from None
    # Reading a value would break the graph of a compiled step.
    if not torch.compiler.is_compiling() and index.numel() and int(index.max()) >= num_tasks:
        raise ValueError(f"`tasks` must be below `num_tasks`, {num_tasks}, got {int(index.max())}.")
    counted = index >= 0
    index = index.clamp_min(0)
    sums, counts = values.new_zeros(num_tasks), values.new_zeros(num_tasks)
    counts = counts.index_add(0, index, counted.to(values.dtype))
    return sums.index_add(0, index, torch.where(counted, values, 0.0)) / counts.clamp_min(1), counts
