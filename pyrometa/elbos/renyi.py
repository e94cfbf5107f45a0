"""RenyiELBO, which Pyro can evaluate but not differentiate twice; and with it the importance-weighted bound."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.distributions.util import is_identically_zero
from pyro.infer import RenyiELBO
from pyro.infer.util import get_dependent_plate_dims, torch_sum
from pyro.poutine import Trace
from torch import Tensor

from pyrometa.elbos.particles import samples
from pyrometa.errors import UnsupportedProgramError


def loss(
    elbo: RenyiELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Tensor:
    r"""Renyi's bound, negated (Li and Turner 2016, https://arxiv.org/abs/1602.02311).

    .. math:: -\frac{1}{1 - \alpha} \sum_i \log \frac{1}{K} \sum_k w_{ki}^{1 - \alpha}

    with weights ``w = p(x, z) / q(z)`` of K particles, apart for each entry i of the plates that all sites share.
    ``alpha=0`` is the importance-weighted bound (Burda et al. 2016, https://arxiv.org/abs/1509.00519).
    Its gradient is the one that ``RenyiELBO.loss_and_grads`` takes.
    """
    particles = [_log_weights(elbo, *pair) for pair in elbo._get_traces(model, guide, args, kwargs)]
    one_trace = elbo.vectorize_particles and elbo.num_particles > 1
    log_weights = particles[0] if one_trace else torch.stack(particles)
    exponent = 1.0 - elbo.alpha
    log_means = torch.logsumexp(exponent * log_weights, 0) - math.log(elbo.num_particles)
    return -log_means.sum() / exponent


def _log_weights(elbo: RenyiELBO, model: Trace, guide: Trace) -> Tensor:
    """The log ratios log p - log q, summed over the plates that some sites are not in."""
    dims = get_dependent_plate_dims(model.nodes.values())
    total: Any = 0.0
    for site in samples(model):
        total = total + torch_sum(site["log_prob"], dims)
    for site in samples(guide):
        log_q, score, entropy = site["score_parts"]
        log_q = torch_sum(log_q, dims)
        if is_identically_zero(score):
            total = total - log_q
        elif is_identically_zero(entropy):  # the gradient of the bound's limit in K
            total = total - log_q.detach() + elbo.alpha / (1.0 - elbo.alpha) * (log_q - log_q.detach())
        else:
            raise UnsupportedProgramError(f"guide site {site['name']!r} is partly reparameterised: use Trace_ELBO")
    return total
