r"""The within-class covariance pooled over all pairs, its eigenvalues, and the pairs in the basis of its eigenvectors.

With :math:`2P` rows :math:`X` (residuals of the half sums and half differences of :math:`P` pairs) in :math:`D`
dimensions there are at most :math:`\min(D, 2P)` eigenvalues that are not 0. They are those of the covariance :math:`S =
X^\top X / P` ``(D, D)`` and of the rows' inner products :math:`X X^\top / P` ``(2P, 2P)`` alike, and the smaller of the
two matrices is decomposed: with fewer rows than dimensions nothing of the size :math:`D^2` is made, and residuals only
of some columns at a time. Symbols and derivation: "The limit of many samples" in ``docs/mathematics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from synbench_lightning.functional.gaussian.cross_fitting import TERMS
from synbench_lightning.functional.tolerances import ROUNDING

RELATIVE_FLOOR = 1e-6
"""Directions with less than this fraction of the variance, averaged over all D dimensions, are dropped."""
RARE = 10
"""Directions whose variance comes from fewer pairs than this are dropped: leaving one pair out would remove them."""
SHARE = 0.6
"""Largest ratio of directions to pairs; beyond it a ridge keeps the degrees of freedom there."""
DOUBLE = 2048  # mutants: memory and time alone
"""Up to this size of the matrix eigenvectors are found in float64; beyond, float32 is tried first: half the time."""
CLEAR = 1e3  # mutants: above rounding either way
"""A ridge this many times the rounding of the largest eigenvalue hides the rounding; else float64 is used."""
COLUMNS = 2048  # mutants: memory and time alone
"""Number of columns of a matrix that are processed at once."""


class Means(NamedTuple):
    r"""The least-squares fit of the half differences over the scales, the same for every task.

    ``odd (K, r)`` holds the polynomials :math:`o_k`, ``load (K, r)`` the weight :math:`\ell_k = (n O^\top O)^{-1} o_k`
    of one pair's half difference in each coefficient, and ``lever (K,)`` :math:`\lambda_k`, with :math:`\lambda_k^2 =
    1 - \ell_k^\top o_k` the fraction of the variance of a half difference that its residual keeps. ``vectors`` is n.
    """

    odd: Tensor
    load: Tensor
    lever: Tensor
    vectors: int

    @property
    def covariance(self) -> Tensor:
        r"""``(r, r)``: :math:`C_M = n \sum_k \ell_k \ell_k^\top`, the covariance of the coefficients in units of V."""
        return self.vectors * self.load.T @ self.load


class Pool(NamedTuple):
    """Eigenvalues ``(R,)`` of the pooled covariance, the number of pairs P, and the smallest ridge that is allowed."""

    values: Tensor
    pairs: int
    smallest_ridge: float

    def freedom(self, ridge: float) -> float:
        """Effective degrees of freedom, :math:`df(g) = sum_j v_j / (v_j + g)`."""
        return float((self.values / (self.values + ridge)).sum())


class Pooled(NamedTuple):
    """The pool, and for each task its residuals ``(K, n, 2, R)`` and coefficients ``(r, R)`` on the eigenvectors.

    The other fields are the last ones of :class:`.LimitEstimate`.
    """

    pool: Pool
    residuals: list[Tensor]
    coefficients: list[Tensor]
    resolved: bool
    rank: int
    eigenvalues: Tensor
    variances: Tensor


class _Spectrum(NamedTuple):
    """Eigenvalues ``(S,)``, ascending, and variances ``(D,)``, of a pooled covariance.

    ``coordinates`` maps a mask ``(S,)`` of eigenvectors to the residuals and coefficients of each task on them. It may
    be called once.
    """

    values: Tensor
    variances: Tensor
    coordinates: Callable[[Tensor], tuple[list[Tensor], list[Tensor]]]


def fit_of_means(position: Tensor, vectors: int) -> Means:
    """Compute the weights of the least-squares fit, for scales ``(K,)`` and n noise vectors at each."""
    top = position / position.max()  # mutants: the polynomials span the same in any unit
    odd = torch.stack([top ** (2 * term + 1) for term in range(min(TERMS, len(top)))], 1)
    load = torch.linalg.solve(vectors * odd.T @ odd, odd.T).T
    return Means(odd, load, (1 - (load * odd).sum(1)).sqrt(), vectors)


def pooled(features: Tensor, means: Means) -> Pooled:
    """Pool the covariance of features ``(T, K, n, 2, D)``, and express the pairs in the basis of its eigenvectors."""
    fitted = []  # M of each task, (r, D)
    for of_task in features:
        differences = [((of_scale[:, 0] - of_scale[:, 1]) / 2).double().mean(0) for of_scale in of_task]
        fitted.append(means.vectors * means.load.T @ torch.stack(differences))
    pairs, dim = features[..., 0, 0].numel(), features.shape[-1]
    rounding = ROUNDING * float(torch.linalg.vector_norm(features)) ** 2 / features.numel()
    if min(dim, 2 * pairs) > DOUBLE:
        spectrum = _spectrum(features, means, fitted, torch.float32)
        noise = torch.finfo(torch.float32).eps * float(spectrum.values[-1])
        found = _with_ridge(spectrum, pairs, dim, max(rounding, 10 * noise))
        if found is not None and found.pool.smallest_ridge > CLEAR * noise:
            return found
        del spectrum, found
    spectrum = _spectrum(features, means, fitted, torch.float64)
    return _with_ridge(spectrum, pairs, dim, rounding) or _resolved(spectrum, pairs, dim, rounding)


def expected_seconds(rows: int, dim: int) -> float:
    """Estimate how long the decomposition of that many features takes on two idle CPU cores.

    From products at 150 and ``eigh`` at 17 and 32 billion operations a second in float64 and float32; less on a GPU.
    """
    side = min(rows, dim)
    a_cube = 4e-11 if side > DOUBLE else 8e-11  # mutants: an estimate, and DOUBLE itself either way
    return 5e-12 * rows * side * dim + a_cube * side**3


def _above(values: Tensor, dim: int, rounding: float) -> Tensor:
    """Mask ``(S,)`` of the eigenvalues that are not negligible relative to their mean over all D dimensions."""
    return values > max(RELATIVE_FLOOR * float(values.sum()) / dim, rounding)


def _eigenvalues(values: Tensor, dim: int, rounding: float) -> Tensor:
    """Pad eigenvalues ``(S,)`` to all ``(D,)``: those without a direction in the rows are 0, and so is rounding."""
    missing = (dim - len(values), 0)
    return torch.nn.functional.pad(torch.where(values > rounding, values, 0.0), missing)


def _with_ridge(spectrum: _Spectrum, pairs: int, dim: int, rounding: float) -> Pooled | None:
    """Choose the ridge with ``df(g) = SHARE * P``; ``None`` where the pairs resolve every direction and none is needed.

    Args:
        spectrum: of the pooled covariance.
        pairs: P.
        dim: D.
        rounding: variance below which an eigenvalue is rounding.
    """
    rank = int(_above(spectrum.values, dim, rounding).sum())
    if rank <= SHARE * pairs:
        return None
    values = spectrum.values.clamp_min(0)
    everything = torch.ones_like(values, dtype=torch.bool)
    unresolved = Pool(values, pairs, 0.0)
    low, high = 1e-12 * float(values[-1]), 1e6 * float(values[-1])  # mutants: wide enough either way
    ridge = root(lambda g: SHARE * pairs - unresolved.freedom(g), low, high)
    residuals, coefficients = spectrum.coordinates(everything)
    # The part of the means outside the span of the residuals has coordinates of its own, after those on the
    # eigenvectors. The covariance is 0 there; the ridge keeps its inverse finite.
    values = torch.nn.functional.pad(values, (0, residuals[0].shape[-1] - len(values)))
    all_values = _eigenvalues(spectrum.values, dim, rounding)
    return Pooled(Pool(values, pairs, ridge), residuals, coefficients, False, rank, all_values, spectrum.variances)


def _resolved(spectrum: _Spectrum, pairs: int, dim: int, rounding: float) -> Pooled:
    """Keep the eigenvectors that are not negligible and to which more than a few pairs contribute; no ridge."""
    above = _above(spectrum.values, dim, rounding)
    values = spectrum.values[above]
    residuals, coefficients = spectrum.coordinates(above)
    coefficients = [mu[:, : len(values)] for mu in coefficients]
    residuals = [of_task[..., : len(values)] for of_task in residuals]
    single = values.float()
    # The shares a_i = x_i^2 / v of the rows in a direction sum to P; (sum a)^2 / sum a^2 is how many rows contribute.
    fourth = torch.stack([(of_task.square() / single).square().sum((0, 1, 2)) for of_task in residuals]).sum(0)
    seen = pairs**2 > RARE * fourth
    if not bool(seen.all()):
        residuals = [of_task[..., seen] for of_task in residuals]
        coefficients = [mu[:, seen] for mu in coefficients]
    all_values = _eigenvalues(spectrum.values, dim, rounding)
    pool = Pool(values[seen], pairs, 0.0)
    return Pooled(pool, residuals, coefficients, True, int(above.sum()), all_values, spectrum.variances)


def _spectrum(features: Tensor, means: Means, fitted: list[Tensor], dtype: torch.dtype) -> _Spectrum:
    r"""Decompose the pooled covariance, or the rows' inner products where those are the smaller matrix.

    Args:
        features: ``(T, K, n, 2, D)``.
        means: the fit of the means over the scales.
        fitted: :math:`\hat M` ``(r, D)`` of each task.
        dtype: of the decomposition.
    """
    by_rows = features.shape[-1] > features[..., 0].numel()  # mutants: either is right where both are equal
    return (_of_inner_products if by_rows else _of_covariance)(features, means, fitted, dtype)


def _of_covariance(features: Tensor, means: Means, fitted: list[Tensor], dtype: torch.dtype) -> _Spectrum:
    """Decompose ``S = X' X / P`` ``(D, D)``; coordinates are products with its eigenvectors."""
    pairs, dim = features[..., 0, 0].numel(), features.shape[-1]
    covariance = torch.zeros(dim, dim, dtype=dtype, device=features.device)
    residuals = [_residuals(x, means, mu) for x, mu in zip(features, fitted, strict=True)]
    for of_task in residuals:
        for of_scale in of_task:
            _add_products(covariance, of_scale.flatten(0, 1).to(dtype).T, 1 / pairs)
    values, basis = torch.linalg.eigh(covariance)

    def coordinates(kept: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        own = basis if bool(kept.all()) else basis[:, kept]
        single, double = own.float(), own.double()
        turned = [residuals.pop(0) @ single for _ in range(len(residuals))]  # one task at a time leaves memory
        return turned, [mu @ double for mu in fitted]

    return _Spectrum(values.double(), covariance.diagonal().double(), coordinates)


def _of_inner_products(features: Tensor, means: Means, fitted: list[Tensor], dtype: torch.dtype) -> _Spectrum:
    """Decompose ``X X' / P = U diag(v) U'`` ``(2P, 2P)``, where the rows are fewer than the dimensions.

    The eigenvectors of S are ``X' u_j / sqrt(P v_j)``. So the rows have the coordinates ``X X' u_j / sqrt(P v_j) =
    sqrt(P v_j) u_j``, and the means ``M_par = M X' u_j / sqrt(P v_j)``. The part of the means that is orthogonal to all
    rows has the Gram matrix ``M M' - M_par M_par'``, whose square root gives its coordinates in a basis of its own.
    """
    (tasks, scales, vectors, _, dim), rows = features.shape, features[..., 0].numel()
    pairs, of_means = rows // 2, torch.cat(fitted)  # P, and M of all tasks (T r, D)
    products = torch.zeros(rows, rows, dtype=dtype, device=features.device)
    along = of_means.new_zeros(len(of_means), rows)  # M X'
    variances = of_means.new_empty(dim)
    for start in range(0, dim, COLUMNS):
        columns = slice(start, start + COLUMNS)
        of_tasks = zip(features[..., columns], fitted, strict=True)
        part = torch.cat([_residuals(x, means, mu[:, columns]).flatten(0, 2) for x, mu in of_tasks])
        _add_products(products, part.to(dtype), 1 / pairs)
        part = part.double()
        along += of_means[:, columns] @ part.T
        variances[columns] = part.square_().sum(0) / pairs
    values, basis = torch.linalg.eigh(products)
    del products
    values = values.double()
    size = (pairs * values).clamp_min(0).sqrt()  # the length of X' u_j
    # Eigenvectors whose eigenvalue is rounding are not directions of the rows: the means' part is found below.
    exists = values > 100 * torch.finfo(dtype).eps * values[-1]  # mutants: above rounding either way

    def coordinates(kept: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        length = size.clamp_min(1e-300)  # mutants: any tiny number
        mu = torch.where(exists, along @ basis.double() / length, 0.0)  # M_par
        strength, axes = torch.linalg.eigh(of_means @ of_means.T - mu @ mu.T)
        orthogonal = axes * strength.clamp_min(0).sqrt()
        coefficients = torch.cat([mu[:, kept], orthogonal], 1).split(len(fitted[0]))
        turned = (basis * torch.where(exists, size, 0.0).to(dtype))[:, kept].float()
        turned = torch.nn.functional.pad(turned, (0, orthogonal.shape[1]))  # rows have nothing there
        return list(turned.unflatten(0, (tasks, scales, vectors, 2)).unbind(0)), list(coefficients)

    return _Spectrum(values, variances, coordinates)


def _add_products(matrix: Tensor, rows: Tensor, factor: float) -> None:
    """Add ``factor * rows rows'`` to the lower triangle of a matrix ``(m, m)``, the only one that ``eigh`` reads."""
    for start in range(0, len(matrix), COLUMNS):
        end = start + COLUMNS
        matrix[start:, start:end].addmm_(rows[start:], rows[start:end].T, alpha=factor)


def _residuals(features: Tensor, means: Means, fitted: Tensor) -> Tensor:
    r"""Subtract their means from half sums and half differences: ``(K, n, 2, D)``, float32, unbiased for covariances.

    Half sums have one mean for each scale, which leaves :math:`(n - 1) / n` of the variance in the residual; half
    differences have the fitted mean :math:`\hat M^\top o_k`, which leaves :math:`\lambda_k^2`.
    """
    residuals = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    for scale, of_scale in enumerate(features):  # in float64, but not all of it at once
        plus, minus = of_scale.double().unbind(1)
        half_sum, half_difference = (plus + minus) / 2, (plus - minus) / 2
        residuals[scale, :, 0] = (half_sum - half_sum.mean(0)) * math.sqrt(means.vectors / (means.vectors - 1))
        residuals[scale, :, 1] = (half_difference - means.odd[scale] @ fitted) / means.lever[scale]
    return residuals


def root(increasing: Callable[[float], float], low: float, high: float) -> float:
    """Find the root of an increasing function on a logarithmic axis, or return the end beyond which it lies."""
    if increasing(low) >= 0:
        return low
    if increasing(high) <= 0:
        return high
    accuracy = 1e-10  # mutants: any tiny number
    return math.exp(brentq(lambda log: increasing(math.exp(log)), math.log(low), math.log(high), xtol=accuracy))
