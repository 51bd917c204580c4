"""What is shown to an encoder besides labelled images: proxy tasks, and versions of unlabelled images.

A *shift* is a task of two classes with equal covariances, ``x | y ~ N(centre + y s noise u, noise^2 I)``: its optimum
is that of SynBench whatever the centre and the noise, and a linear rule reaches it in input space. *Instances* are as
many classes as images, each of which is shown in several versions.

Tried on the development half and no better than these, so not here: shifts along low frequencies, principal directions
and between pairs of images, and in noise of the images' covariance; mixtures of Gaussians fitted to clusters, and
pseudo-labels of clusters; accuracy of telling 16 to 64 instances apart; how well inputs are linearly reconstructed;
products of these with RankMe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from synbench_lightning import ProbePlan, task_family
from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.gaussian.score import synbench_score
from validity.inputs import Images, Transform

PLAN = ProbePlan(num_scales=8)
"""The scales of a shift. The forwards are ``FORWARDS`` for a family, a quarter of the package's default."""
FORWARDS = 2048
UNLABELLED = 512
"""Images without labels that tasks may be matched to, as many as the first batches of a run show."""
THRESHOLD = 0.7
Features = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shift:
    """``direction`` of length 1, ``centre`` of the shape of an input, ``noise`` in units of the pixels' deviation."""

    direction: Tensor
    centre: Tensor
    noise: float


class ShiftFamily:
    """Shifts that share a budget of forwards; every noise vector is shown at both signs."""

    def __init__(self, tasks: Sequence[Shift], seed: int = 0, forwards: int = FORWARDS) -> None:
        shape = tasks[0].direction.shape
        vectors = forwards // (2 * len(PLAN.scales) * len(tasks))
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(len(tasks), len(PLAN.scales), vectors, *shape, generator=generator)
        ones = [1] * len(shape)
        scales = torch.tensor(PLAN.scales, dtype=torch.float32).reshape(-1, 1, *ones)
        shift = scales * torch.stack([task.direction for task in tasks])[:, None, None]
        centre = torch.stack([task.centre for task in tasks])[:, None, None]
        noise = torch.tensor([task.noise for task in tasks]).reshape(-1, 1, 1, *ones)
        self.inputs = torch.stack([centre + noise * (z + shift), centre + noise * (z - shift)], 3)

    def scores(self, features: Features, epsilons: Sequence[float]) -> Tensor:
        """SynBench scores ``(T, E)`` at the threshold accuracy 0.7."""
        found = features(self.inputs.flatten(0, 3)).unflatten(0, self.inputs.shape[:4])
        limit = estimate_limit(found, PLAN.scales, epsilons, blocks=2)
        return synbench_score(limit.accuracy, limit.bound, PLAN.scales, [THRESHOLD], PLAN.weights)[..., 0]


class Instances:
    """Unlabelled images, each shown in several versions: which of them is it?

    Args:
        versions: ``(K, n, *input_shape)``.
    """

    def __init__(self, versions: Tensor) -> None:
        self.versions = versions

    def features(self, features: Features) -> Tensor:
        """``(K, n, D)``."""
        found: Tensor = features(self.versions.flatten(0, 1)).unflatten(0, self.versions.shape[:2])
        return found


def with_noise(images: Tensor, noise: float, seed: int = 0) -> Instances:
    """Each with white noise, ``FORWARDS`` in all."""
    shape = (len(images), FORWARDS // len(images), *images.shape[1:])
    white = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Instances(images[:, None] + noise * white)


def in_views(images: Tensor, view: Transform, seed: int = 0, forwards: int = FORWARDS) -> Instances:
    """Each in random views, so many in all."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Instances(torch.stack([view(images) for _ in range(forwards // len(images))], 1))


def lidar(features: Tensor, delta: float = 1e-4) -> float:
    """LiDAR of features ``(K, n, D)``: the effective rank of the ratio of the covariance between to that within images.

    Thilak et al., LiDAR: sensing linear probing performance in joint embedding SSL architectures (2023).
    """
    features = features.double()
    means = features.mean(1)
    rest = (features - means[:, None]).flatten(0, 1)
    within = rest.T @ rest / (features.shape[0] * (features.shape[1] - 1))
    values, vectors = torch.linalg.eigh(within + delta * torch.eye(features.shape[2], dtype=features.dtype))
    whitened = (means - means.mean(0)) @ vectors * values.rsqrt()
    found = torch.linalg.svdvals(whitened).square()
    shares = found / found.sum() + 1e-7
    return float((-shares * shares.log()).sum().exp())


def logme(features: Tensor, labels: Tensor) -> float:
    """Log evidence of a linear model per label, mean over one-hot classes, by MacKay's fixed point.

    You et al., LogME: practical assessment of pre-trained models for transfer learning (2021).
    """
    x = features.double()
    n, dim = x.shape
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    variances, found = s.square(), []
    for y in torch.nn.functional.one_hot(labels).double().T:
        along = u.T @ y
        outside = float((y - u @ along).square().sum())
        alpha, beta = 1.0, 1.0
        for _ in range(11):
            known = alpha + beta * variances
            gamma = float((beta * variances / known).sum())
            length = float((beta * s * along / known).square().sum())
            missed = float((along * alpha / known).square().sum()) + outside
            alpha, beta = gamma / (length + 1e-12), (n - gamma) / (missed + 1e-12)
        evidence = n / 2 * math.log(beta) + dim / 2 * math.log(alpha) - n / 2 * math.log(2 * math.pi)
        evidence -= beta / 2 * missed + alpha / 2 * length
        evidence -= 0.5 * float((alpha + beta * variances).log().sum()) + (dim - len(s)) / 2 * math.log(alpha)
        found.append(evidence / n)
    return sum(found) / len(found)


def package_family(name: str, shape: tuple[int, ...]) -> list[Shift]:
    """The package's tasks of that name."""
    return [Shift(task.direction, torch.zeros(shape), 1.0) for task in task_family(name, shape)]


def between_clusters(images: Tensor, noise: float, pairs: int = 6) -> list[Shift]:
    """From one cluster of unlabelled images to another, around the middle between them."""
    flat = images.flatten(1)
    centres = KMeans(2 * pairs, n_init=4, random_state=0).fit(flat.numpy()).cluster_centers_
    found = []
    for first, second in torch.as_tensor(centres).float().unflatten(1, images.shape[1:]).unflatten(0, (pairs, 2)):
        difference = first - second
        found.append(Shift(difference / difference.norm(), (first + second) / 2, noise))
    return found


def unlabelled(images: Images) -> Tensor:
    """The images that tasks are matched to."""
    chosen = torch.randperm(len(images.train), generator=torch.Generator().manual_seed(5))
    return images.train[chosen[:UNLABELLED]]
