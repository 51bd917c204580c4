"""Named families of Gaussian proxy tasks: class-mean directions and noise covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from synbench_lightning.checks import check_input_shape, check_number, shown
from synbench_lightning.probe.tasks import GaussianTask, LabelledTask, fixed_direction

Task = GaussianTask | LabelledTask

MAX_CHANNELS = 8
"""The family ``channels`` has one task per channel for inputs with at most this many."""


def task_family(name: str, input_shape: Sequence[int]) -> tuple[GaussianTask, ...]:
    """Return the Gaussian tasks of a named family for an input shape; the paper's task ``dc`` is always first.

    ============== =====================================================================================
    ``dc``         the paper's task alone: white noise, a shift of the mean intensity
    ``default``    tasks found to differ between encoders and from each other (see ``smooth``)
    ``smooth``     white noise; the slowest cosine along each spatial axis, from one end to the other
    ``random``     white noise; three fixed random directions
    ``patches``    white noise; a shift of one part of the input: its middle, and a corner
    ``channels``   white noise; a shift of one channel per task, for up to 8 channels
    ``natural``    noise with the 1/f spectrum of natural images; the slowest cosines
    ``correlated`` noise with a correlation length of an eighth of each axis; the slowest cosines
    ============== =====================================================================================

    The spatial axes are the last two of a (C, H, W) input, both of a (C, L) or (T, D) one, and all but the first of
    longer shapes. A (d,) input has none: random directions replace the cosines, and there are only the families
    ``dc``, ``default``, ``smooth`` and ``random``.

    Args:
        name: name of the family.
        input_shape: shape of one example, without the batch dimension.

    Returns:
        The tasks, with distinct names.

    Raises:
        ValueError: if there is no family of that name or none for this shape, or the shape does not consist of
            positive integers.

    Example:
        >>> [task.name for task in task_family("smooth", (3, 32, 32))]
        ['dc', 'cos_1', 'cos_2']
        >>> [task.name for task in task_family("natural", (3, 32, 32))]
        ['dc', 'natural_cos_1', 'natural_cos_2']
    """
    shape = check_input_shape(input_shape)
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"`name` must be {_names()}, got {shown(name)}.")
    tasks = [GaussianTask("dc", torch.ones(shape)), *FAMILIES[name](shape)]
    if len(tasks) == 1 and name != "dc":
        raise ValueError(f"The family {name!r} has no tasks for inputs of shape {shape}: use 'default' or 'random'.")
    return tuple(tasks)


def resolve_tasks(tasks: str | Sequence[Task], input_shape: Sequence[int]) -> tuple[Task, ...]:
    """Return a family by name, or the given tasks after checking their shapes and that their names are distinct.

    Raises:
        ValueError: for an unknown family, no Gaussian task, inputs of another shape, or equal names.
    """
    shape = check_input_shape(input_shape)
    if isinstance(tasks, str):
        if tasks not in FAMILIES:
            raise ValueError(f"`tasks` must be {_names()} or a sequence of GaussianTask, got {shown(tasks)}.")
        return task_family(tasks, shape)
    given = tuple(tasks) if isinstance(tasks, (list, tuple)) else ()
    known = all(isinstance(task, (GaussianTask, LabelledTask)) for task in given)
    if not known or not any(isinstance(task, GaussianTask) for task in given):
        raise ValueError(
            f"`tasks` must be {_names()} or a sequence of GaussianTask, at least one, and LabelledTask, got "
            f"{shown(tasks)}."
        )
    for task in given:
        name, own = ("direction", task.direction) if isinstance(task, GaussianTask) else ("input", task.examples[0])
        if own.shape != shape:
            raise ValueError(
                f"The {name} of task {task.name!r} has shape {tuple(own.shape)}, but one input of the "
                f"encoder has shape {shape}: they must be equal."
            )
    names = [task.name for task in given]
    if len(set(names)) < len(names):
        raise ValueError(f"Tasks must have different names, got {names}.")
    return given


@dataclass(frozen=True, eq=False)
class StationaryColour:
    """Stationary colored noise: filters white noise with a gain per frequency; the mean variance stays 1.

    Args:
        gains: ``(n_1, ..., n_k)`` non-negative gains of the frequencies of the discrete Fourier transform along the
            last ``k`` axes of an input, in the order of ``torch.fft.fftfreq``, equal for a frequency and its
            negative. Rescaled to a mean square of 1.

    Raises:
        ValueError: for gains that are negative, not finite, all zero, or not even in the frequency.

    Example:
        >>> colour = StationaryColour.power_law((32, 32))
        >>> colour(torch.randn(8, 3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """

    gains: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        gains = torch.as_tensor(self.gains, dtype=torch.float64)
        mirrored = gains.flip(tuple(range(gains.ndim))).roll((1,) * gains.ndim, tuple(range(gains.ndim)))
        if not bool((gains >= 0).all() and torch.isfinite(gains).all() and gains.any()):
            raise ValueError("`gains` must be finite and at least 0, and not all 0.")
        if not torch.allclose(gains, mirrored):
            raise ValueError(
                "`gains` must be the same for a frequency and its negative, or the noise would be complex."
            )
        object.__setattr__(self, "gains", (gains / gains.square().mean().sqrt()).float())

    @classmethod
    def power_law(cls, sizes: Sequence[int], exponent: float = 1.0) -> StationaryColour:
        """Noise whose amplitude falls as a power of the frequency (cycles per input); the power is 1 in natural images.

        Source: Field, Relations between the statistics of natural images and the response properties of cortical
        cells (1987). The mean has the gain of the lowest frequency.
        """
        check_number("exponent", exponent, "a number of at least 0", 0)
        return cls(_frequency(sizes, 1.0).sqrt().clamp_min(1) ** -exponent)

    @classmethod
    def exponential(cls, sizes: Sequence[int], length: float = 1 / 8) -> StationaryColour:
        """Noise with an exponential autocorrelation, which falls to 1/e over the fraction ``length`` of each axis."""
        check_number("length", length, "a positive number", 0, low_in=False)
        return cls((1 + _frequency(sizes, 2 * math.pi * length)) ** (-(len(sizes) + 1) / 4))

    def __call__(self, white: Tensor) -> Tensor:
        """Filter white noise or directions ``(N, *input_shape)``."""
        axes = tuple(range(-self.gains.ndim, 0))
        half = self.gains[..., : self.gains.shape[-1] // 2 + 1].to(white.device)
        coloured: Tensor = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) * half, s=self.gains.shape, dim=axes)
        return coloured


def _smooth(shape: tuple[int, ...]) -> list[GaussianTask]:
    cosines = [GaussianTask(f"cos_{axis}", _cosine(axis, shape)) for axis in _axes(shape)]
    return cosines or _random(shape)[:2]


def _random(shape: tuple[int, ...]) -> list[GaussianTask]:
    return [GaussianTask(f"random_{index}", fixed_direction(index, shape)) for index in (1, 2, 3)]


def _patches(shape: tuple[int, ...]) -> list[GaussianTask]:
    """A central box of half of each axis, and one in the first corner."""
    tasks = []
    for name, start in (("middle", 1 / 4), ("corner", 0.0)):
        box = torch.zeros(shape)
        places = [
            slice(round(start * size), round(start * size) + max(size // 2, 1)) if axis in _axes(shape) else slice(None)
            for axis, size in enumerate(shape)
        ]
        box[tuple(places)] = 1
        tasks.append(GaussianTask(f"patch_{name}", box))
    return tasks if _axes(shape) else []


def _channels(shape: tuple[int, ...]) -> list[GaussianTask]:
    tasks = []
    for channel in range(shape[0] if len(shape) > 1 and 1 < shape[0] <= MAX_CHANNELS else 0):
        direction = torch.zeros(shape)
        direction[channel] = 1
        tasks.append(GaussianTask(f"channel_{channel}", direction))
    return tasks


def _coloured(prefix: str, colour: Callable[[Sequence[int]], StationaryColour]) -> Callable[..., list[GaussianTask]]:
    def family(shape: tuple[int, ...]) -> list[GaussianTask]:
        axes = _axes(shape)
        if not axes:
            return []
        made = colour(shape[min(axes) :])
        return [GaussianTask(f"{prefix}_{task.name}", task.direction, made) for task in _smooth(shape)]

    return family


FAMILIES: dict[str, Callable[[tuple[int, ...]], list[GaussianTask]]] = {
    "default": _smooth,
    "dc": lambda shape: [],
    "smooth": _smooth,
    "random": _random,
    "patches": _patches,
    "channels": _channels,
    "natural": _coloured("natural", StationaryColour.power_law),
    "correlated": _coloured("correlated", StationaryColour.exponential),
}


def _names() -> str:
    return ", ".join(map(repr, FAMILIES))


def _axes(shape: tuple[int, ...]) -> list[int]:
    """The spatial axes of an input of size greater than 1."""
    return [axis for axis in range(0 if len(shape) == 2 else 1, len(shape)) if shape[axis] > 1]


def _cosine(axis: int, shape: tuple[int, ...]) -> Tensor:
    places = torch.arange(shape[axis], dtype=torch.float64)
    cosine = torch.cos(math.pi * (places + 0.5) / shape[axis])
    return cosine.reshape([-1 if other == axis else 1 for other in range(len(shape))]).expand(shape)


def _frequency(sizes: Sequence[int], unit: float) -> Tensor:
    """Sum over the axes of the squared frequencies, in cycles per axis times ``unit``."""
    squares = torch.zeros(tuple(sizes), dtype=torch.float64)
    for axis, size in enumerate(sizes):
        cycles = torch.fft.fftfreq(size, 1 / size, dtype=torch.float64) * unit
        squares = squares + cycles.square().reshape([-1 if other == axis else 1 for other in range(len(sizes))])
    return squares
