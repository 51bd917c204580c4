"""Proxy tasks: the package's, and those that were tried to follow downstream performance better.

A *shift* is a task of two classes with equal covariances, ``x | y ~ N(centre + y s noise u, noise^2 I)``: its optimum
is that of SynBench whatever the centre and the noise, and a linear rule reaches it in input space. A *mixture* has many
classes with a covariance each: no linear rule of the inputs is optimal, so that an encoder which loses nothing is not
yet good, and features that make the classes linearly separable are better than the inputs. *Noisy instances* are as
many classes as images, around each of them: they alone suppose nothing about how images fall into classes.

Tried on the development half and no better, so not here: shifts in noise of the images' covariance, between pairs of
images and along later principal directions; mixtures of other numbers of classes and with a common covariance; accuracy
of telling 16 to 64 instances apart; the rank of the ratio of their covariances (LiDAR with noise in the place of
augmentations); how well inputs are linearly reconstructed; products of these with RankMe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from synbench_lightning import ProbePlan, task_family
from synbench_lightning.functional.gaussian.limit import estimate_limit
from synbench_lightning.functional.gaussian.score import synbench_score
from synbench_lightning.functional.representation.information import instance_information
from validity.inputs import Images

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

    def __init__(self, tasks: Sequence[Shift], seed: int = 0) -> None:
        shape = tasks[0].direction.shape
        vectors = FORWARDS // (2 * len(PLAN.scales) * len(tasks))
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


class Mixture:
    """Classes ``N(mean_k, t^2 C_k)`` that k-means finds among unlabelled images.

    A class's covariance is shrunk to that of all classes as if 30 images of those were added to its own, and by two
    percent of the variance of the inputs times the identity.

    Args:
        images: unlabelled inputs.
        temperature: t, which makes the classes overlap more than the images do.
        classes: how many.
    """

    def __init__(self, images: Tensor, temperature: float, classes: int = 10, seed: int = 0) -> None:
        x = images.flatten(1).double()
        means = KMeans(classes, n_init=4, random_state=seed).fit(x.numpy())
        own, centres = torch.as_tensor(means.labels_).long(), torch.as_tensor(means.cluster_centers_).double()
        rest = x - centres[own]
        floor = 0.02 * x.var(0).mean() * torch.eye(x.shape[1], dtype=torch.float64)
        pooled = rest.T @ rest / len(x) + floor
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(FORWARDS) % classes
        z = torch.randn(FORWARDS, x.shape[1], generator=generator, dtype=torch.float64)
        inputs = torch.empty_like(z)
        for k in range(classes):
            covariance = (rest[own == k].T @ rest[own == k] + 30 * pooled) / (int((own == k).sum()) + 30)
            values, basis = torch.linalg.eigh(covariance)
            mine = self.labels == k
            inputs[mine] = centres[k] + temperature * (z[mine] * values.clamp_min(0).sqrt()) @ basis.T
        self.inputs = inputs.float().unflatten(1, images.shape[1:])

    def accuracies(self, features: Features) -> tuple[float, float]:
        """Of the linear discriminant and of the nearest class mean, see :func:`cross_validated`."""
        return cross_validated(features(self.inputs), self.labels)


class NoisyInstances:
    """Unlabelled images, each with white noise many times: which of them is it?

    Args:
        images: unlabelled inputs; the first ones are taken.
        noise: its standard deviation.
        inputs: how many images.
    """

    def __init__(self, images: Tensor, noise: float, inputs: int = 128, seed: int = 0) -> None:
        shape = (inputs, FORWARDS // inputs, *images.shape[1:])
        white = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        self.inputs = images[:inputs, None] + noise * white

    def information(self, features: Features) -> float:
        """What the features tell about the image, in nats."""
        found = features(self.inputs.flatten(0, 1)).unflatten(0, self.inputs.shape[:2])
        return float(instance_information(found))


class PseudoLabels:
    """The same clusters, but the unlabelled images themselves with white noise: nothing in it is Gaussian."""

    def __init__(self, images: Tensor, noise: float, classes: int = 10, seed: int = 0) -> None:
        found = KMeans(classes, n_init=4, random_state=seed).fit(images.flatten(1).numpy())
        chosen = torch.arange(FORWARDS) % len(images)
        white = torch.randn(FORWARDS, *images.shape[1:], generator=torch.Generator().manual_seed(seed))
        self.inputs = images[chosen] + noise * white
        self.labels = torch.as_tensor(found.labels_).long()[chosen]

    def accuracies(self, features: Features) -> tuple[float, float]:
        """Of the linear discriminant and of the nearest class mean, see :func:`cross_validated`."""
        return cross_validated(features(self.inputs), self.labels)


def cross_validated(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracies of linear discriminant and nearest class mean, fitted to one half and measured on the other.

    Both ways; the halves are blocks of 64 samples in turn.
    """
    x, first = features.double(), torch.arange(len(labels)) // 64 % 2 == 0
    folds = [(first, ~first), (~first, first)]
    found = torch.tensor([class_rules(x[a], labels[a], x[b], labels[b]) for a, b in folds], dtype=torch.float64)
    discriminant, nearest = found.mean(0).tolist()
    return discriminant, nearest


def class_rules(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> tuple[float, float]:
    """Accuracies of the linear discriminant (classes of equal share, a ridge of 1e-4 of the mean variance) and of the
    nearest class mean: what the epsilon-robust discriminant is at epsilon 0 and tends to as epsilon grows."""
    belongs = torch.nn.functional.one_hot(y).double()
    means = (belongs.T @ x) / belongs.sum(0)[:, None]
    rest = x - means[y]
    covariance = rest.T @ rest / len(x)
    ridge = 1e-4 * covariance.diagonal().mean() + 1e-12
    weights = torch.linalg.solve(covariance + ridge * torch.eye(len(covariance), dtype=x.dtype), means.T)
    accuracies = []
    for direction in (weights, means.T):
        offered = x_test @ direction - 0.5 * (means * direction.T).sum(1)
        accuracies.append(float((offered.argmax(1) == y_test).double().mean()))
    return accuracies[0], accuracies[1]


def package_family(name: str, shape: tuple[int, ...]) -> list[Shift]:
    """The package's tasks of that name."""
    return [Shift(task.direction, torch.zeros(shape), 1.0) for task in task_family(name, shape)]


def low_frequencies(shape: tuple[int, ...], noise: float) -> list[Shift]:
    """Data-free: the six slowest cosines of the plane, around the mean intensity, with little noise."""
    rows, columns = shape[-2:]
    found = []
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        row, column = (torch.cos(torch.pi * k * (torch.arange(n) + 0.5) / n) for k, n in ((i, rows), (j, columns)))
        wave = (row[:, None] * column).expand(shape)
        found.append(Shift(wave / wave.norm(), torch.zeros(shape), noise))
    return found


def principal_directions(images: Tensor, noise: float, number: int = 6) -> list[Shift]:
    """The first principal directions of unlabelled images, around their mean."""
    flat = images.flatten(1).double()
    _, _, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    shape = images.shape[1:]
    return [Shift(u.float().reshape(shape), images.mean(0), noise) for u in directions[:number]]


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
