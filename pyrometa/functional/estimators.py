"""ELBO losses as sums over traces, for evaluation under ``torch.func.vmap``.

Pyro's own estimators read numbers out of tensors (``.item()``, NaN warnings), which vmap can't batch. These
compute the same values and gradients from the same traces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

Particle = Callable[[Trace, Trace], Tensor]


def refusal(elbo: Any) -> str | None:
    """Why an ELBO can't be evaluated from traces here, or None if it can."""
    if not isinstance(elbo, ELBO):
        return None
    if type(elbo) not in _PARTICLES:
        return f"{type(elbo).__name__} is not one of {', '.join(kind.__name__ for kind in _PARTICLES)}"
    return "vectorize_particles=True" if elbo.vectorize_particles else None


def traced(elbo: ELBO) -> Callable[..., Tensor]:
    """The ELBO's loss as a function of ``(model, guide, *args, **kwargs)``."""
    particle = _PARTICLES[type(elbo)]

    def loss(model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        particles = [particle(*traces) for traces in _traces(elbo, model, guide, args, kwargs)]
        return torch.stack(particles).mean(0) if len(particles) > 1 else particles[0]

    return loss


def _traces(
    elbo: ELBO, model: Callable[..., Any], guide: Callable[..., Any], args: Any, kwargs: Any
) -> Iterator[tuple[Trace, Trace]]:
    for _ in range(elbo.num_particles):
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        yield prune_subsample_sites(model_trace), prune_subsample_sites(guide_trace)


def _sampled(model: Trace, guide: Trace) -> Tensor:
    """Negative ELBO of one particle, as Trace_ELBO at reparameterised sites."""
    loss: Any = 0.0
    for site in _samples(guide):
        loss = loss + _log_prob(site).sum()
    for site in _samples(model):
        loss = loss - _log_prob(site).sum()
    return loss


def _mean_field(model: Trace, guide: Trace) -> Tensor:
    """Negative ELBO of one particle, as TraceMeanField_ELBO: divergences where they are known."""
    loss: Any = 0.0
    for site in _samples(model):
        paired = guide.nodes.get(site["name"])
        if site["is_observed"] or paired is None:
            loss = loss - _log_prob(site).sum()
        else:
            loss = loss + _divergence(paired, site)
    for site in _samples(guide):
        if site["name"] not in model.nodes:
            loss = loss + _log_prob(site).sum()
    return loss


def _divergence(guide_site: Any, model_site: Any) -> Tensor:
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return _log_prob(guide_site).sum() - _log_prob(model_site).sum()
    scaled = scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"])
    return scaled.sum() if isinstance(scaled, Tensor) else scaled * guide_site["fn"].batch_shape.numel()


def _samples(trace: Trace) -> Iterator[Any]:
    return (site for site in trace.nodes.values() if site["type"] == "sample")


def _log_prob(site: Any) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, scale=site["scale"], mask=site["mask"])


_PARTICLES: dict[type, Particle] = {Trace_ELBO: _sampled, TraceMeanField_ELBO: _mean_field}
