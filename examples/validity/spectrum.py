"""Label-free measures of the spectrum of features of real images."""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(features: Tensor) -> float:
    """Exponential of the entropy of the singular values, not centred (Garrido et al., RankMe)."""
    values = torch.linalg.svdvals(features.double())
    share = values / values.sum() + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def alpha_req(features: Tensor) -> float:
    """Slope of the eigenvalues' decay on logarithmic axes, between the third and the 30th (Agrawal et al.)."""
    centred = features.double() - features.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0).clamp_min(1e-12)[2:30].log()
    rank = torch.arange(3, 3 + len(values), dtype=torch.float64).log()
    rank = rank - rank.mean()
    return -float((rank @ values) / (rank @ rank))
