"""Gaussian proxy tasks and their deterministic noise."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import check_name

NOISE_BLOCK = 64
"""Noise vectors that share a seed: the unit that is generated, and that one process takes over."""


@dataclass(frozen=True, eq=False)
class GaussianTask:
    r"""Two Gaussian classes in the encoder's input space that differ in one direction.

    :math:`x = A (y\,s\,u + z)` with :math:`z \sim N(0, I)`, :math:`y = \pm 1` equally likely and :math:`|u|_2 = 1`, so
    that :math:`x \mid y \sim N(y\,s\,A u, A A^\top)`. The scale :math:`s` is half the Mahalanobis distance of the class
    means whatever the direction and the covariance, and one closed-form optimum serves all tasks. Source: SynBench,
    where ``u`` is constant over the input and ``A`` the identity.

    Args:
        name: what the task is called in results and logs; not empty, without ``/``.
        direction: the direction ``u`` in white noise, of the shape of one input; scaled to length 1 here.
        colour: the linear map ``A`` from white noise ``(N, *input_shape)`` to the input's, as
            :class:`synbench_lightning.families.StationaryColour`; ``None`` for white noise.

    Raises:
        ValueError: for a name that cannot be logged, a direction that is zero or not finite, or a colour that is not
            linear or changes the shape.

    Example:
        >>> left_right = torch.ones(3, 32, 32)
        >>> left_right[..., :16] = -1
        >>> round(GaussianTask("left_right", left_right).direction.norm().item(), 4)
        1.0
    """

    name: str
    direction: Tensor = field(repr=False)
    colour: Callable[[Tensor], Tensor] | None = None

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
        if self.colour is not None:
            _check_colour(self.name, self.colour, self.direction)

    def coloured(self, white: Tensor) -> Tensor:
        """White noise or directions ``(N, *input_shape)`` in the colour of the task."""
        return white if self.colour is None else self.colour(white)


def noise_block(
    seed: int, task: str, scale: float, block: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Block ``block`` of the noise of a task at a scale, ``(64, *shape)``, standard normal.

    It depends on these arguments alone, never on a global random state, on how many blocks were drawn before, or on
    which process draws it. Generators of different kinds of device draw different numbers.
    """
    return _noise((seed, task, scale, block), (NOISE_BLOCK, *shape), device)


def fixed_direction(index: int, shape: Sequence[int]) -> Tensor:
    """A random direction, the same in every call."""
    return _noise((0, "direction", 0.0, index), shape, "cpu")


def _noise(key: tuple[int, str, float, int], shape: Sequence[int], device: torch.device | str) -> Tensor:
    seed, task, scale, block = key
    entropy = [seed, zlib.crc32(task.encode()), int(np.float64(scale).view(np.uint64)), block]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
    generator = torch.Generator(device).manual_seed(state)
    return torch.randn(tuple(shape), generator=generator, device=device)


def _check_colour(name: str, colour: Callable[[Tensor], Tensor], direction: Tensor) -> None:
    one = _noise((0, "colour", 0.0, 0), direction.shape, "cpu")
    try:
        found = colour(torch.stack([one, direction, 2 * one + direction]))
    except Exception as error:
        raise ValueError(
            f"`colour` of task {name!r} must be a linear map of tensors (N, {', '.join(map(str, direction.shape))}), "
            f"but raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, Tensor) or found.shape != (3, *direction.shape) or not found.is_floating_point():
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"`colour` of task {name!r} must keep the shape (3, ...) of three inputs, got {got}.")
    differs = (found[2] - 2 * found[0] - found[1]).norm()
    if not bool(differs <= 1e-3 * found.norm()) or not bool(found.norm() > 0):
        raise ValueError(
            f"`colour` of task {name!r} must be linear and not zero, or the best possible accuracy is not known: "
            "A(2 x + y) was not 2 A(x) + A(y)."
        )
