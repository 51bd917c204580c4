"""Accuracy and bound from held-out projections (on directions fitted without them), with a block jackknife."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TERMS = 4
"""Number of terms of the polynomials in the scale."""
NEIGHBORHOOD = 0.12
"""Standard deviation of the weights of neighboring scales, as a fraction of the largest scale."""
CORRECTION = 10.0
"""Relative error of ``noise``, times the square root of a task's number of pairs: from 5 to 13 where measured, for 6
encoders of 64 to 512 dimensions and 85 to 512 pairs (4 to 32 noise vectors at each of 16 scales)."""


class Projections(NamedTuple):
    """Held-out projections of the pairs of one task, for one epsilon: each on directions that were fitted without it.

    ``residual (K, n, 2)`` of half sum and half difference; ``mean (K, n)`` the contributions of the j-th pairs of all
    scales to the mean at each scale, whose average over j is that mean; ``noise (K,)`` the variance that the noise of
    the fitted directions adds; ``kept`` Wishart's factor.
    """

    residual: Tensor
    mean: Tensor
    noise: Tensor
    kept: Tensor


def accuracy_and_bound_curves(projections: Sequence[Projections], position: Tensor, blocks: int) -> Tensor:
    r"""Compute accuracy and bound ``(2, 1 + B, E, K)`` from all pairs, and from all but those of each of B blocks.

    With mean :math:`m_k` and deviation :math:`\sigma_k` at the scale k, a projected sample :math:`x` of the scale
    :math:`l` with deviation :math:`\sigma_l` stands for the sample :math:`m_k + x\,\sigma_k / \sigma_l` of the scale
    k. It is right if that is positive, and its margin is that over :math:`m_k`. Samples of all scales count, with the
    weights of :func:`neighborhood`.

    Args:
        projections: one for each epsilon.
        position: ``(K,)`` scales.
        blocks: B.
    """
    top = position / position.max()  # mutants: the polynomials span the same in any unit
    even = torch.stack([top ** (2 * term) for term in range(min(TERMS, len(top)))], 1)
    smooth, neighbors = even @ torch.linalg.pinv(even), neighborhood(position)  # both (K, K)
    found = []
    for residual, mean_of, noise, _ in projections:
        half_sum, half_difference = residual.unbind(-1)
        pairs = residual.shape[1] - _of_blocks(torch.ones_like(half_difference[:1]), blocks, 0.0).sum(-1)  # (1, 1 + B)
        mean = _without_blocks(mean_of, blocks) / pairs  # m_k, (K, 1 + B)
        squares = half_sum.square() + half_difference.square()
        variance = (_without_blocks(squares, blocks) / pairs).clamp_min(1e-300)  # mutants: any tiny number
        fit = (smooth @ variance.log()).exp()  # even in the scale, and positive
        # Where hardly more than the directions' noise is left (they may hold no signal), its error is what is kept.
        least = torch.maximum(correction_error(half_difference.numel()) * noise[:, None], 0.01 * fit)
        deviation = torch.maximum(fit - noise[:, None], least).sqrt()  # sigma_k
        # Indices: scale l of the samples, scale k that they stand for, replicate.
        per_unit = deviation / variance.sqrt()[:, None]  # sigma_k / sigma_l
        edge = -mean / per_unit  # a sample is right where it exceeds this
        both = torch.stack([half_difference + half_sum, half_difference - half_sum], -1)  # the two classes, (K, n, 2)
        count, total = _above(both, edge, blocks)
        weights = neighbors.T[:, :, None] / (2 * pairs)
        accuracy = (count * weights).sum(0)
        reach = (accuracy * mean).abs().clamp_min(1e-300)  # mutants: any tiny number
        bound = ((count * mean + total * per_unit) * weights).sum(0) / reach
        exists = mean > 0
        found.append(torch.stack([torch.where(exists, accuracy, 0.5), torch.where(exists, bound, 0.0)]))
    return torch.stack(found, 1).movedim(-1, 1)  # (2, E, K, 1 + B) before


def correction_error(pairs: int) -> float:
    """Relative error of the estimated noise of the directions, which is subtracted, for a task's number of pairs."""
    return CORRECTION / math.sqrt(pairs)


def _above(values: Tensor, edge: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """Count and sum the values ``(L, n, 2)`` above edges ``(L, K, 1 + B)``, without those of the edge's block.

    One sort and cumulative sums serve all edges; the few values of each block are compared one by one and subtracted.
    """
    ordered = values.flatten(1).sort(-1).values
    beyond = torch.nn.functional.pad(ordered.flip(-1).cumsum(-1).flip(-1), (0, 1))  # sum of the values from each on
    below = torch.searchsorted(ordered, edge.flatten(1), right=True)
    count = (ordered.shape[-1] - below).unflatten(1, edge.shape[1:]).double()
    total = beyond.gather(1, below).unflatten(1, edge.shape[1:])
    own = torch.cat([_of_blocks(side, blocks, -math.inf) for side in values.unbind(-1)], -1)[:, None]
    right = own > edge[..., None]
    return count - right.sum(-1), total - torch.where(right, own, 0.0).sum(-1)


def _of_blocks(values: Tensor, blocks: int, filler: float) -> Tensor:
    """Arrange values ``(K, n)`` by block: ``(K, 1 + B, m)``, an empty block first; pair j is in block j modulo B."""
    padded = torch.nn.functional.pad(values, (0, -values.shape[1] % blocks), value=filler)
    own = padded.unflatten(1, (-1, blocks)).mT
    return torch.cat([torch.full_like(own[:, :1], filler), own], 1)


def _without_blocks(values: Tensor, blocks: int) -> Tensor:
    """Sum values ``(K, n)``: over all, and over all but each block, ``(K, 1 + B)``."""
    return values.sum(-1, keepdim=True) - _of_blocks(values, blocks, 0.0).sum(-1)


def neighborhood(position: Tensor) -> Tensor:
    """Gaussian weights ``(K, K)`` of the scales around each scale; rows sum to one."""
    distance = (position[:, None] - position) / (NEIGHBORHOOD * position.max())
    weights = torch.exp(-0.5 * distance.square())
    return weights / weights.sum(1, keepdim=True)
