"""Gaussian proxy tasks, families of them, and their deterministic samples."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import check_input_shape, check_name

NOISE_BLOCK = 64
"""Noise vectors that share a seed: the unit that is generated, and that one process takes over."""


@dataclass(frozen=True, eq=False)
class GaussianTask:
    r"""Two Gaussian classes in the encoder's input space that differ in one direction.

    :math:`x \mid y \sim N(y\,s\,u, I)` with :math:`y = \pm 1` equally likely and :math:`|u|_2 = 1`: the scale :math:`s`
    is half the Mahalanobis distance of the class means whatever the direction, so that one closed-form optimum serves
    all tasks. Source: SynBench, where ``u`` is constant over the input.

    Args:
        name: what the task is called in results and logs; not empty, without ``/``.
        direction: the direction ``u``, of the shape of one input; scaled to length 1 here.

    Raises:
        ValueError: for a name that cannot be logged, or a direction that is zero or not finite.

    Example:
        >>> left_right = torch.ones(3, 32, 32)
        >>> left_right[..., :16] = -1
        >>> round(GaussianTask("left_right", left_right).direction.norm().item(), 4)
        1.0
    """

    name: str
    direction: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        check_name("name", self.name)
        try:
            direction = torch.as_tensor(self.direction, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"`direction` of task {self.name!r} must be a tensor of the shape of one input, got {self.direction!r}."
            ) from error
        length = direction.norm()
        if not bool(torch.isfinite(length)) or length == 0:
            raise ValueError(
                f"`direction` of task {self.name!r} must be finite and not zero, its length is {length:g}."
            )
        object.__setattr__(self, "direction", (direction / length).float())


def task_family(name: str, input_shape: Sequence[int]) -> tuple[GaussianTask, ...]:
    """The tasks of a named family for inputs of a shape.

    - ``"dc"``: the paper's task alone, a shift of the mean intensity.
    - ``"default"``: ``dc`` and the slowest cosine along each spatial axis, a gradient from one end to the other. The
      axes are the last two of a (C, H, W) input, both of a (C, L) or (T, D) one, and all but the first of longer
      shapes. A (d,) input has no such axes: two fixed random directions instead.

    Args:
        name: ``"dc"`` or ``"default"``.
        input_shape: shape of one example, without the batch dimension.

    Returns:
        The tasks, ``dc`` first.

    Raises:
        ValueError: if there is no family of that name, or the shape is not made of positive integers.

    Example:
        >>> [task.name for task in task_family("default", (3, 32, 32))]
        ['dc', 'cos_1', 'cos_2']
    """
    shape = check_input_shape(input_shape)
    tasks = [GaussianTask("dc", torch.ones(shape))]
    if name == "dc":
        return tuple(tasks)
    if name != "default":
        raise ValueError(f"`tasks` must be 'dc', 'default' or a sequence of GaussianTask, got {name!r}.")
    axes = [axis for axis in range(0 if len(shape) == 2 else 1, len(shape)) if shape[axis] > 1]
    for axis in axes:
        cosine = torch.cos(math.pi * (torch.arange(shape[axis], dtype=torch.float64) + 0.5) / shape[axis])
        tasks.append(GaussianTask(f"cos_{axis}", cosine.reshape(_along(axis, shape)).expand(shape)))
    if not axes:
        tasks += [
            GaussianTask(f"random_{index}", _noise((0, "direction", 0.0, index), shape, "cpu")) for index in (1, 2)
        ]
    return tuple(tasks)


def resolve_tasks(tasks: str | Sequence[GaussianTask], input_shape: Sequence[int]) -> tuple[GaussianTask, ...]:
    """The family of that name, or the given tasks after a check that they fit the input and have different names.

    Raises:
        ValueError: for an unknown family, no tasks, a direction of another shape than the input, or equal names.
    """
    shape = check_input_shape(input_shape)
    if isinstance(tasks, str):
        return task_family(tasks, shape)
    given = tuple(tasks) if isinstance(tasks, (list, tuple)) else ()
    if not given or not all(isinstance(task, GaussianTask) for task in given):
        raise ValueError(f"`tasks` must be 'dc', 'default' or a non-empty sequence of GaussianTask, got {tasks!r}.")
    for task in given:
        if task.direction.shape != shape:
            raise ValueError(
                f"The direction of task {task.name!r} has shape {tuple(task.direction.shape)}, but one input of the "
                f"encoder has shape {shape}: they must be equal."
            )
    names = [task.name for task in given]
    if len(set(names)) < len(names):
        raise ValueError(f"Tasks must have different names, got {names}.")
    return given


def noise_block(
    seed: int, task: str, scale: float, block: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Block ``block`` of the noise of a task at a scale, ``(64, *shape)``, standard normal.

    It depends on these arguments alone, never on a global random state, on how many blocks were drawn before, or on
    which process draws it. Generators of different kinds of device draw different numbers.
    """
    return _noise((seed, task, scale, block), (NOISE_BLOCK, *shape), device)


def _noise(key: tuple[int, str, float, int], shape: Sequence[int], device: torch.device | str) -> Tensor:
    seed, task, scale, block = key
    entropy = [seed, zlib.crc32(task.encode()), int(np.float64(scale).view(np.uint64)), block]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
    generator = torch.Generator(device).manual_seed(state)
    return torch.randn(tuple(shape), generator=generator, device=device)


def _along(axis: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size if index == axis else 1 for index, size in enumerate(shape))
