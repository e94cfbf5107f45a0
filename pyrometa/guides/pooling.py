"""One vector for a set of vectors, whatever their order and number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from pyro.poutine.runtime import effectful
from torch import Tensor, nn

Pool: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""``(rows, mask) -> pooled``: shapes ``(*batch, N, features)``, boolean ``(*batch, N)``, ``(*batch, pooled)``."""

Pooling: TypeAlias = Literal["mean_and_count", "mean", "sum", "max"] | Pool


@effectful(type="row_mask")
def row_mask(rows: Tensor) -> Tensor:
    """Which of the rows ``(*batch, N, features)`` count, boolean ``(*batch, N)``: all, unless an engine padded them."""
    return torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device)


class AttentionPooling(nn.Module):
    r"""Pooling by multihead attention with one learned query, the PMA block of the Set Transformer.

    .. math::
        h = \text{norm}(s + \text{attention}(s, x, x)), \qquad \text{pooled} = \text{norm}(h + \text{relu}(W h))

    Args:
        features: width of the rows and of the result.
        heads: number of attention heads; it divides ``features``.

    Raises:
        ValueError: ``features`` is not a multiple of ``heads``.

    References:
        Lee et al. (2019), Set Transformer, https://arxiv.org/abs/1810.00825.

    Example:
        >>> import torch
        >>> AttentionPooling(8, heads=2)(torch.randn(5, 8), torch.ones(5, dtype=torch.bool)).shape
        torch.Size([8])
    """

    def __init__(self, features: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or features < 1 or features % heads:
            raise ValueError(f"features must be a multiple of heads, got {features} and {heads}")
        self.heads = heads
        self.seed = nn.Parameter(torch.randn(features) / features**0.5)
        self.query, self.out, self.feed = (nn.Linear(features, features) for _ in range(3))
        self.key_value = nn.Linear(features, 2 * features)
        self.norm, self.feed_norm = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Pool ``rows``, ``(*batch, N, features)``, where ``mask``, ``(*batch, N)``, is true."""
        width = rows.shape[-1] // self.heads
        query = self.query(self.seed).reshape(self.heads, width)
        key, value = (part.unflatten(-1, (self.heads, width)) for part in self.key_value(rows).chunk(2, dim=-1))
        scores = (key * query).sum(-1) / width**0.5
        scores = scores.masked_fill(~mask[..., None], torch.finfo(rows.dtype).min)
        weights = scores.softmax(-2) * mask[..., None]
        attended = (weights[..., None] * value).sum(-3).flatten(-2)
        h = self.norm(self.seed + self.out(attended))
        return self.feed_norm(h + F.relu(self.feed(h)))


def _sum(rows: Tensor, mask: Tensor) -> Tensor:
    return rows.masked_fill(~mask[..., None], 0.0).sum(-2)


def _mean(rows: Tensor, mask: Tensor) -> Tensor:
    return _sum(rows, mask) / mask.sum(-1, keepdim=True).clamp(min=1)


def _mean_and_count(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean, and two numbers of which a linear head makes the width of a posterior that narrows as n grows."""
    count = mask.sum(-1, keepdim=True).to(rows)
    return torch.cat([_mean(rows, mask), count.log1p(), 1 / (count + 1)], -1)


def _max(rows: Tensor, mask: Tensor) -> Tensor:
    highest = rows.masked_fill(~mask[..., None], torch.finfo(rows.dtype).min).amax(-2)
    return highest.masked_fill(~mask.any(-1, keepdim=True), 0.0)


_POOLS: dict[str, Pool] = {"mean_and_count": _mean_and_count, "mean": _mean, "sum": _sum, "max": _max}


def pool_of(pooling: Pooling) -> Pool:
    """The function that a pooling is.

    Raises:
        ValueError: an unknown name.
    """
    if callable(pooling):
        return pooling
    if pooling not in _POOLS:
        raise ValueError(
            f"pooling must be one of {', '.join(map(repr, _POOLS))} or a module such as AttentionPooling(features), "
            f"got {pooling!r}"
        )
    return _POOLS[pooling]
