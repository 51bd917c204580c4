"""The epsilon-robust linear discriminant as a scikit-learn classifier."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from synbench_lightning.checks import check_dense, check_number, check_numbers, shown
from synbench_lightning.functional.gaussian.discriminant import class_moments, covariance_spectrum, robust_weights

RELATIVE_FLOOR = 1e-6
"""Directions with less than this fraction of the mean variance are dropped. A guard against rounding, not searched."""


class RobustLinearProbe:
    r"""Linear discriminant classifier that is robust to shifts of the features of a given strength.

    For two classes it is the discriminant that SynBench scores, :math:`\mathrm{sign}(w^\top (x - c))` with
    :math:`w \propto (S + g I)^{-1} \mu`; see :func:`.accuracy_and_bound`.
    With more, each pair of classes has one, all with the same within-class covariance, and the class with the largest
    smallest margin over the others is predicted: at epsilon 0 that is linear discriminant analysis. All classes
    have equal weight, whatever their number of samples. SynBench suggests the epsilon with the highest score,
    :meth:`ProbeResult.best_epsilon`.

    It follows scikit-learn's conventions and works in its pipelines and searches; scikit-learn itself is not needed.

    Args:
        epsilon: length of the shifts, relative to half the distance of the class means, in [0, 1). 0 is the plain
            discriminant; near 1 the weights tend to the difference of the means.

    Attributes:
        classes_: ``(C,)`` the labels, sorted.
        n_features_in_: the dimension D of the features.
        pairs_: ``(P, 2)`` indices of the classes of each discriminant; margins of the second one are positive.
        coef_: ``(P, D)`` weights of the discriminants, scaled so that the mean of the second class has margin 1 and
            that of the first -1.
        intercept_: ``(P,)`` intercepts, added to ``features @ coef_.T``.

    Raises:
        ValueError: in ``fit`` for an epsilon outside its range, one class, features that do not vary within the
            classes, or classes with the same mean.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = np.array(["cat", "dog", "owl"]).repeat(100)
        >>> features = generator.standard_normal((300, 8)) + 4 * np.eye(8)[[0, 1, 2]].repeat(100, axis=0)
        >>> probe = RobustLinearProbe(epsilon=0.2).fit(features, labels)
        >>> probe.predict(4 * np.eye(8)[[2, 0]]).tolist(), probe.score(features, labels) > 0.95
        (['owl', 'cat'], True)
    """

    _estimator_type = "classifier"

    classes_: npt.NDArray[Any]
    n_features_in_: int
    pairs_: npt.NDArray[np.int64]
    coef_: npt.NDArray[np.float64]
    intercept_: npt.NDArray[np.float64]

    def __init__(self, epsilon: float = 0.0) -> None:
        self.epsilon = epsilon

    def fit(self, X: npt.ArrayLike | Tensor, y: npt.ArrayLike | Tensor) -> RobustLinearProbe:  # noqa: N803
        """Fit the discriminants to features ``(n, D)`` and labels ``(n,)`` of any kind; arrays or tensors."""
        epsilon = check_number("epsilon", self.epsilon, "a number in [0, 1)", 0, np.nextafter(1, 0))
        features = _features(X)
        what = f"`y` must hold one label for each of the {len(features)} rows of `X`"
        check_dense("y", y)
        try:
            labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
        except (TypeError, ValueError):
            raise ValueError(f"{what}, got {shown(y)}.") from None
        if labels.shape != features.shape[:1]:
            raise ValueError(f"{what}, got shape {labels.shape}.")
        if labels.dtype == object:
            raise ValueError(f"{what}, all of one kind (numbers or texts), got {shown(labels.tolist())}.")
        classes, places = np.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"`y` must hold at least two classes, got only {classes.tolist()}.")
        means, covariance = class_moments(features, torch.from_numpy(places), len(classes))
        variance = float(covariance.diagonal().mean())
        if not variance > 0:  # or NaN, where there is one sample of each class
            raise ValueError(
                f"`X` must vary within the classes, and does not: {len(features)} samples of {len(classes)} classes. "
                "Give several different samples of each class."
            )
        spectrum = covariance_spectrum(covariance, RELATIVE_FLOOR * variance)
        pairs = list(combinations(range(len(classes)), 2))
        first, second = (means[list(side)] for side in zip(*pairs, strict=True))
        weights = [robust_weights(spectrum, half, (epsilon,))[0] for half in (second - first) / 2]
        coefficients = torch.stack(weights)
        without_rule = [pair for pair, weight in zip(pairs, weights, strict=True) if not bool(weight.any())]
        if without_rule:
            names = " and ".join(repr(label) for label in classes[list(without_rule[0])].tolist())
            raise ValueError(f"`X` does not separate the classes {names}: the means of their features are equal.")
        self.classes_, self.n_features_in_, self.pairs_ = classes, features.shape[1], np.array(pairs)
        self.coef_ = coefficients.numpy()
        self.intercept_ = -(coefficients * (first + second) / 2).sum(1).numpy()
        return self

    def decision_function(self, X: npt.ArrayLike | Tensor) -> npt.NDArray[np.float64]:  # noqa: N803
        """Compute margins, in units of half the distance of the class means.

        Args:
            X: ``(n, D)`` features.

        Returns:
            For two classes ``(n,)``, positive on the side of the second; else ``(n, C)``, the smallest margin of each
            class over the others.

        Raises:
            ValueError: before ``fit``, or for features of another dimension.
        """
        if not hasattr(self, "coef_"):
            raise ValueError("This RobustLinearProbe is not fitted yet: call `fit` with features and labels first.")
        features = _features(X).numpy()
        if features.shape[1] != self.n_features_in_:
            raise ValueError(
                f"`X` must have the {self.n_features_in_} dimensions that were fitted, got {features.shape[1]}."
            )
        margins: npt.NDArray[np.float64] = features @ self.coef_.T + self.intercept_
        if len(self.classes_) == 2:
            return margins[:, 0]
        smallest = np.full((len(features), len(self.classes_)), np.inf)
        for (first, second), margin in zip(self.pairs_, margins.T, strict=True):
            smallest[:, first] = np.minimum(smallest[:, first], -margin)
            smallest[:, second] = np.minimum(smallest[:, second], margin)
        return smallest

    def predict(self, X: npt.ArrayLike | Tensor) -> npt.NDArray[Any]:  # noqa: N803
        """Predict the class of each row of features ``(n, D)``."""
        margins = self.decision_function(X)
        places = (margins > 0).astype(int) if margins.ndim == 1 else margins.argmax(1)
        predicted: npt.NDArray[Any] = self.classes_[places]
        return predicted

    def score(self, X: npt.ArrayLike | Tensor, y: npt.ArrayLike | Tensor) -> float:  # noqa: N803
        """Compute the accuracy of the predictions for features ``(n, D)`` with labels ``(n,)``."""
        return float(np.mean(self.predict(X) == np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)))

    def get_params(self, deep: bool = True) -> dict[str, float]:
        """Return the constructor's arguments, as scikit-learn's ``clone`` and searches need them."""
        return {"epsilon": self.epsilon}

    def set_params(self, **params: float) -> RobustLinearProbe:
        """Change the constructor's arguments."""
        unknown = sorted(set(params) - {"epsilon"})
        if unknown:
            raise ValueError(f"RobustLinearProbe has the parameter `epsilon`, got {', '.join(unknown)}.")
        self.epsilon = params.get("epsilon", self.epsilon)
        return self

    def __repr__(self) -> str:
        return f"RobustLinearProbe(epsilon={self.epsilon!r})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, Tags, TargetTags  # only scikit-learn calls this

        return Tags("classifier", TargetTags(required=True), classifier_tags=ClassifierTags())


def _features(values: npt.ArrayLike | Tensor) -> Tensor:
    """Check features ``(n, D)`` and return them as float64 on the CPU."""
    array = check_numbers("X", values, "features of shape (samples, dimensions)").detach().cpu().numpy()
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"`X` must be features of shape (samples, dimensions), got {array.shape}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).any(1).sum())
        raise ValueError(f"`X` must be finite, got NaN or infinity in {bad} of {len(array)} rows.")
    return torch.from_numpy(np.ascontiguousarray(array))
