"""Budget of a probe: scales, quadrature weights, forwards, estimator."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from numpy.polynomial.legendre import leggauss
from torch import Tensor

from synbench_lightning.checks import check_choice, check_integer, check_number, shown
from synbench_lightning.functional.gaussian.score import official_grid

OFFICIAL_SCALES = 49
OFFICIAL_SAMPLES = 4096


@dataclass(frozen=True)
class ProbePlan:
    """A budget of encoder forwards and the protocol that turns them into a score.

    ``ProbePlan()`` is the plan ``"fast"``: Gauss-Legendre scales on [0, ``max_scale``], antithetic noise vectors (each
    used with both signs), an estimate of the large-sample limit of accuracy and bound
    (:mod:`synbench_lightning.functional.gaussian.asymptotic`), and the exact area.
    ``ProbePlan.official()`` is the protocol of the published script: 49 scales 0.1 .. 4.9, 2048 training and 2048 test
    samples and a separate covariance at each, and a sum over 100 grid points for the area.

    Args:
        forwards: encoder forwards of one probe; for the whole family of tasks with the protocol ``"fast"``, per task
            with ``"official"``, where it is fixed at 200,704.
        num_scales: number of quadrature points over the scales.
        max_scale: the largest Mahalanobis half-distance; at 5 the optimal accuracy is 1 - 3e-7.
        protocol: ``"fast"`` or ``"official"``.

    Raises:
        ValueError: for a number that is not positive, or an official plan with other numbers than the published ones.

    Example:
        >>> plan = ProbePlan(forwards=16384)
        >>> plan.noise_vectors(num_tasks=1), len(plan.scales)
        (512, 16)
        >>> ProbePlan.official().num_forwards(num_tasks=1)
        200704
    """

    forwards: int = 8192
    num_scales: int = 16
    max_scale: float = 5.0
    protocol: Literal["fast", "official"] = "fast"

    def __post_init__(self) -> None:
        check_choice("protocol", self.protocol, ("fast", "official"))
        check_integer("forwards", self.forwards, 1)
        check_integer("num_scales", self.num_scales, 1)
        check_number("max_scale", self.max_scale, "a positive number", 0, low_in=False)
        official = (OFFICIAL_SCALES * OFFICIAL_SAMPLES, OFFICIAL_SCALES, 4.9)
        if self.protocol == "official" and (self.forwards, self.num_scales, self.max_scale) != official:
            raise ValueError(
                "The official protocol is fixed at 200,704 forwards for 49 scales up to 4.9: use "
                "`ProbePlan.official()`, or `ProbePlan(forwards=...)` for a budget of your own."
            )

    @classmethod
    def fast(cls) -> ProbePlan:
        """8,192 forwards for the whole family of tasks."""
        return cls()

    @classmethod
    def official(cls) -> ProbePlan:
        """The published protocol: 200,704 forwards for each task."""
        return cls(OFFICIAL_SCALES * OFFICIAL_SAMPLES, OFFICIAL_SCALES, 4.9, "official")

    @classmethod
    def of(cls, plan: ProbePlan | str) -> ProbePlan:
        """Return a plan as is, or a preset by name.

        Raises:
            ValueError: if there is no preset of that name.
        """
        presets = {"fast": cls.fast, "official": cls.official}
        if isinstance(plan, str) and plan in presets:
            return presets[plan]()
        if not isinstance(plan, ProbePlan):
            raise ValueError(f"`plan` must be 'fast', 'official' or a ProbePlan, got {shown(plan)}.")
        return plan

    @cached_property
    def scales(self) -> tuple[float, ...]:
        """``(K,)`` Mahalanobis half-distances at which the encoder is probed, ascending."""
        if self.protocol == "official":
            return tuple(step / 10 for step in range(1, OFFICIAL_SCALES + 1))
        return tuple(float(node) for node in (leggauss(self.num_scales)[0] + 1) * self.max_scale / 2)

    @cached_property
    def weights(self) -> tuple[float, ...]:
        """``(K,)`` quadrature weights of the scales."""
        if self.protocol == "official":
            return (0.1,) * OFFICIAL_SCALES
        return tuple(float(weight) for weight in leggauss(self.num_scales)[1] * self.max_scale / 2)

    @property
    def grid(self) -> Tensor | None:
        """Accuracies at which the curve is summed; ``None`` if its area is exact."""
        return official_grid() if self.protocol == "official" else None

    @property
    def lowest_threshold(self) -> float:
        """The lowest threshold accuracy that has a score: chance, or the first point of the grid."""
        return 0.5 if self.grid is None else float(self.grid[0])

    @property
    def signs(self) -> int:
        """Number of signs that a noise vector is used with: 2 (``+s u``, ``-s u``), or 1 in the official protocol."""
        return 1 if self.protocol == "official" else 2

    def noise_vectors(self, num_tasks: int) -> int:
        """Noise vectors for each task and scale.

        Raises:
            ValueError: if the budget leaves fewer than four for each task and scale.
        """
        if self.protocol == "official":
            return OFFICIAL_SAMPLES
        vectors = self.forwards // (2 * self.num_scales * num_tasks)
        if vectors < 4:
            raise ValueError(
                f"`forwards` must be at least {8 * self.num_scales * num_tasks} for {num_tasks} tasks at "
                f"{self.num_scales} scales (four noise vectors, at both signs, for each), got {self.forwards}."
            )
        return vectors

    def num_forwards(self, num_tasks: int) -> int:
        """Encoder forwards of one probe of a family of tasks."""
        return self.noise_vectors(num_tasks) * self.signs * len(self.scales) * num_tasks
