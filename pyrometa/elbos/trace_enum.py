"""TraceEnum_ELBO: discrete sites summed out, or sampled with the DiCE estimator."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from opt_einsum import shared_intermediates
from pyro.infer import TraceEnum_ELBO
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from pyro.poutine import Trace
from torch import Tensor

from pyrometa.elbos import log_space
from pyrometa.elbos.particles import average, samples
from pyrometa.internals import compute_model_factors

Terms = Mapping[frozenset[str], Sequence[Tensor]]
"""Packed log probabilities by the plates that they are in."""


def loss(
    elbo: TraceEnum_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Tensor:
    """Value and all derivatives of ``elbo.differentiable_loss``."""
    return average(elbo, (-_particle(*pair) for pair in elbo._get_traces(model, guide, args, kwargs)))


class _Ring(LogRing):
    """Sums and products of packed tensors in log space, in operations that vmap can batch."""

    _backend = log_space.__name__


def _particle(model: Trace, guide: Trace) -> Tensor:
    """The ELBO of one particle, as a sum of costs that are each weighted by the probability of what they depend on."""
    costs, factors, ordering, enumerated, scale = compute_model_factors(model, guide)
    if factors:
        sizes = {dim: n for terms in factors.values() for term in terms for dim, n in _sizes(term).items()}
        with shared_intermediates() as cache:
            summed = contract_tensor_tree(factors, enumerated, ring=_Ring(cache, sizes))
        for plates, terms in summed.items():
            costs.setdefault(plates, []).extend(packed.scale_and_mask(term, scale=scale) for term in terms)
    for site in samples(guide):
        costs.setdefault(ordering[site["name"]], []).append(packed.neg(site["packed"]["log_prob"]))
    return _expectation(Dice(guide, ordering), costs)


def _expectation(dice: Dice, costs: Terms) -> Tensor:
    """The sum of the costs, each weighted by its DiCE factor.

    The factor of an enumerated site is its probability. That of a sampled site is 1 in value, and its derivative is
    the site's score, so that the gradient of the sum is the score-function estimator's.
    """
    total: Any = 0.0
    with shared_intermediates() as cache:
        ring = _Ring(cache)
        for plates, terms in costs.items():
            factors = dice._get_log_factors(plates)
            scale = math.exp(sum(factor for factor in factors if not isinstance(factor, Tensor)))
            tensors = [factor for factor in factors if isinstance(factor, Tensor)]
            for cost, weight in zip(terms, _weights(ring, tensors, terms), strict=True):
                total = total + scale * _weighted(cost, weight)
    return total


def _weights(ring: LogRing, factors: Sequence[Tensor], costs: Sequence[Tensor]) -> list[Tensor | None]:
    """For each cost, the product of the factors summed over the dimensions that it does not have."""
    if not factors:
        return [None] * len(costs)
    dims = set().union(*(factor._pyro_dims for factor in factors))  # type: ignore[attr-defined]
    found: OrderedDict[frozenset[str], Tensor] = OrderedDict()
    for cost in costs:
        kept = dims & set(cost._pyro_dims)  # type: ignore[attr-defined]
        if frozenset(kept) not in found:
            found[frozenset(kept)] = packed.exp(ring.sumproduct(factors, dims - kept))
    return [found[frozenset(dims & set(cost._pyro_dims))] for cost in costs]  # type: ignore[attr-defined]


def _weighted(cost: Tensor, weight: Tensor | None) -> Tensor:
    """The sum of a cost times its weight; where the weight is zero the cost counts as zero, infinite or not."""
    if weight is None:
        return cost.sum()
    cost, weight = packed.broadcast_all(cost, weight)
    return (weight * torch.where(weight > 0, cost, 0.0)).sum()


def _sizes(term: Tensor) -> dict[str, int]:
    return dict(zip(term._pyro_dims, term.shape, strict=True))  # type: ignore[attr-defined]
