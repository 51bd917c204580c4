"""Gaussian proxy tasks and their deterministic noise; tasks of labeled examples."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import check_dense, check_name, check_numbers

NOISE_BLOCK = 64
"""Number of noise vectors that share a seed: the unit of generation and of distribution over processes."""


@dataclass(frozen=True, eq=False)
class GaussianTask:
    r"""Two Gaussian classes in the encoder's input space that differ in one direction.

    :math:`x = m + A (y\,s\,u + z)` with :math:`z \sim N(0, I)`, :math:`y = \pm 1` equally likely and
    :math:`|u|_2 = 1`, so that :math:`x \mid y \sim N(m + y\,s\,A u, A A^\top)`. The scale :math:`s` is half the
    Mahalanobis distance of the class means for any direction and covariance, so one closed-form optimum applies to all
    tasks. Source: SynBench, where ``u`` is constant over the input, ``A`` is the identity and ``m`` is zero.

    Args:
        name: name of the task in results and logs; not empty, without ``/``.
        direction: the direction ``u`` in white noise, of the shape of one input; normalized to length 1.
        colour: the linear map ``A`` from white noise ``(N, *input_shape)`` to the noise of the input, such as
            :class:`synbench_lightning.probe.families.StationaryColour`; ``None`` for white noise.
        mean: the midpoint ``m`` between the classes, of the shape of one input; ``None`` for zero.

    Raises:
        ValueError: for a name that cannot be logged, a direction that is zero or not finite, a ``colour`` that is not
            linear or changes the shape, or a mean that has another shape or is not finite.

    Example:
        >>> left_right = torch.ones(3, 32, 32)
        >>> left_right[..., :16] = -1
        >>> round(GaussianTask("left_right", left_right).direction.norm().item(), 4)
        1.0
    """

    name: str
    direction: Tensor = field(repr=False)
    colour: Callable[[Tensor], Tensor] | None = None
    mean: Tensor | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_name("name", self.name)
        direction = check_numbers("direction", self.direction, "a tensor of the shape of one input").detach().cpu()
        length = direction.norm()
        if not bool(torch.isfinite(length)) or length == 0:
            raise ValueError(
                f"`direction` of task {self.name!r} must be finite and not zero, its length is {length:g}."
            )
        object.__setattr__(self, "direction", (direction / length).float())
        if self.colour is not None:
            _check_colour(self.name, self.colour, self.direction)
        if self.mean is not None:
            mean = check_numbers("mean", self.mean, "a tensor of the shape of `direction`").detach().cpu().float()
            if mean.shape != self.direction.shape or not bool(torch.isfinite(mean).all()):
                raise ValueError(
                    f"`mean` of task {self.name!r} must be finite and of the shape of its direction, "
                    f"{tuple(self.direction.shape)}, got {tuple(mean.shape)}."
                )
            object.__setattr__(self, "mean", mean)

    def coloured(self, white: Tensor) -> Tensor:
        """Apply the linear map of the task to white noise or directions ``(N, *input_shape)``."""
        return white if self.colour is None else self.colour(white)


@dataclass(frozen=True, eq=False)
class LabelledTask:
    """Binary classification of real examples as a task of a family, so that the worst case includes real data.

    Their features are probed with the same epsilon-robust discriminant, by two-fold cross-validation. There is no
    closed-form optimum, so perfect accuracy replaces it: the score at the threshold ``a`` is
    ``max(accuracy - a, 0) / (1 - a)``. The classes are balanced by dropping examples of the larger one. Unless there
    are a few times as many examples as features, the discriminant itself is poor, above all at epsilon 0.

    Args:
        name: name of the task in results and logs; not empty, without ``/``.
        examples: ``(N, *input_shape)`` floating-point inputs as the encoder takes them (``normalize`` is for noise).
        labels: ``(N,)`` labels, 0 or 1, at least four of each. For more classes pass one task per class against the
            rest.

    Raises:
        ValueError: for a name that cannot be logged, shapes that do not match, examples that are not finite, other
            labels, or too few of one class.

    Example:
        >>> x = torch.randn(64, 1, 8, 8)
        >>> LabelledTask("digit_3", x, (torch.arange(64) < 20).long()).num_examples
        40
    """

    name: str
    examples: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        check_name("name", self.name)
        x, y = self.examples, self.labels
        check_dense("examples", x)
        check_dense("labels", y)
        real = isinstance(x, Tensor) and x.is_floating_point() and x.ndim >= 2
        if not (real and x.numel() and bool(torch.isfinite(x).all())):
            found = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"`examples` of task {self.name!r} must be a finite floating-point tensor (N, *input_shape), got "
                f"{found}."
            )
        y = check_numbers("labels", y, "a tensor of numbers 0 or 1")
        if y.shape != x.shape[:1] or not bool(((y == 0) | (y == 1)).all()):
            raise ValueError(
                f"`labels` of task {self.name!r} must be {len(x)} numbers 0 or 1, one for each of `examples`, got "
                f"shape {tuple(y.shape)} with the values {y.unique().tolist()[:8]}. For more classes pass "
                "one task per class against the rest."
            )
        of_class = [(y == label).nonzero().flatten().cpu() for label in (0, 1)]
        size = min(map(len, of_class))
        if size < 4:
            raise ValueError(
                f"`labels` of task {self.name!r} must contain at least four examples of each class, got "
                f"{len(of_class[0])} of class 0 and {len(of_class[1])} of class 1."
            )
        chosen = torch.stack([places[:size] for places in of_class], 1).flatten()  # alternately 0 and 1
        object.__setattr__(self, "examples", x.detach().cpu().float()[chosen])
        object.__setattr__(self, "labels", y.cpu().long()[chosen])

    @property
    def num_examples(self) -> int:
        """Number of examples that are encoded."""
        return len(self.labels)

    @property
    def fold(self) -> Tensor:
        """``(N,)`` mask of the examples in the first fold; class counts of the two folds differ by at most one."""
        return torch.arange(self.num_examples) // 2 % 2 == 0


def noise_block(
    seed: int, task: str, scale: float, block: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Sample one block of standard normal noise ``(64, *shape)`` of a task at a scale.

    It depends on these arguments alone, not on global random state, on earlier blocks, or on the process. Generators
    of different device types produce different numbers.
    """
    return _noise((seed, task, scale, block), (NOISE_BLOCK, *shape), device)


def fixed_direction(index: int, shape: Sequence[int]) -> Tensor:
    """Sample a random direction, the same in every call."""
    return _noise((0, "direction", 0.0, index), shape, "cpu")


def _noise(key: tuple[int, str, float, int], shape: Sequence[int], device: torch.device | str) -> Tensor:
    seed, task, scale, block = key
    entropy = [seed, zlib.crc32(task.encode()), int(np.float64(scale).view(np.uint64)), block]
    state = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1
    generator = torch.Generator(device).manual_seed(state)
    return torch.randn(tuple(shape), generator=generator, device=device)


def _check_colour(name: str, colour: Callable[[Tensor], Tensor], direction: Tensor) -> None:
    one = _noise((0, "colour", 0.0, 0), direction.shape, "cpu")  # mutants: any noise
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
    rounding = 1e-3 * found.norm()  # mutants: far above that of float32
    if not bool(differs <= rounding) or not bool(found.norm() > 0):
        raise ValueError(
            f"`colour` of task {name!r} must be linear and not zero, or the best possible accuracy is not known: "
            "A(2 x + y) was not 2 A(x) + A(y)."
        )
