"""The tail of importance weights: how heavy it is, and the weights with that tail smoothed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["pareto_smoothed"]

_FEWEST = 5
"""Weights in a tail, with fewer of which nothing is fitted."""

_SMALLEST = math.log(torch.finfo(torch.double).tiny)
"""What the logarithm of a weight is at least, beside a largest weight of 1, to be told from 0."""


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, float]:
    r"""Importance weights whose largest are replaced by expected values of the Pareto distribution that fits them.

    The tail are the ``M = min(S / 5, 3 sqrt(S))`` largest of S weights. A generalised Pareto distribution is fitted to
    what they exceed the largest other weight u by, and the m-th of them becomes

    .. math:: w_{(m)} = \min\Big(u + F^{-1}_{\hat k, \hat\sigma}\big((m - 1/2) / M\big), \max_s w_s\Big)

    The shape :math:`\hat k` is that of Zhang and Stephens, drawn towards 1/2 as by ten more weights of that shape. It
    says how many moments the weights have: fewer than :math:`1 / \hat k`.

    Both are those of ``psislw`` in ArviZ 0.23, to 1e-9; but it says ``inf`` where all weights are equal, and of some
    equal ones in the tail it gives the larger values to others. ArviZ 1 takes minus the log weights and rounds M down,
    not up: where that is another number, of 1,000 or 4,000 weights, k-hats were up to 0.02 apart and log weights 0.04.

    Args:
        log_weights: shape ``(S,)``, unnormalised.

    Returns:
        log weights of shape ``(S,)``, in the order given and in double precision, whose weights sum to 1; and k-hat:
        ``-inf`` where all weights are equal, ``inf`` where the tail holds fewer than 5.

    Raises:
        ValueError: not one sequence of at least 2 weights, or one that is NaN or infinite.

    References:
        Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling,
        https://www.jmlr.org/papers/v25/19-556.html;
        Zhang, Stephens (2009), A new and efficient estimation method for the generalized Pareto distribution,
        https://doi.org/10.1198/tech.2009.08017.

    Example:
        >>> import torch
        >>> z = 0.5 * torch.randn(4000)  # of a guide half as wide as the posterior: k is 3/4
        >>> log_weights, k_hat = pareto_smoothed(torch.distributions.Normal(0.0, 1.0).log_prob(z) + 2 * z.square())
        >>> 0.5 < k_hat < 1, log_weights.exp().sum()
        (True, tensor(1.0000, dtype=torch.float64))
    """
    if log_weights.ndim != 1 or len(log_weights) < 2:
        raise ValueError(f"log_weights must have shape (S,), S at least 2, got {tuple(log_weights.shape)}")
    if log_weights.isnan().any() or (log_weights == math.inf).any() or (log_weights == -math.inf).all():
        raise ValueError("log_weights must be numbers, not NaN or inf; some may be -inf")
    logs = log_weights.detach().double().cpu()
    logs = logs - logs.max()
    if (logs == 0).all():
        return _normalized(logs), -math.inf
    order = logs.argsort()
    size = math.ceil(min(len(logs) / 5, 3 * math.sqrt(len(logs))))
    cutoff = logs[order[-size - 1]].clamp(min=_SMALLEST)
    tail = order[-size:][logs[order[-size:]] > cutoff]
    if len(tail) < _FEWEST:
        return _normalized(logs), math.inf
    shape, scale = _fitted(logs[tail].exp() - cutoff.exp())
    ranks = (torch.arange(len(tail)).double() + 0.5) / len(tail)
    logs[tail] = (cutoff.exp() + _quantiles(ranks, shape, scale)).log().clamp(max=0.0)
    return _normalized(logs), shape


def _normalized(logs: Tensor) -> Tensor:
    return logs - logs.logsumexp(0)


def _fitted(x: Tensor) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of ascending positive numbers."""
    count = len(x)
    points = 30 + math.isqrt(count)
    ranks = torch.arange(1, points + 1).double() - 0.5
    quarter = x[math.floor(count / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - (points / ranks).sqrt()) / (3 * quarter)
    shapes = (-theta[:, None] * x).log1p().mean(1)
    likelihood = count * ((-theta / shapes).log() - shapes - 1)
    best = (theta * likelihood.softmax(0)).sum()
    shape = (-best * x).log1p().mean()
    scale = -shape / best
    return ((count * shape + 5) / (count + 10)).item(), scale.item()


def _quantiles(ranks: Tensor, shape: float, scale: float) -> Tensor:
    if abs(shape) < 1e-12:
        return -scale * (-ranks).log1p()
    return scale * torch.expm1(-shape * (-ranks).log1p()) / shape
