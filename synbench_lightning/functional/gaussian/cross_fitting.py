"""Accuracy and bound from projections onto directions that were fitted without them, and a jackknife over blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TERMS = 4
"""Terms of the polynomials in the scale."""
NEIGHBOURHOOD = 0.12
"""Width of the neighbourhood of a scale, as a share of the largest scale."""
CORRECTION = 10.0
"""Relative error of ``noise``, times the root of a task's pairs: from 5 to 13 where measured, for 6 encoders
of 64 to 512 dimensions and 85 to 512 pairs (4 to 32 noise vectors at each of 16 scales)."""


class Projections(NamedTuple):
    """Pairs of one task on the directions of one epsilon, each on directions that were fitted without it.

    ``residual (K, n, 2)`` of half sum and half difference, ``mean (K, n)`` the contribution of the n-th pairs of all
    scales to the mean at each, ``noise (K,)`` the directions' own variance, ``kept`` Wishart's factor.
    """

    residual: Tensor
    mean: Tensor
    noise: Tensor
    kept: Tensor


def accuracy_and_bound_curves(projections: Sequence[Projections], position: Tensor, blocks: int) -> Tensor:
    """Accuracy and bound ``(2, 1 + B, E, K)`` from all pairs, and from all but those of each block."""
    top = position / position.max()
    even = torch.stack([top ** (2 * term) for term in range(min(TERMS, len(top)))], 1)
    smooth, share = even @ torch.linalg.pinv(even), neighbourhood(position)
    found = []
    for residual, mean_of, noise, _ in projections:
        half_sum, rest = residual.unbind(-1)
        pairs = residual.shape[1] - _of_blocks(torch.ones_like(rest[:1]), blocks, 0.0).sum(-1)  # (1, 1 + B)
        mean = _without_blocks(mean_of, blocks) / pairs  # (K, 1 + B)
        variance = (_without_blocks(half_sum.square() + rest.square(), blocks) / pairs).clamp_min(1e-300)
        fit = (smooth @ variance.log()).exp()
        # Where hardly more than the directions' noise is left (they may hold no signal), its error is what is left.
        least = torch.maximum(correction_error(rest.numel()) * noise[:, None], 0.01 * fit)
        deviation = torch.maximum(fit - noise[:, None], least).sqrt()
        # A point of scale l, moved to scale k, is right where it exceeds `edge (l, k, 1 + B)`.
        per_unit = deviation / variance.sqrt()[:, None]
        edge = -mean / per_unit
        both = torch.stack([rest + half_sum, rest - half_sum], -1)  # the two classes, (K, n, 2)
        count, total = _above(both, edge, blocks)
        shares = share.T[:, :, None] / (2 * pairs)
        accuracy = (count * shares).sum(0)
        bound = ((count * mean + total * per_unit) * shares).sum(0) / (accuracy * mean).abs().clamp_min(1e-300)
        exists = mean > 0
        found.append(torch.stack([torch.where(exists, accuracy, 0.5), torch.where(exists, bound, 0.0)]))
    return torch.stack(found, 1).movedim(-1, 1)  # (2, E, K, 1 + B) before


def correction_error(pairs: int) -> float:
    """Relative error of the directions' noise, which is subtracted, for a task's number of pairs."""
    return CORRECTION / math.sqrt(pairs)


def _above(values: Tensor, edge: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Number and sum of the values ``(L, n, 2)`` above edges ``(L, K, 1 + B)``, those of the edge's block left out."""
    ordered = values.flatten(1).sort(-1).values
    beyond = torch.nn.functional.pad(ordered.flip(-1).cumsum(-1).flip(-1), (0, 1))  # sum of the values from each on
    below = torch.searchsorted(ordered, edge.flatten(1), right=True)
    count = (ordered.shape[-1] - below).unflatten(1, edge.shape[1:]).double()
    total = beyond.gather(1, below).unflatten(1, edge.shape[1:])
    own = torch.cat([_of_blocks(side, blocks, -math.inf) for side in values.unbind(-1)], -1)[:, None]
    right = own > edge[..., None]
    return count - right.sum(-1), total - torch.where(right, own, 0.0).sum(-1)


def _of_blocks(values: Tensor, blocks: int, filler: float) -> Tensor:
    """Values ``(K, n)`` as ``(K, 1 + B, m)``: those of no block first, then of each; pair i is in block i modulo B."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % blocks), value=filler)
    own = padded.unflatten(1, (-1, blocks)).mT
    return torch.cat([torch.full_like(own[:, :1], filler), own], 1)


def _without_blocks(values: Tensor, blocks: int) -> Tensor:
    """Sums ``(K, 1 + B)`` of values ``(K, n)``: of all, and of all but each block."""
    return values.sum(-1, keepdim=True) - _of_blocks(values, blocks, 0.0).sum(-1)


def neighbourhood(position: Tensor) -> Tensor:
    """Weights ``(K, K)`` of the scales around each scale, of sum one."""
    distance = (position[:, None] - position) / (NEIGHBOURHOOD * position.max())
    weights = torch.exp(-0.5 * distance.square())
    return weights / weights.sum(1, keepdim=True)
