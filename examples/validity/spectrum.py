"""The decay of the spectrum of features as this study's results were made with it."""

from __future__ import annotations

import torch
from torch import Tensor

from synbench_lightning.functional.representation.spectrum import power_law_exponent


def decay(features: Tensor) -> float:
    """The exponent of alpha-ReQ, from the third to the 30th eigenvalue.

    The package's :func:`.alpha_req` fits all of them, which here are few and end
    in those that no example moves.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0).clamp_min(1e-12)[2:30].log()
    rank = torch.arange(3, 3 + len(values), dtype=torch.float64).log()
    rank = rank - rank.mean()
    return -float((rank @ values) / (rank @ rank))


def published_alpha(features: Tensor) -> float:
    """alpha-ReQ as its authors fit it: from the eleventh to the hundredth eigenvalue, or as many as there are.

    The range is that of the package ``reptrix`` of the same group; where there are fewer than 20 features nothing is
    left to fit, and the result is NaN.
    """
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.svdvals(centred).square()[10:100]
    return float("nan") if features.shape[1] < 20 else float(power_law_exponent(values, first=11))
