"""Do clusters of the images agree with the labels? If so, tasks between clusters ask for what the labels ask for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from validity.answers import Study
from validity.inputs import Images

CLUSTERS = 12
FOLLOWING = ("dc", "clusters", "information, noise", "information, views", "readout 100", "RankMe")


def agreement(images: Images) -> dict[str, float]:
    """Normalized mutual information of k-means clusters of the training images with each label set, in [0, 1]."""
    clusters = KMeans(CLUSTERS, n_init=4, random_state=0).fit(images.train.flatten(1).numpy()).labels_
    return {
        name: float(normalized_mutual_info_score(labels.numpy(), clusters))
        for name, labels in images.train_labels.items()
    }


def report(study: Study, images: Images) -> Iterator[str]:
    """A table in Markdown: the agreement, and how each predictor follows the linear probe of the label set."""
    yield "\n### Agreement of clusters with labels, and median Spearman within runs\n"
    yield "| label set | agreement | " + " | ".join(FOLLOWING) + " |"
    yield "|---" * (len(FOLLOWING) + 2) + "|"
    for name, value in agreement(images).items():
        followed = [np.median(study.within(predictor, f"linear/{name}")) for predictor in FOLLOWING]
        yield f"| {name} | {value:.2f} | " + " | ".join(f"{found:+.2f}" for found in followed) + " |"
