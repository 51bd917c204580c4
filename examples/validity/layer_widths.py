"""Candidates for a number that compares layers of different width: information, changed in one way each.

``versions`` are features ``(K, n, D)`` of n views of K images. None of them knows a label.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import FLOOR, instance_information

DIRECTIONS = 24
"""As many as the narrowest layer of the residual network has."""


def projected(versions: Tensor, times: int = 4) -> float:
    """Information in as many directions as the narrowest layer has, drawn at random; the mean over some draws."""
    generator = torch.Generator().manual_seed(0)
    dim, found = versions.shape[2], []
    for _ in range(times):
        basis, _ = torch.linalg.qr(torch.randn(dim, min(dim, DIRECTIONS), generator=generator))
        found.append(float(instance_information(versions @ basis)))
    return sum(found) / times


def principal(versions: Tensor) -> float:
    """Information in the directions in which the features vary most."""
    flat = versions.flatten(0, 1).double()
    _, _, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return float(instance_information(versions.double() @ directions[:DIRECTIONS].T))


def most_informative(versions: Tensor) -> float:
    """Information in the directions that have most of it, less what permuted residuals have in theirs."""
    ratios, of_permuted = (_ratios(of) for of in (versions, _permuted(versions)))
    return float((ratios[:DIRECTIONS].log1p().sum() - of_permuted[:DIRECTIONS].log1p().sum()) / 2)


def standardized(versions: Tensor) -> float:
    """Information with every feature scaled to the variance 1: the floor is relative to each."""
    flat = versions.flatten(0, 1).double()
    return float(instance_information(versions.double() / (flat.std(0) + 1e-6 * flat.square().mean().sqrt() + 1e-12)))


def floor_of_total(versions: Tensor) -> float:
    """Information with a floor that is a fraction of the summed variance, whatever the number of directions."""
    return _with_ridge(versions, FLOOR * float(_variances(versions).sum()) / 48)


def floor_of_largest(versions: Tensor) -> float:
    """Information with a floor that is a fraction of the largest eigenvalue of the covariance."""
    flat = versions.flatten(0, 1).double()
    return _with_ridge(versions, FLOOR / 5 * float(torch.linalg.eigvalsh(flat.T.cov())[-1]))


def floor_of_within(versions: Tensor) -> float:
    """Information with a floor that is a fraction of the mean variance within an image."""
    within = versions.double().var(1).mean()
    return _with_ridge(versions, 0.1 * float(within))


def per_direction(versions: Tensor) -> float:
    """Information over the number of features."""
    return float(instance_information(versions)) / versions.shape[2]


def of_possible(versions: Tensor) -> float:
    """Information as a fraction of that of features that views do not change, with the same spectrum of the means."""
    means = versions.double().mean(1)
    ridge = FLOOR * float(_variances(versions).mean())
    possible = float((torch.linalg.eigvalsh(means.T.cov()).clamp_min(0) / ridge).log1p().sum()) / 2
    return float(instance_information(versions)) / max(possible, 1e-12)


def saturated(versions: Tensor) -> float:
    """Instead of the logarithm, the fraction of a direction's variance between images: each counts one at most."""
    ratios, of_permuted = (_ratios(of) for of in (versions, _permuted(versions)))
    return float((ratios / (1 + ratios)).sum() - (of_permuted / (1 + of_permuted)).sum())


def unit_length(versions: Tensor) -> float:
    """Information with every feature vector, less the mean, scaled to the length 1."""
    centred = versions.double() - versions.double().mean((0, 1))
    return float(instance_information(centred / centred.norm(dim=2, keepdim=True).clamp_min(1e-12)))


def identified(versions: Tensor) -> float:
    """How much held-out views say about which image they are of, in nats: at most log K, whatever the width.

    A Gaussian classifier (means of the images, one covariance) is fitted to half of the views and judged by its
    cross-entropy on the others; the posterior's temperature is the best of some.
    """
    found = []
    features = versions.double()
    inputs = len(features)
    halves = features[:, ::2], features[:, 1::2]
    for train, test in (halves, halves[::-1]):
        means = train.mean(1)
        within = (train - means[:, None]).flatten(0, 1)
        covariance = within.T @ within / (inputs * (train.shape[1] - 1))
        covariance.diagonal().add_(FLOOR * float(_variances(versions).mean()) + 1e-12)
        whitening = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
        distances = torch.cdist(test.flatten(0, 1) @ whitening, means @ whitening).square()
        labels = torch.arange(inputs).repeat_interleave(test.shape[1])
        losses = [
            float(torch.nn.functional.cross_entropy(-distances / (2 * temperature), labels))
            for temperature in (1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
        ]
        found.append(math.log(inputs) - min(losses))
    return sum(found) / 2


def _variances(versions: Tensor) -> Tensor:
    return versions.flatten(0, 1).double().var(0)


def _with_ridge(versions: Tensor, ridge: float) -> float:
    """Information with a floor in absolute units."""
    mean = float(_variances(versions).mean())
    return float(instance_information(versions, ridge / mean)) if mean > 0 and ridge > 0 else 0.0


def _permuted(versions: Tensor) -> Tensor:
    """The residuals of each image given to others, one draw after another."""
    inputs, draws = versions.shape[:2]
    rest = (versions - versions.mean(1, keepdim=True)) * (draws / (draws - 1)) ** 0.5
    draw = torch.arange(draws)
    permuted: Tensor = rest[(torch.arange(inputs)[:, None] + draw) % inputs, draw]
    return permuted


def _ratios(versions: Tensor) -> Tensor:
    """Generalized eigenvalues of the covariance between images over that within, the largest first."""
    features = versions.double()
    inputs, draws, dim = features.shape
    means = features.mean(1)
    rest = (features - means[:, None]).flatten(0, 1)
    within = rest.T @ rest / (inputs * (draws - 1))
    between = means.T.cov() - within / draws
    ridge = FLOOR * float(_variances(versions).mean()) + 1e-12
    factor = torch.linalg.cholesky(within + ridge * torch.eye(dim, dtype=within.dtype))
    whitened = torch.linalg.solve_triangular(factor, between, upper=False)
    whitened = torch.linalg.solve_triangular(factor, whitened.T, upper=False)
    ratios: Tensor = torch.linalg.eigvalsh((whitened + whitened.T) / 2).flip(0).clamp_min(0)
    return ratios


WIDTH_CANDIDATES: dict[str, Callable[[Tensor], float]] = {
    "projected": projected,
    "principal": principal,
    "most informative": most_informative,
    "standardized": standardized,
    "floor of total": floor_of_total,
    "floor of largest": floor_of_largest,
    "floor of within": floor_of_within,
    "per direction": per_direction,
    "of possible": of_possible,
    "saturated": saturated,
    "unit length": unit_length,
    "identified": identified,
}
