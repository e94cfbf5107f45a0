"""A vector for a set of rows of numbers, by attention among the rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrometa.guides.pooling import AttentionPooling


class InducedAttention(nn.Module):
    r"""Rows that look at each other by way of a few learned points, the ISAB block of the Set Transformer.

    .. math:: h = \text{norm}(p + \text{attention}(p, x, x)), \qquad y = \text{norm}(x + \text{attention}(x, h, h))

    Its cost grows with the number of rows N, not with N squared.

    Args:
        features: width of the rows.
        points: number of learned points.

    References:
        Lee et al. (2019), Set Transformer, https://arxiv.org/abs/1810.00825.

    Example:
        >>> import torch
        >>> InducedAttention(8, points=4)(torch.randn(5, 8), torch.ones(5, dtype=torch.bool)).shape
        torch.Size([5, 8])
    """

    def __init__(self, features: int, points: int = 8) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(points, features) / features**0.5)
        self.gather, self.spread = _Attention(features), _Attention(features)
        self.gathered, self.norm = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Rows ``(*batch, N, features)`` to rows of the same shape; those count where ``mask`` is true."""
        seen = self.gathered(self.points + self.gather(self.points, rows, mask))
        return self.norm(rows + self.spread(rows, seen, None))


class _Attention(nn.Module):
    """One head of attention."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(features, features), nn.Linear(features, features)
        self.key = nn.Linear(features, features, bias=False)  # a bias would be the same for all that is asked

    def forward(self, asking: Tensor, asked: Tensor, mask: Tensor | None) -> Tensor:
        scores = self.query(asking) @ self.key(asked).mT / asked.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask[..., None, :], torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ self.value(asked)


class SetAttention(nn.Module):
    """One vector for a set of rows, in any order and number: a network of each row, attention, and pooling.

    What is pooled are the rows by attention and their mean, with the logarithm of their number n and 1 / n.

    Args:
        columns: numbers in a row.
        features: width of the network; a multiple of 4.

    Example:
        >>> import torch
        >>> read = SetAttention(2, 16)
        >>> read(torch.randn(5, 2), torch.ones(5, dtype=torch.bool)).shape
        torch.Size([34])
    """

    def __init__(self, columns: int, features: int) -> None:
        super().__init__()
        self.rows = nn.Sequential(nn.Linear(columns, features), nn.SiLU(), nn.Linear(features, features))
        self.attention = InducedAttention(features)
        self.pool = AttentionPooling(features)
        self.size = 2 * features + 2

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Pool ``rows``, ``(*batch, N, columns)``, where ``mask``, ``(*batch, N)``, is true."""
        embedded = self.attention(self.rows(rows), mask)
        count = mask.sum(-1, keepdim=True).to(rows)
        mean = embedded.masked_fill(~mask[..., None], 0.0).sum(-2) / count
        return torch.cat([self.pool(embedded, mask), mean, count.log(), 1 / count], -1)
