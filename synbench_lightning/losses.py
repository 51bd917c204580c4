"""A minimax loss over tasks: the smoothed maximum of task losses, or exponentiated-gradient weights (Group DRO)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, distributed, nn

from synbench_lightning.checks import check_choice, check_flag, check_integer, check_name, check_number, numbers
from synbench_lightning.functional.minimax import exponentiated_gradient, smoothed_maximum, softmax_weights

MODES = ("softmax", "exponentiated_gradient")
LEARNABLE = 0.01
"""A task in which less than this fraction of the trivial loss can be learned is noise. Not searched."""


class TaskRobustLoss(nn.Module):
    r"""Smoothed maximum of several task losses, as one loss to minimize.

    Its gradient is a weighted sum of the tasks' gradients, with the largest weights for the highest losses. The
    weights depend on *running losses* :math:`L_i`: the mean over a task's examples in the batch, on all processes,
    averaged exponentially over the batches (``momentum``), minus the ``reference``; where ``trivial`` losses are given,
    as a fraction of what can be learned:

    - ``"softmax"``: weights :math:`p_i \propto \exp(L_i/\mu)`, the gradient of the smoothed maximum
      :math:`F = \mu \log\sum_i \exp(L_i/\mu)`, which is the value (arXiv 2306.12070).
    - ``"exponentiated_gradient"``: :math:`q_i \leftarrow q_i \exp(\eta L_i)`, normalized, in each batch; the value is
      :math:`\sum_i q_i L_i` (Group DRO). The weights have a memory: they converge where those of a maximum alternate.

    Without a ``reference`` the task with the largest irreducible loss gets the weight, whether or not it can improve,
    and the worst downstream task need not benefit; without ``trivial`` losses the task with the largest loss scale
    does. ``examples/pretrain_task_robust.py`` shows the first.

    **Online references.** Let a proxy, a small module trained together with the model, compute losses on the same
    batches: ``robust(losses, counts, reference=proxy_losses)``. Their running mean replaces the ``reference``. A proxy
    for each task, trained for that task alone, estimates the lowest loss that can be reached; one trained for the mean
    estimates what an average run has reached so far. Proxies are trained by a loss of their own,
    ``(proxy_losses * counts).sum() / counts.sum()``, added to the value.

    **Absent tasks** have a count of 0 on every process. They get no gradient, and are compared with their running loss;
    tasks not yet observed are ignored. The gradients of the others are multiplied by the number of tasks divided by
    that of the tasks present: on average, batches of one task each have the gradient of a batch with all of them. A
    task that never returns keeps the weight of its last loss: remove it from the tasks.

    **Several processes.** Losses and counts are summed over all processes before they are compared, so that weights and
    value agree. The gradient is right for strategies that average over processes (DDP, FSDP): that mean is the gradient
    for all examples together. Every process must call the loss in each training step.

    **Gradient accumulation.** The state is updated in each call, whether or not the optimizer steps. The gradients of a
    step are weighted by running losses, which average over its batches: with ``momentum`` near 1 the step equals that
    of one large batch. ``m`` steps of exponentiated gradient on small batches equal one on the large batch with ``m``
    times the step size. With ``momentum=0`` the softmax of small batches minimizes the mean of their worst losses,
    which is an upper bound of the worst mean loss.

    **Evaluation mode** changes no state and does not communicate: the value is that of the given losses.

    Args:
        num_tasks: number of tasks ``k``.
        mode: ``"softmax"`` or ``"exponentiated_gradient"``.
        temperature: of the softmax, positive. Small: close to the maximum. Large: close to the mean. The default is a
            convention, not searched: ``examples/pretrain_task_robust.py`` was evaluated with it, and takes another by
            ``--temperature``.
        step_size: of the exponentiated gradient, positive. The default is that of Group DRO, not searched here.
        relative: whether ``temperature`` and ``step_size`` are relative to the mean magnitude of the running losses, so
            that one setting serves losses of every scale. ``False``: in units of the loss, and of one over it. Without
            effect on fractions (see ``trivial``), which have no unit.
        reference: ``k`` losses that are subtracted: the lowest that can be reached for each task, as by a model of its
            own, or what a run with the mean of the losses has reached (as in DoReMi). ``None``: zeros.
        trivial: ``k`` losses of a constant predictor: the variance of the targets, the entropy of the word frequencies.
            The excess is then divided by what can be learned, ``trivial - reference``: it is the fraction not yet
            learned. Tasks in which less than 1 % of the trivial loss can be learned are noise and are ignored; one in
            which little more can be learned has the largest weight until it is. ``None``: the excess itself.
        floor: fraction of the weight that is distributed evenly over all tasks, in [0, 1]; at 1 the loss is the mean.
        momentum: weight of the past in the running losses, in [0, 1). 0: each batch alone decides. The default, not
            searched, averages over about ten batches; ``tests/test_losses_optimum.py`` shows the bias that 0 has.

    Attributes:
        weights: ``(k,)`` weights of the last batch, float32.
        running_losses: ``(k,)`` running losses, float32; NaN for tasks not yet observed.
        running_reference: ``(k,)`` running losses of a proxy; NaN for tasks without any.

    Raises:
        ValueError: for an argument outside its range, or losses or counts of another shape than ``(k,)``.

    Example:
        >>> robust = TaskRobustLoss(3)
        >>> losses = torch.tensor([0.9, 1.0, 1.1], requires_grad=True)
        >>> robust(losses).backward()
        >>> losses.grad
        tensor([0.0900, 0.2447, 0.6652])
        >>> robust.worst_task
        2
    """

    weights: Tensor
    running_losses: Tensor
    running_reference: Tensor
    reference: Tensor
    trivial: Tensor | None

    def __init__(
        self,
        num_tasks: int,
        mode: Literal["softmax", "exponentiated_gradient"] = "softmax",
        *,
        temperature: float = 0.1,
        step_size: float = 0.01,
        relative: bool = True,
        reference: Sequence[float] | Tensor | None = None,
        trivial: Sequence[float] | Tensor | None = None,
        floor: float = 0.0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.num_tasks = check_integer("num_tasks", num_tasks, 1)
        check_choice("mode", mode, MODES)
        self.mode = mode
        self.temperature = check_number("temperature", temperature, "a positive number", 0, low_in=False)
        self.step_size = check_number("step_size", step_size, "a positive number", 0, low_in=False)
        self.relative = check_flag("relative", relative)
        self.floor = check_number("floor", floor, "a number in [0, 1]", 0, 1)
        self.momentum = check_number("momentum", momentum, "a number in [0, 1)", 0, math.nextafter(1, 0))
        self.register_buffer("weights", torch.full((self.num_tasks,), 1 / self.num_tasks))
        for name in ("running_losses", "running_reference"):
            self.register_buffer(name, torch.full((self.num_tasks,), torch.nan))
        zeros = torch.zeros(self.num_tasks)
        self.register_buffer("reference", self._one_each("reference", reference, zeros), persistent=False)
        self.register_buffer("trivial", self._one_each("trivial", trivial, None), persistent=False)
        if self.trivial is not None and not bool((self.trivial > self.reference).any()):
            raise ValueError(
                f"`trivial` must be above the reference, {self.reference.tolist()}, for one task at least, or there is "
                f"nothing to learn, got {self.trivial.tolist()}."
            )

    def forward(self, losses: Tensor, counts: Tensor | None = None, reference: Tensor | None = None) -> Tensor:
        """Compute the loss to minimize.

        Args:
            losses: ``(k,)`` mean loss of each task over its examples in the batch of this process;
                :func:`~synbench_lightning.functional.minimax.task_means` computes them from losses of examples.
            counts: ``(k,)`` numbers of these examples; 0 for a task without any, whose loss is then ignored. ``None``:
                the same number for each.
            reference: ``(k,)`` losses of a proxy, which get no gradient from here. ``None``: the reference so far.

        Returns:
            A scalar, of the losses' precision but at least float32.
        """
        losses, counts, proxy = self._checked(losses, counts, reference)
        here = torch.where(counts > 0, losses, 0.0)
        # Always both rows: a process without a proxy sums as many numbers as those that have one.
        rows = torch.stack([here.detach(), torch.zeros_like(here) if proxy is None else proxy])
        examples = torch.stack([counts, torch.zeros_like(counts) if proxy is None else counts])
        means, share, (present, compared_with) = _over_processes(rows, examples, communicate=self.training)
        tracked, known = self._track(self.running_losses, means[0], present)
        least = self._least(means[1], compared_with).to(tracked)
        size, learnable = self._learnable(least)
        compared = known & learnable
        compared = compared | ~compared.any()  # before any task was observed, all are compared
        # The value is that of all processes; the gradient goes through the losses of this one.
        slope = share * compared.sum() / (present & compared).sum().clamp_min(1)
        excess = torch.where(compared, (tracked - least + slope * (here - here.detach())) / size, -torch.inf)
        scale: Tensor | float = 1.0
        if self.relative and self.trivial is None:
            scale = _mean(tracked.abs(), compared).clamp_min(torch.finfo(torch.float32).tiny)
        value, weights = self._compare(excess, scale)
        value = torch.lerp(value, _mean(excess, compared), self.floor)
        weights = torch.lerp(weights, compared.to(weights.dtype) / compared.sum(), self.floor)
        if self.training:
            self._remember(tracked, present, weights)
        return value

    @property
    def worst_task(self) -> int:
        """The task whose running loss exceeds its reference most.

        Raises:
            RuntimeError: before the first batch.
        """
        if bool(self.running_losses.isnan().all()):
            raise RuntimeError("There is no worst task before the first batch: call the loss in training mode first.")
        return int(self._worst())

    def metrics(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Return metrics for ``self.log_dict(self.robust.metrics())`` in a ``training_step``.

        Lightning takes a fraction of a millisecond for each key. Where steps are that short, log only in steps in which
        the loggers write: ``if (self.global_step + 1) % self.trainer.log_every_n_steps == 0``.

        Args:
            names: of the tasks, for the keys; their indices by default.

        Returns:
            ``robust/worst_loss`` (running loss of the worst task), ``robust/worst_task`` (its index), and for each
            task ``robust/loss/<name>`` (its running loss; NaN until it is observed) and ``robust/weight/<name>``. The
            same on all processes.

        Raises:
            ValueError: if there are not as many different names as tasks, or one has a ``/``.
        """
        called = [str(task) for task in range(self.num_tasks)] if names is None else [*names]
        if len({check_name("names", name) for name in called}) != self.num_tasks:
            raise ValueError(f"`names` must be {self.num_tasks} different names, one for each task, got {called}.")
        losses, weights, worst = self.running_losses.clone(), self.weights.clone(), self._worst()
        values = {"worst_loss": losses[worst], "worst_task": worst.float()}
        values |= {f"loss/{name}": loss for name, loss in zip(called, losses, strict=True)}
        values |= {f"weight/{name}": weight for name, weight in zip(called, weights, strict=True)}
        return {f"robust/{key}": value for key, value in values.items()}

    def extra_repr(self) -> str:
        """Return the settings on which the weights depend."""
        speed = "step_size" if self.mode == "exponentiated_gradient" else "temperature"
        return f"num_tasks={self.num_tasks}, mode={self.mode!r}, {speed}={getattr(self, speed)}, floor={self.floor}"

    def _one_each(self, name: str, given: Any, default: Tensor | None) -> Tensor | None:
        """Check that there is one finite number for each task, and return them as ``(k,)``."""
        if given is None:
            return default
        found = numbers(name, given)
        if len(found) != self.num_tasks or not all(map(math.isfinite, found)):
            raise ValueError(
                f"`{name}` must hold one finite loss for each of the {self.num_tasks} tasks, got {list(found)}."
            )
        return torch.tensor(found)

    def _checked(self, losses: Any, counts: Any, reference: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        for name, given in (("losses", losses), ("counts", counts), ("reference", reference)):
            if given is None and name != "losses":
                continue
            if not isinstance(given, Tensor) or given.shape != (self.num_tasks,):
                got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"a {type(given).__name__}"
                raise ValueError(
                    f"`{name}` must be a tensor of shape ({self.num_tasks},), one number for each task, got {got}. "
                    "`torch.stack` makes one of single losses."
                )
            if not given.is_floating_point() and (name == "losses" or given.is_complex()):
                raise ValueError(f"`{name}` must be floating-point numbers, got {given.dtype}.")
        # Reading a value would break the graph of a compiled loss.
        if counts is not None and not torch.compiler.is_compiling() and not bool((counts >= 0).all()):
            raise ValueError(f"`counts` must be numbers of examples, 0 or more for each task, got {counts.tolist()}.")
        # Sums in half precision would lose the differences between tasks, autocast or not.
        values = losses.to(torch.promote_types(losses.dtype, torch.float32))
        counts = torch.ones_like(values) if counts is None else counts.detach().to(values)
        return values, counts, None if reference is None else reference.detach().to(values)

    def _track(self, running: Tensor, means: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Update running means ``(k,)`` with this batch; also return a mask of the tasks that have one."""
        past = running.to(means.dtype) if self.training else torch.full_like(means, torch.nan)
        seen = ~past.isnan()
        moved = torch.where(seen, torch.lerp(means, past, self.momentum), means)
        known = present | seen
        return torch.where(known, torch.where(present, moved, past), 0.0), known

    def _least(self, proxy: Tensor, present: Tensor) -> Tensor:
        """Return the reference losses ``(k,)``: the running losses of a proxy, or else those that were given."""
        tracked, known = self._track(self.running_reference, proxy, present)
        before = self._reached()
        if self.training:
            with torch.no_grad():
                _keep(self.running_reference, tracked, present)
        return torch.where(known, tracked, before)

    def _reached(self) -> Tensor:
        return torch.where(self.running_reference.isnan(), self.reference, self.running_reference)

    def _learnable(self, least: Tensor) -> tuple[Tensor, Tensor]:
        """Return what can be learned of each task, ``trivial - reference``, and a mask of tasks that are not noise."""
        if self.trivial is None:
            return torch.ones_like(least), torch.ones_like(least, dtype=torch.bool)
        size = self.trivial - least
        learnable = size > LEARNABLE * self.trivial.abs()
        # Ignored tasks are divided too, and a gradient through 0 / 0 is NaN even where it is masked.
        return torch.where(learnable, size, 1.0), learnable

    def _compare(self, excess: Tensor, scale: Tensor | float) -> tuple[Tensor, Tensor]:
        """Compute the value, which is differentiable, and the weights ``(k,)``, which are its gradient."""
        fixed = excess.detach()
        if self.mode == "softmax":
            temperature = self.temperature * scale
            return smoothed_maximum(excess, temperature), softmax_weights(fixed, temperature)
        # A task that was not compared before starts with the weight 1 / k.
        before = torch.where(self.weights == 0, 1 / self.num_tasks, self.weights).to(fixed.dtype)
        weights = exponentiated_gradient(before, fixed, self.step_size / scale)
        return (weights * torch.where(excess.isneginf(), 0.0, excess)).sum(), weights

    @torch.no_grad()
    def _remember(self, tracked: Tensor, present: Tensor, weights: Tensor) -> None:
        """Store running losses and weights, except where an overflow or a NaN would spoil them for good."""
        _keep(self.running_losses, tracked, present)
        self.weights.copy_(torch.where(weights.isfinite().all(), weights, self.weights))

    def _worst(self) -> Tensor:
        least = self._reached()
        size, learnable = self._learnable(least)
        excess = (self.running_losses - least) / size
        return torch.where(self.running_losses.isnan() | ~learnable, -torch.inf, excess).argmax()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TaskRobustLoss:
        # The state stays float32 under `.half()` and the like: a running mean in half precision stops moving.
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers():
            if buffer.dtype != before[name].dtype:
                self._buffers[name] = before[name].to(buffer.device)
        return self


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, values, 0.0).sum() / known.sum()


def _keep(running: Tensor, tracked: Tensor, present: Tensor) -> None:
    running.copy_(torch.where(present & tracked.isfinite(), tracked, running))


def _over_processes(means: Tensor, counts: Tensor, communicate: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Average rows ``(r, k)`` of task means, with their counts, over all processes.

    Also returned are, for each task, the fraction of its examples in the first row that are on this process, times the
    number of processes, over which strategies average the gradients; and a mask ``(r, k)`` of observed tasks.
    """
    sums, totals, processes = torch.where(counts > 0, means * counts, 0.0), counts, 1
    if communicate and distributed.is_available() and distributed.is_initialized():
        rows = torch.cat([sums, totals])
        distributed.all_reduce(rows)
        (sums, totals), processes = rows.chunk(2), distributed.get_world_size()
    present = totals > 0
    totals = torch.where(present, totals, 1.0)
    return sums / totals, processes * counts[0] / totals[0], present
