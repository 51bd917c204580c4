"""Whether the rows of two sets of inputs are views of the same examples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BINS = 4096
"""Of token ids: they are compared by how often each occurs, ids that differ by a multiple of this as one."""
CLEAR = 3.0
"""Standard errors below chance from which on rows belong together, by convention."""


def mean_partner_rank(one: Tensor, other: Tensor) -> float:
    r"""How near the rows of one set are to their partners in another, among all rows of that: 0 nearest, 0.5 by chance.

    The mean over the rows :math:`i` of :math:`|\{j \ne i : s_{ij} > s_{ii}\}| / (N - 1)`, with :math:`s` the cosine of
    rows from which the mean over all rows is subtracted; ties count half.

    Args:
        one: ``(N, ...)``, real values or integer token ids, at least two rows.
        other: of the same shape; row i is the partner of row i.

    Raises:
        ValueError: for other shapes.

    Example:
        >>> x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> mean_partner_rank(x, x.flip(3) * 0.1 + x)
        0.0
    """
    if one.shape != other.shape or len(one) < 2:
        raise ValueError(f"`one` and `other` must be alike, of two rows at least, got {one.shape} and {other.shape}.")
    first, second = (_directions(rows) for rows in (one, other))
    similarity = first @ second.T
    own = similarity.diagonal()[:, None]
    above = (similarity > own).double().sum(1) + ((similarity == own).double().sum(1) - 1) / 2
    return float(above.mean() / (len(one) - 1))


def belong_together(*pairs: tuple[Tensor, Tensor]) -> bool:
    """Whether the rows of two sets are nearer to their partners than to others, by more than chance.

    Ranks of unrelated rows are uniform on [0, 1]: their mean over N rows has the standard error
    ``1 / sqrt(12 N)``.

    Args:
        pairs: batches of both sets, as for :func:`mean_partner_rank`; each is compared within itself.

    Example:
        >>> x, y = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
        >>> belong_together((x, x + y)), belong_together((x, y))
        (True, False)
    """
    rows = sum(len(one) for one, _ in pairs)
    rank = sum(len(one) * mean_partner_rank(one, other) for one, other in pairs) / max(1, rows)
    return rows > 0 and rank < 0.5 - CLEAR / math.sqrt(12 * rows)


def _directions(rows: Tensor) -> Tensor:
    """``(N, D)`` rows of length 1 around their mean."""
    rows = rows.detach().cpu()
    if not (rows.is_floating_point() or rows.is_complex()) and rows.ndim == 2:
        counts = torch.zeros(len(rows), BINS, dtype=torch.float64)
        rows = counts.scatter_add_(1, rows.long() % BINS, torch.ones(rows.shape, dtype=torch.float64))
    rows = torch.view_as_real(rows) if rows.is_complex() else rows
    flat = rows.flatten(1).double()
    flat = flat - flat.mean(0)
    directions: Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    return directions
