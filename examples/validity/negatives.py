"""Information between inputs that resemble each other: within clusters, and against the nearest ones in a nuisance."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from synbench_lightning.functional.representation.information import FLOOR

Between = Callable[[Tensor], Tensor]
"""A covariance ``(D, D)`` between inputs, of their mean features ``(K, D)``."""
CLUSTERS = (4, 8, 16)
BINS = 8


def information_of(features: Tensor, between: Between) -> float:
    """:func:`.instance_information` with another covariance between inputs, and without its permuted baseline.

    Args:
        features: ``(K, n, D)``: input, view, dimension.
        between: the covariance.
    """
    features = features.double()
    inputs, views, dim = features.shape
    means = features.mean(1)
    residuals = (features - means[:, None]).flatten(0, 1)
    within = residuals.T @ residuals / (inputs * (views - 1))
    ridge = FLOOR * features.flatten(0, 1).var(0).mean() * torch.eye(dim, dtype=features.dtype)
    whole = within * (1 - 1 / views) + between(means) + ridge
    return float((torch.linalg.slogdet(whole)[1] - torch.linalg.slogdet(within + ridge)[1]) / 2)


def within_clusters(of: Tensor, number: int) -> Between:
    """Around the mean of the inputs in the same cluster; clusters of ``(K, P)``, pixels or features."""
    clusters = torch.tensor(KMeans(number, n_init=4, random_state=0).fit(of.numpy()).labels_)

    def covariance(means: Tensor) -> Tensor:
        centered = means.clone()
        for cluster in clusters.unique():
            centered[clusters == cluster] -= means[clusters == cluster].mean(0)
        return centered.T @ centered / (len(means) - number)

    return covariance


def nearest(description: Tensor) -> Between:
    """Of the difference to the input with the nearest description ``(K, P)``."""
    distance = torch.cdist(description, description).fill_diagonal_(torch.inf)
    neighbor = distance.argmin(1)

    def covariance(means: Tensor) -> Tensor:
        difference = means - means[neighbor]
        return difference.T @ difference / (2 * len(means))

    return covariance


def variants(images: Tensor, first: Tensor) -> dict[str, Between]:
    """By name; ``first`` are the mean features ``(K, D)`` of the images ``(K, C, H, W)`` at the first checkpoint."""
    pixels, found = images.flatten(1), dict[str, Between]()
    for number in CLUSTERS:
        found[f"within {number} clusters of inputs"] = within_clusters(pixels, number)
        found[f"within {number} clusters of the first features"] = within_clusters(first, number)
    histograms = torch.stack([channel.histc(BINS, -3, 3) for image in images for channel in image])
    found["nearest by mean of each channel"] = nearest(images.mean((2, 3)))
    found["nearest by histogram of each channel"] = nearest(histograms.view(len(images), -1))
    found["nearest by pixels"] = nearest(pixels)
    return found
