"""Whether the rows of two sets of inputs are views of the same examples, and in which order rows stand."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

BINS = 4096  # mutants: enough either way
"""Of token ids: they are compared by how often each occurs, ids that differ by a multiple of this as one."""
CLEAR = 3.0
"""Standard errors below chance from which on rows belong together, by convention."""
QUANTILES = 33  # mutants: enough either way
FREQUENCIES = 64  # mutants: enough either way
MOST_VALUES = 8192  # mutants: enough either way
"""Of an input that are compared."""
CHANGED = 0.9
"""Of the rows of examples that were exchanged so many change at least: a view may happen to be the same."""

MIXED = 5.0
"""Standard errors by which rows of exchanged examples have to change more than others, where all change."""

Layout = Literal["blocks", "turns"]


def mean_partner_rank(one: Tensor, other: Tensor) -> float:
    r"""Compute the mean rank of partners among the nearest neighbors in another set: 0 nearest, 0.5 by chance.

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
    return _mean_rank(_values(one), _values(other))


def belong_together(*pairs: tuple[Tensor, Tensor]) -> bool:
    """Test whether the rows of two sets are nearer to their partners than to others, by more than chance.

    They are compared by their values, by their pattern (which survives other colors, brightness and contrast), by how
    values are distributed (which survives flips, shifts and crops), and by their amplitude spectrum along the last
    axis (which survives other windows of a signal). Ranks of unrelated rows are uniform on [0, 1]: their mean over N
    rows has the standard error ``1 / sqrt(12 N)``.

    Args:
        pairs: batches of both sets, as for :func:`mean_partner_rank`; each is compared within itself.

    Example:
        >>> x, y = torch.randn(2, 64, 10, generator=torch.Generator().manual_seed(0))
        >>> belong_together((x, x + y)), belong_together((x, y))
        (True, False)
    """
    rows = sum(len(one) for one, _ in pairs)
    limit = 0.5 - CLEAR / math.sqrt(12 * max(rows, 1))
    for describe in (_values, _pattern, _distribution, _spectrum):
        ranks = [len(one) * _mean_rank(describe(one), describe(other)) for one, other in pairs]
        if rows and sum(ranks) / rows < limit:
            return True
    return False


def layout_of(exchanged: Tensor, changes: Tensor) -> Layout | None:
    """Find the order of rows, of which there may be several for each example, from what changes with what.

    Args:
        exchanged: ``(N,)``, true for examples that were exchanged for others.
        changes: ``(V N,)``, how much each row has changed then.

    Returns:
        ``"blocks"``: one row of each example after another of each; ``"turns"``: all rows of one example after those of
        another; ``None`` where neither shows: each of the V rows of exchanged examples has to change, and those of
        others not at all, or by much less, as where examples are mixed.

    Example:
        >>> layout_of(torch.tensor([True, False]), torch.tensor([0.3, 0.0, 0.2, 0.0]))
        'blocks'
        >>> layout_of(torch.tensor([True, False]), torch.tensor([0.3, 0.2, 0.0, 0.0]))
        'turns'
    """
    if len(changes) % len(exchanged) or not 0 < int(exchanged.sum()) < len(exchanged):
        return None
    kinds: tuple[Layout, ...] = ("blocks", "turns")
    for kind in kinds:
        of_examples = changes.double()[rows_of_examples(kind, len(exchanged), len(changes))]
        own, other = of_examples[exchanged], of_examples[~exchanged]
        exact = not other.any() and bool(((own > 0).double().mean(0) >= CHANGED).all())
        error = (own.var(0, correction=0) / len(own) + other.var(0, correction=0) / len(other)).sqrt()
        error = error.clamp_min(1e-300)  # mutants: any tiny number
        if exact or bool((own.mean(0) - other.mean(0) > MIXED * error).all()):
            return kind
    return None


def rows_of_examples(layout: Layout, examples: int, rows: int) -> Tensor:
    """Indices ``(N, V)`` of the rows of each example.

    Example:
        >>> rows_of_examples("turns", 2, 4).tolist()
        [[0, 1], [2, 3]]
    """
    indices = torch.arange(rows)
    return indices.view(-1, examples).T if layout == "blocks" else indices.view(examples, -1)


def row_changes(one: Tensor, other: Tensor) -> Tensor:
    """``(N,)``, the mean squared difference of the rows ``(N, ...)`` of two sets, 0 where it is one of rounding."""
    first, second = (_real(side.detach().cpu()).flatten(1).double() for side in (one, other))
    found = (first - second).square().mean(1)
    return torch.where(found > 1e-8 * first.square().mean(1), found, 0.0)  # mutants: above rounding


def _mean_rank(one: Tensor, other: Tensor) -> float:
    """Compute the mean rank of partners from descriptions ``(N, D)`` of both sets; ties count half."""
    similarity = _directions(one) @ _directions(other).T
    own = similarity.diagonal()[:, None]
    above = (similarity > own).double().sum(1) + ((similarity == own).double().sum(1) - 1) / 2
    return float(above.mean() / (len(one) - 1))


def _values(rows: Tensor) -> Tensor:
    """``(N, D)``, means of neighbors where there are many values; of token ids how often each occurs."""
    rows = rows.detach().cpu()
    if not (rows.is_floating_point() or rows.is_complex()) and rows.ndim == 2:
        counts = torch.zeros(len(rows), BINS, dtype=torch.float64)
        return counts.scatter_add_(1, rows.long() % BINS, torch.ones(rows.shape, dtype=torch.float64))
    flat = _real(rows).flatten(1).float()
    width = -(-flat.shape[1] // MOST_VALUES)
    return torch.nn.functional.avg_pool1d(flat[:, None], width)[:, 0].double()


def _pattern(rows: Tensor) -> Tensor:
    """``(N, D)``: the mean over the channels of pictures, standardized within each row."""
    values = rows.detach().cpu()
    if values.ndim > 3 and not values.is_complex():
        values = values.float().mean(1 if values.shape[1] <= values.shape[-1] else -1)
    values = _values(values)
    centered = values - values.mean(1, keepdim=True)
    return _of_length_one(centered)


def _distribution(rows: Tensor) -> Tensor:
    """``(N, C * QUANTILES)``: quantiles of the values of each channel, or of all."""
    values = _real(rows.detach().cpu()).flatten(1).float()
    if rows.ndim > 2 and rows.shape[1] <= QUANTILES and not rows.is_complex():
        values = values.unflatten(1, (rows.shape[1], -1))
    ordered = values[..., :: -(-values.shape[-1] // MOST_VALUES)].sort(-1).values
    positions = torch.linspace(0, ordered.shape[-1] - 1, min(QUANTILES, ordered.shape[-1])).round().long()
    return ordered[..., positions].flatten(1).double()


def _spectrum(rows: Tensor) -> Tensor:
    """``(N, FREQUENCIES)``: logarithms of the amplitudes along the last axis, averaged over the others."""
    values = _real(rows.detach().cpu()).flatten(1).float()
    values = values.unflatten(1, (-1, rows.shape[-1] if not rows.is_complex() else values.shape[1]))
    values = values[:, :: max(1, values[0].numel() // (4 * MOST_VALUES))]
    amplitudes = torch.fft.rfft(values).abs().square().mean(1).double()
    pooled = torch.nn.functional.adaptive_avg_pool1d(amplitudes[:, None], min(FREQUENCIES, amplitudes.shape[1]))[:, 0]
    return (pooled + 1e-12 * pooled.max() + 1e-300).log()  # mutants: above rounding


def _real(rows: Tensor) -> Tensor:
    return torch.view_as_real(rows) if rows.is_complex() else rows


def _directions(rows: Tensor) -> Tensor:
    """``(N, D)`` rows of length 1 around their mean."""
    return _of_length_one(rows - rows.mean(0))


def _of_length_one(rows: Tensor) -> Tensor:
    lengths = rows.norm(dim=1, keepdim=True).clamp_min(1e-300)  # mutants: any tiny number
    scaled: Tensor = rows / lengths
    return scaled
