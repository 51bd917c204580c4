r"""Asymptotic accuracy and bound of linear discriminants: the limit of many samples, estimated from few.

Every noise vector :math:`z` is encoded at both signs of a task's direction :math:`u`. Half the sum :math:`p` and half
the difference :math:`q` of the two features are sufficient: the half difference of the class means is :math:`E q`,
their midpoint :math:`E p`, the within-class covariance :math:`Cov\,p + Cov\,q`. A discriminant that is fitted to
:math:`N` pairs in :math:`D` dimensions and measured on others is worse than that of many samples by about
:math:`\sqrt{1 - D / N}`; the estimate corrects for that loss and keeps what the encoder itself has lost:

1. The half difference of the means is odd in the scale :math:`s` (exchange the classes): four vectors :math:`\hat M`,
   the coefficients of :math:`s, s^3, s^5, s^7`, are fitted to all pairs of a task at once.
2. One covariance :math:`S` is pooled over tasks, scales and pairs, with one factorization. With a ridge :math:`g` it
   acts like the population covariance with the ridge :math:`\kappa = g / (1 - df(g) / N)`, and :math:`\kappa` is what
   solves the equation of the epsilon-robust discriminant.
3. The four coefficients give four candidate directions :math:`(S + g I)^{-1} \hat M^\top`. Each pair is projected on
   directions that were fitted without it, in closed form (Sherman-Morrison-Woodbury). For each scale the best
   combination of the four is taken under the covariance of neighboring scales, since the pooled covariance need not be
   right for that scale.
4. The variance of the held-out projections contains the noise of the fitted directions. It is estimated from the
   leverages and subtracted; for Gaussian features of one covariance that is Wishart's factor :math:`1 - D / N`. At
   least the error of that estimate is kept as variance.
5. Accuracy and bound come from the held-out projections themselves, shrunk by that factor and averaged over neighboring
   scales: no Gaussian shape is assumed.
6. Where the coefficients of separate blocks of pairs do not agree (``distinct_means``), the classes have one mean, and
   accuracy is that of chance: the directions are noise, and what step 4 leaves of their variance has no meaning.
7. Steps 4 and 5 are repeated without each of some blocks of pairs: a jackknife. What step 4 subtracts is held fixed in
   it. The error of what is subtracted, which dominates where a task has few pairs for the dimensions, is bounded by
   what the subtraction changes (``correction_error``).

The equations, with the symbols that the comments here use, are derived in ``docs/mathematics.md``.

Limits: a covariance that changes abruptly with the scale (the score of a gated encoder is biased low by .01 to .03 with
8,192 forwards, and the jackknife does not contain it), and directions that fewer than one example in a thousand moves,
which are dropped. Measured by ``python -m tests.performance.accuracy``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.gaussian.cross_fitting import (
    Projections,
    accuracy_and_bound_curves,
    correction_error,
    neighborhood,
)
from synbench_lightning.functional.gaussian.discriminant import check_epsilons
from synbench_lightning.functional.gaussian.pooled_covariance import Means, Pool, fit_of_means, pooled, root

MANY = 24
"""Number of directions from which on all candidates are used (measured: with 16 or fewer, scores are biased high by the
noise among the candidates)."""

BLOCKS = 32  # mutants: alike over a range
"""Number of blocks of pairs, for the jackknife and for what is asked of blocks."""
DISTINCT = 4.0
"""Standard errors by which blocks of pairs must agree: by chance they do in 1 of 250 encoders of one feature, and less
often with more."""


class LimitEstimate(NamedTuple):
    """Asymptotic accuracy and bound ``(T, E, K)``, with their jackknife replicates ``(B, T, E, K)``.

    ``uncorrected_accuracy`` and ``uncorrected_bound`` ``(T, E, K)`` are without the correction for the noise of the
    fitted directions, which has a relative error of ``correction_error``. ``resolved`` is true where the pairs suffice
    for the ``rank`` directions in which the features vary; ``eigenvalues`` ``(D,)`` and ``variances`` ``(D,)`` are
    those of the pooled within-class covariance, rounding set to 0.
    """

    accuracy: Tensor
    bound: Tensor
    jackknife_accuracy: Tensor
    jackknife_bound: Tensor
    uncorrected_accuracy: Tensor
    uncorrected_bound: Tensor
    correction_error: float
    resolved: bool
    rank: int
    eigenvalues: Tensor
    variances: Tensor


def estimate_limit(
    features: Tensor, scales: Sequence[float], epsilons: Sequence[float], blocks: int = BLOCKS
) -> LimitEstimate:
    """Estimate accuracy and bound of the epsilon-robust discriminants in the limit of many samples.

    Args:
        features: ``(T, K, n, 2, D)``: task, scale, noise vector, sign (plus, minus), dimension.
        scales: ``(K,)`` Mahalanobis half-distances in input space, positive.
        epsilons: strengths of the shift relative to half the distance of the class means, each in [0, 1).
        blocks: number of jackknife replicates, at most that of noise vectors.

    Returns:
        The estimate, float64, on the features' device. Constant features give accuracy 0.5 and bound 0.

    Raises:
        ValueError: for features of another shape, fewer than four noise vectors, or an epsilon outside [0, 1).

    Example:
        >>> noise = torch.randn(1, 3, 512, 1, 64, generator=torch.Generator().manual_seed(0))
        >>> shift = torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1, 1) * torch.eye(64)[0]
        >>> found = estimate_limit(torch.cat([noise + shift, noise - shift], 3), [0.5, 1.0, 2.0], [0.0])
        >>> (found.accuracy[0, 0] - torch.special.ndtr(torch.tensor([0.5, 1.0, 2.0]))).abs().max() < 0.02
        tensor(True)
    """
    epsilons = check_epsilons(epsilons)
    shape = features.shape
    if features.ndim != 5 or shape[1] != len(scales) or shape[2] < 4 or shape[3] != 2:
        raise ValueError(
            f"`features` must have the shape (tasks, {len(scales)} scales, at least 4 noise vectors, 2 signs, "
            f"dimensions), got {tuple(shape)}."
        )
    vectors = shape[2]
    position = torch.tensor(scales, dtype=torch.float64, device=features.device)
    means = fit_of_means(position, vectors)
    pool, residuals, coefficients, resolved, rank, eigenvalues, variances = pooled(features, means)
    blocks, found, uncorrected = min(blocks, vectors), list[Tensor](), list[Tensor]()
    chance = torch.full((1 + blocks, len(epsilons), len(scales)), 0.5).to(position)
    chance = torch.stack([chance, torch.zeros_like(chance)])
    for x, mu in zip(residuals, coefficients, strict=True):
        if len(pool.values) == 0:  # constant features
            found.append(chance)
            uncorrected.append(chance[:, 0])
            continue
        projections = _projected(x, position, means, mu, pool, epsilons)
        curves = accuracy_and_bound_curves(projections, position, blocks)
        # The directions are not refitted in the replicates, which therefore vary too little, by the root of Wishart's
        # factor.
        widening = torch.stack([projection.kept for projection in projections]).rsqrt()[:, None]
        curves = torch.cat([curves[:, :1], curves[:, :1] + (curves[:, 1:] - curves[:, :1]) * widening], 1)
        noiseless = [projection._replace(noise=torch.zeros_like(projection.noise)) for projection in projections]
        uncorrected.append(accuracy_and_bound_curves(noiseless, position, 1)[:, 0])
        if not distinct_means(x[:, :, 1], means, mu, pool):
            uncorrected[-1][0] = 0.5
            curves = uncorrected[-1][:, None].expand_as(chance)
        found.append(curves)
    accuracy, bound = torch.stack(found, 2)  # (replicates, T, E, K) each
    plain_accuracy, plain_bound = torch.stack(uncorrected, 1)
    return LimitEstimate(
        accuracy[0], bound[0], accuracy[1:], bound[1:], plain_accuracy, plain_bound,
        correction_error(vectors * len(scales)), resolved, rank, eigenvalues, variances,
    )  # fmt: skip


def distinct_means(differences: Tensor, means: Means, mu: Tensor, pool: Pool) -> bool:
    """Whether the classes of a task have two means: whether blocks of pairs agree about their difference.

    Inner products of the whitened coefficients of two blocks have expectation zero where there is one mean, whatever
    the covariance, since neither block knows the sign of the other's noise; their mean is compared with its standard
    error, as in the two-sample test of Chen and Qin (2010).

    Args:
        differences: ``(K, n, R)`` residuals of the half differences, over the lever.
        means: how the coefficients are fitted.
        mu: ``(r, R)`` the coefficients.
        pool: the covariance.
    """
    blocks = min(BLOCKS, means.vectors)
    own = [means.lever[:, None] * differences[:, block::blocks].double().sum(1) for block in range(blocks)]
    sizes = torch.tensor([len(range(block, means.vectors, blocks)) for block in range(blocks)]).to(means.odd)
    sums = torch.stack(own) + sizes[:, None, None] * (means.odd @ mu)  # (B, K, R)
    axes = torch.linalg.cholesky(means.covariance)
    whitened = torch.linalg.solve_triangular(axes, means.load.T @ sums, upper=False)
    whitened = whitened / (pool.values + pool.smallest_ridge).sqrt()
    products = whitened.flatten(1) @ whitened.flatten(1).T
    between = products[tuple(torch.combinations(torch.arange(blocks)).T)]
    error = float(between.std()) / math.sqrt(len(between))
    return float(between.mean()) > DISTINCT * error  # mutants: equal with probability 0


def _projected(
    x: Tensor, position: Tensor, means: Means, mu: Tensor, pool: Pool, epsilons: Sequence[float]
) -> list[Projections]:
    r"""Project each pair of a task on candidate directions that were fitted without it, for each epsilon.

    With :math:`A = (S + g I)^{-1}`, diagonal in the coordinates of the pool, :math:`H_i = X_i A X_i^\top / P`, and
    ``_{-i}`` for what is fitted without the pair ``i = (k, j)``, the directions are the columns of :math:`A_{-i}
    \hat M_{-i}^\top`. Derivation: "Leave-one-out projections" and what follows it in ``docs/mathematics.md``.

    Args:
        x: ``(K, n, 2, R)`` residuals :math:`X_i` of half sums (0) and half differences (1) on the R eigenvectors.
        position: ``(K,)`` scales :math:`s_k`.
        means: the polynomials :math:`o_k`, weights :math:`\ell_k` and :math:`\lambda_k` of the fit of the means.
        mu: ``(r, R)`` coefficients :math:`\hat M`.
        pool: eigenvalues :math:`v` of S, number of pairs P, smallest ridge.
        epsilons: ``(E,)``.

    Returns:
        The projections for each epsilon.
    """
    variance = x[:, :, 1].double().square().mean((0, 1))  # (R,), the diagonal of V = Cov q
    own_pairs = x.shape[0] * x.shape[1]  # N

    def leverages(ridge: float) -> tuple[Tensor, Tensor, Tensor]:
        """Compute :math:`H_i` ``(K, n, 2, 2)``, and the diagonals ``(K, n, 2)`` of X A S A X' and of X A V A X'."""
        inverse = 1 / (pool.values + ridge)  # A
        weights = torch.stack([inverse, pool.values * inverse**2, variance * inverse**2], 1).float()
        a, c = ((x[:, :, side].square() @ weights).double() for side in (0, 1))
        cross = ((x[:, :, 0] * x[:, :, 1]) @ weights[:, 0]).double()
        lever = torch.stack([a[..., 0], cross, cross, c[..., 0]], -1).unflatten(-1, (2, 2))
        return lever / pool.pairs, torch.stack([a[..., 1], c[..., 1]], -1), torch.stack([a[..., 2], c[..., 2]], -1)

    def effective_rows(out: Tensor, ridge: float) -> float:
        """Solve ``P / N sum_i tr((I - H_i)^-1 H_i) = df / (1 - df / size)`` for the effective number of rows.

        It is P where half differences do not vary, 2 P where they vary like half sums, less for heavy tails.
        """
        traces = out.diagonal(dim1=-2, dim2=-1).sum() - 2 * own_pairs  # since (I - H)^-1 H = (I - H)^-1 - I
        ratio = float(traces) * pool.pairs / own_pairs / pool.freedom(ridge)
        return pool.freedom(ridge) / (1 - 1 / ratio)

    smallest = leverages(pool.smallest_ridge)
    lever = smallest[0]
    energy = _energy(mu, means, variance / (1 - float(lever[..., 1, 1].mean())))
    size = effective_rows(_complement_inverse(lever), pool.smallest_ridge)
    found = []
    for epsilon in epsilons:
        ridge = _population_ridge(pool, energy, size, epsilon)  # g
        inverse = 1 / (pool.values + ridge)  # A
        lever, of_covariance, of_means = smallest if ridge == pool.smallest_ridge else leverages(ridge)
        out = _complement_inverse(lever)  # (I - H_i)^-1
        size = effective_rows(out, ridge)
        kappa = ridge / (1 - pool.freedom(ridge) / size)
        # Leave-one-out: X A_-i = (I - H)^-1 X A, M_-i = M - own' x_i1. The last two indices of `left` are the row of
        # X_i (half sum, half difference) and the candidate; those of `center` are two candidates, the second without i.
        own = (means.load / means.lever[:, None])[:, None, None, :]  # l_k / lambda_k, (K, 1, 1, r)
        projected = (x @ (inverse * mu).T.float()).double()  # X A M', (K, n, 2, r)
        left = out @ projected  # X A_-i M'
        residual = left - pool.pairs * (out @ lever)[..., 1:] * own  # X A_-i M_-i', since X A_-i x_i1' = P (I - H)^-1 H
        center = (mu * inverse) @ mu.T + projected.mT @ left / pool.pairs - left[:, :, 1, :, None] * own  # M A_-i M_-i'
        half_difference = (  # q_i A_-i M_-i' with q_i = o_k' M + lambda_k x_i1, (K, n, r)
            torch.einsum("kr,knrt->knt", means.odd, center) + means.lever[:, None, None] * residual[:, :, 1]
        )
        # The fitted directions are noisy from S (omega, relative to the signal) and from M (spread, in units of C_M).
        # A row's own part of S, and of V, is subtracted first; (1 - h)^-2 is the leave-one-out form of both sides.
        h, h_difference = lever.diagonal(dim1=-2, dim2=-1), float(lever[..., 1, 1].mean())
        omega = of_covariance - pool.pairs * h**2
        omega = (omega / (1 - h) ** 2).sum(-1).mean(1) / size  # (K,)
        spread = of_means - torch.stack([0 * h[..., 1], pool.pairs**2 / own_pairs * h[..., 1] ** 2], -1)
        spread = (spread / (1 - h) ** 2).sum(-1).mean(1) / (1 - h_difference) ** 2  # (K,)
        covariance = torch.einsum("knit,kniu->ktu", residual, residual) / means.vectors  # (K, r, r)
        pooled = covariance.mean(0)
        signal = (pooled - means.covariance * spread.mean()) / (1 + omega.mean())
        noise = signal * omega[:, None, None] + means.covariance * spread[:, None, None]
        # For each scale, the ridge discriminant in the span of the candidates. `centered` (K, r) are the means of their
        # projections, fitted over the scales as M was; the ridge grows with the scale's variance along the means.
        centered = means.odd @ (means.load.T @ half_difference.sum(1))
        local = torch.einsum("kl,ltu->ktu", neighborhood(position), covariance)
        along = torch.einsum("kr,rt,kt->k", means.odd, pooled, means.odd)
        along = along.clamp_min(1e-300)  # mutants: any tiny number
        growth = torch.einsum("kr,krt,kt->k", means.odd, local, means.odd) / along
        local = local + kappa * growth[:, None, None] * ((mu * inverse**2) @ mu.T)
        clear = _clear_candidates(pooled, means.covariance, float(spread.mean()), len(pool.values))
        rounding = 1e-9  # mutants: any tiny number
        inside = torch.linalg.pinv(clear @ local @ clear.T, rtol=rounding, hermitian=True) @ clear @ centered[..., None]
        combined = clear.T @ inside / position[:, None, None]  # (K, r, 1); the factor 1 / s_k is of no consequence
        of_scales = torch.einsum("lnt,kt->kln", half_difference, combined.squeeze(-1))  # scale k, pair (l, n)
        found.append(
            Projections(
                residual=(residual @ combined[:, None]).squeeze(-1),
                mean=torch.einsum("kr,lr,kln->kn", means.odd, means.load, of_scales) * means.vectors,
                noise=(combined.mT @ noise @ combined).flatten(),
                kept=1 / (1 + omega.mean()),
            )
        )
    return found


def _complement_inverse(lever: Tensor) -> Tensor:
    """Invert I - H for every pair's symmetric leverage ``H (..., 2, 2)``, in closed form, which is faster."""
    a, b, c = 1 - lever[..., 0, 0], lever[..., 0, 1], 1 - lever[..., 1, 1]
    inverse: Tensor = torch.stack([c, b, b, a], -1).unflatten(-1, (2, 2)) / (a * c - b * b)[..., None, None]
    return inverse


def _clear_candidates(covariance: Tensor, of_noise: Tensor, level: float, rank: int) -> Tensor:
    """Select the combinations ``(c, r)`` of the coefficients that are used as candidates.

    Coefficients of high powers are often pure noise. In few dimensions directions made of noise are as good as any
    others, and the noise that is subtracted for them would be too large: only combinations whose variance exceeds that
    of noise are taken, at least the strongest. In many dimensions such directions do no harm, and dropping them would
    cost a little accuracy.

    Args:
        covariance: ``(r, r)`` of the held-out projections on the candidates.
        of_noise: ``(r, r)``, :math:`C_M`, the covariance of the coefficients in units of that of the half differences.
        level: the spread, which multiplies it.
        rank: number of directions in the pool.
    """
    if rank >= MANY:
        return torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    whitened = torch.linalg.inv(torch.linalg.cholesky(of_noise))
    strength, axes = torch.linalg.eigh(whitened @ covariance @ whitened.T)
    # The upper edge of the eigenvalues of pure noise (Marchenko and Pastur), with a margin of one half.
    edge = 1.5 * level * (1 + math.sqrt(len(strength) / rank)) ** 2
    below_one = 1 - 1e-9  # mutants: any number just below 1
    stands_out = strength > min(edge, float(strength[-1]) * below_one)
    clear: Tensor = axes[:, stands_out].T @ whitened
    return clear


def _energy(mu: Tensor, means: Means, variance: Tensor) -> Tensor:
    r"""Estimate the squared half difference of the means, averaged over the scales, on each eigenvector: ``(R,)``.

    Unbiased: the variance :math:`o^\top C_M o \, V` of the estimated half difference is subtracted from its square.
    """
    at = means.odd.mean(0)  # o
    return (at @ mu).square() - float(at @ means.covariance @ at) * variance


def _population_ridge(pool: Pool, energy: Tensor, size: float, epsilon: float) -> float:
    r"""Find the sample's ridge ``g`` whose population ridge :math:`\kappa` has :math:`|z| = \epsilon |\mu|`.

    With :math:`|z|^2 = \mu^\top \kappa^2 (\Sigma + \kappa)^{-2} \mu` and :math:`\kappa^2 (\Sigma + \kappa)^{-2} = f -
    \kappa f'`, :math:`f = \kappa (\Sigma + \kappa)^{-1} \simeq g / (v + g)` in the eigenvectors of S.

    Args:
        pool: eigenvalues v of S.
        energy: ``(R,)`` estimates of the squares of :math:`\mu`.
        size: effective number of rows.
        epsilon: strength of the shift.
    """
    if epsilon == 0:
        return pool.smallest_ridge
    values = pool.values

    def excess(ridge: float) -> float:
        freedom, slope = pool.freedom(ridge), -float((values / (values + ridge) ** 2).sum())  # df(g), df'(g)
        kappa = ridge / (1 - freedom / size)
        # dg / dkappa = (1 - df / size) / (1 + kappa df' / size), rearranged
        change = 1 - (freedom + kappa * slope) / (1 + kappa * slope / size) / size
        fraction = ridge / (values + ridge) - kappa * change * values / (values + ridge) ** 2  # f - kappa f'
        return float((energy * fraction).sum() - epsilon**2 * energy.sum())

    largest = float(values.max())
    low, high = 1e-9 * largest, 1e6 * largest  # mutants: wide enough either way
    return max(pool.smallest_ridge, root(excess, low, high))
