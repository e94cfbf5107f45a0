"""Are ranks uniform? One test of their whole distribution, by simultaneous bands."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Uniformity", "uniformity"]

_SIMULATED = 20_000


class Uniformity(NamedTuple):
    """How some columns of ranks compare with uniform ones.

    Attributes:
        p_values: of each column, shape ``(columns,)``; none is below 1 / 20,001.
        lean: how many standard errors the mean rank is above the middle, likewise.
        spread: how many standard errors the ranks are further out than uniform ones, likewise.
    """

    p_values: Tensor
    lean: Tensor
    spread: Tensor


def uniformity(ranks: Tensor, levels: int) -> Uniformity:
    """Test each column of ranks.

    The statistic is the smallest of the tail probabilities ``2 min(P(C <= c_k), P(C >= c_k))`` of the numbers
    ``c_k`` of ranks below k, which are binomial if ranks are uniform; it is compared with that of simulated ones.
    Säilynoja, Bürkner, Vehtari (2022), Graphical test for discrete uniformity, https://arxiv.org/abs/2103.10522.

    Args:
        ranks: int64 in ``0..levels``, shape ``(tasks, columns)``.
        levels: the highest rank there may be.
    """
    tasks = len(ranks)
    statistics = _statistic(ranks.T, levels)
    simulated = _simulated(tasks, levels)
    alike = statistics * (1 + 1e-9)  # both tails' probabilities, to rounding
    p_values = (torch.searchsorted(simulated, alike, right=True) + 1) / (_SIMULATED + 1)
    middle = (ranks.double() + 0.5) / (levels + 1) - 0.5
    variance = (1 - (levels + 1) ** -2) / 12
    kurtosis = variance**2 * 0.8
    lean = middle.mean(0) * math.sqrt(tasks / variance)
    spread = (middle.square().mean(0) - variance) * math.sqrt(tasks / kurtosis)
    return Uniformity(p_values, lean, spread)


def band(tasks: int, levels: int, level: float = 0.95) -> tuple[Tensor, Tensor]:
    """Between which numbers of ranks below ``1..levels`` all lie at once with that probability, if uniform."""
    allowed = _simulated(tasks, levels)[int((1 - level) * _SIMULATED)] / 2
    cdf = _cdf(tasks, levels)
    lower = (cdf < allowed).sum(1)
    upper = (cdf < 1 - allowed).sum(1)
    return lower, upper


@functools.lru_cache(8)
def _simulated(tasks: int, levels: int) -> Tensor:
    """Statistics of uniform ranks, ascending."""
    generator = torch.Generator().manual_seed(0)
    some = [
        _statistic(torch.randint(levels + 1, (1000, tasks), generator=generator, device="cpu"), levels)
        for _ in range(_SIMULATED // 1000)
    ]
    return torch.cat(some).sort().values


def _statistic(ranks: Tensor, levels: int) -> Tensor:
    """Of rows of ranks."""
    counts = torch.zeros(len(ranks), levels + 1, dtype=torch.int64)
    counts.scatter_add_(1, ranks, torch.ones_like(ranks))
    below = counts.cumsum(1)[:, :-1]
    tails = _tails(ranks.shape[1], levels)
    return tails[torch.arange(levels), below].amin(1)


@functools.lru_cache(8)
def _tails(tasks: int, levels: int) -> Tensor:
    """The two-sided tail probability of each number of ranks below ``1..levels``, shape ``(levels, tasks + 1)``."""
    cdf = _cdf(tasks, levels)
    above = 1 - torch.cat([torch.zeros(levels, 1, dtype=torch.double), cdf[:, :-1]], 1)
    return 2 * torch.minimum(cdf, above)


def _cdf(tasks: int, levels: int) -> Tensor:
    shares = torch.arange(1, levels + 1, dtype=torch.double) / (levels + 1)
    binomial = torch.distributions.Binomial(tasks, shares.unsqueeze(1), validate_args=False)
    counts = torch.arange(tasks + 1, dtype=torch.double)
    return binomial.log_prob(counts).exp().cumsum(1).clamp(max=1.0)
