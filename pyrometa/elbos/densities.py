r"""The log densities of many sites at once.

A program with a dozen small Normal sites spends its time on a dozen times the same few operations. Their sum is

.. math:: \sum_s \log N(x_s; \mu_s, \sigma_s) = -\tfrac12 \sum z^2 - \sum \log \sigma - \tfrac{n}{2} \log 2 \pi,
    \qquad z = (x - \mu) / \sigma

over the elements of all sites end to end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pyro
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyrometa.elbos.particles import log_prob
from pyrometa.rewrites.end_to_end import pack_in_vmap

_SMALL = 2**14  # elements of a task; a copy of more costs more than the operations that it saves


def log_density(sites: Iterable[Any]) -> Tensor | float:
    """The sum of the sites' log probabilities, scaled and masked."""
    total: Tensor | float = 0.0
    normal: list[tuple[Tensor, Normal]] = []
    for site in sites:
        fn = None if site["is_observed"] else _plain_normal(site)
        if fn is None:
            total = total + log_prob(site).sum()
        else:
            normal.append((site["value"], fn))
    if len(normal) == 1:
        value, fn = normal[0]
        return total + fn.log_prob(value).sum()
    return total + _together(normal) if normal else total


def _plain_normal(site: Any) -> Normal | None:
    """A site's Normal, where its log probability is the plain sum over its elements: no scale, no mask; else None."""
    fn: Distribution = site["fn"]
    while isinstance(fn, Independent):
        fn = fn.base_dist
    if (
        type(fn) not in (Normal, pyro.distributions.Normal)
        or site["scale"] != 1.0
        or site["mask"] is not None
        or site["args"]
        or site["kwargs"]
    ):
        return None
    return cast(Normal, fn) if site["value"].numel() <= _SMALL and site["value"].shape == fn.batch_shape else None


def _together(sites: Sequence[tuple[Tensor, Normal]]) -> Tensor:
    value, loc, scale = (
        pack_in_vmap([part.expand(fn.batch_shape).reshape(-1) for part, fn in parts])
        for parts in (
            [(value, fn) for value, fn in sites],
            [(fn.loc, fn) for _, fn in sites],
            [(fn.scale, fn) for _, fn in sites],
        )
    )
    z = (value - loc) / scale
    return -0.5 * (z * z).sum() - scale.log().sum() - 0.5 * math.log(2 * math.pi) * len(z)
