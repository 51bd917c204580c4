"""What labels say about an encoder: accuracies of classifiers on its features, clean and disturbed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from validity.inputs import Images

SHOTS, DRAWS = 5, 5
HALVES = ("first half", "second half")
NOISE = 0.7
"""Standard deviation of the noise on test images, whose pixels have a standard deviation of 1."""
RADIUS = 1.0
"""Length of the shift that is to mislead classifier and encoder together; images have a length of about 8."""


def downstream(encoder: Callable[[Tensor], Tensor], images: Images, train: Tensor) -> dict[str, float]:
    """Accuracies on the test images, by property, from the features ``(N, D)`` of the training images.

    ``linear/<label set>``: logistic regression on standardized features, all labels. ``knn``: five neighbours.
    ``few-shot linear``, ``few-shot knn``: five labels for each class, the mean of five draws. ``noise``, ``l2``: the
    linear probe on noisy test images, and on images shifted against it. ``first half``, ``second half``: the linear
    probe on every other test image. All but the first are about the first label set.
    """
    with torch.no_grad():
        test = encoder(images.test)
        centre, spread = scale_of(train)

        def standardized(features: Tensor) -> np.ndarray:
            scaled: np.ndarray = ((features - centre) / spread).numpy()
            return scaled

        x, x_test = standardized(train), standardized(test)
        noisy = images.test + NOISE * torch.randn(images.test.shape, generator=torch.Generator().manual_seed(0))
        x_noisy = standardized(encoder(noisy))
    found = {}
    probes = {}
    for name, labels in images.train_labels.items():
        probes[name] = logistic_regression().fit(x, labels.numpy())
        found[f"linear/{name}"] = probes[name].score(x_test, images.test_labels[name].numpy())
    first = next(iter(probes))
    y, y_test, probe = images.train_labels[first].numpy(), images.test_labels[first].numpy(), probes[first]
    right = probe.predict(x_test) == y_test
    found |= {name: float(right[start::2].mean()) for start, name in enumerate(HALVES)}
    found["knn"] = KNeighborsClassifier(5).fit(x, y).score(x_test, y_test)
    rng = np.random.default_rng(0)
    linear, nearest = [], []
    for _ in range(DRAWS):
        few = np.concatenate([rng.choice(np.flatnonzero(y == label), SHOTS, replace=False) for label in np.unique(y)])
        linear.append(logistic_regression().fit(x[few], y[few]).score(x_test, y_test))
        nearest.append(KNeighborsClassifier(1).fit(x[few], y[few]).score(x_test, y_test))
    found["few-shot linear"], found["few-shot knn"] = float(np.mean(linear)), float(np.mean(nearest))
    found["noise"] = probe.score(x_noisy, y_test)
    weight = torch.tensor(probe.coef_, dtype=torch.float32) / spread
    bias = torch.tensor(probe.intercept_, dtype=torch.float32) - weight @ centre
    found["l2"] = _attacked(lambda batch: encoder(batch) @ weight.T + bias, images.test, torch.tensor(y_test))
    return found


def linear_accuracy(train: Tensor, test: Tensor, labels: Tensor, test_labels: Tensor) -> float:
    """Accuracy of the linear probe on features alone, as ``linear/<label set>`` there."""
    centre, spread = scale_of(train)
    x, x_test = (((features - centre) / spread).numpy() for features in (train, test))
    return float(logistic_regression().fit(x, labels.numpy()).score(x_test, test_labels.numpy()))


def scale_of(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, not quite 0 where nothing varies."""
    return features.mean(0), features.std(0) + 1e-6 * features.square().mean().sqrt() + 1e-12


def logistic_regression() -> LogisticRegression:
    return LogisticRegression(max_iter=200, tol=1e-3)


def _attacked(logits: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, steps: int = 3) -> float:
    """Accuracy under projected gradient ascent on the loss within a ball."""
    shift = torch.zeros_like(images)
    for _ in range(steps):
        shift.requires_grad_(True)
        loss = nn.functional.cross_entropy(logits(images + shift), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, shift)
        with torch.no_grad():
            length = gradient.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
            shift = shift + 0.5 * RADIUS * gradient / length
            length = shift.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
            shift = shift * (RADIUS / length).clamp_max(1)
    with torch.no_grad():
        return float((logits(images + shift).argmax(1) == labels).float().mean())
