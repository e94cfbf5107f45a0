"""TraceMeanField_ELBO: divergences in closed form where they are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.distributions import Delta
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from pyrometa.elbos.densities import log_density
from pyrometa.elbos.particles import average, samples, traces


def loss(
    elbo: TraceMeanField_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Tensor:
    """Value and derivatives of ``elbo.differentiable_loss``."""
    return average(elbo, (_particle(*pair) for pair in traces(elbo, model, guide, args, kwargs)))


def _particle(model: Trace, guide: Trace) -> Tensor:
    total: Any = 0.0
    expected, entropy = [], [site for site in samples(guide) if site["name"] not in model.nodes]
    for site in samples(model):
        paired = guide.nodes.get(site["name"])
        if site["is_observed"] or paired is None:
            expected.append(site)
        elif isinstance(paired["fn"], Delta):  # the divergence from it is a log probability
            expected.append({**site, "scale": paired["scale"], "mask": paired["mask"]})
        else:
            divergence = _divergence(paired, site)
            if divergence is None:
                expected.append(site)
                entropy.append(paired)
            else:
                total = total + divergence
    return total + log_density(entropy) - log_density(expected)


def _divergence(guide_site: Any, model_site: Any) -> Tensor | None:
    """The divergence of a guide's site from the model's, or None where torch does not know it."""
    try:
        kl = kl_divergence(guide_site["fn"], model_site["fn"])
    except NotImplementedError:
        return None
    scaled = scale_and_mask(kl, scale=guide_site["scale"], mask=guide_site["mask"])
    return scaled.sum() if isinstance(scaled, Tensor) else scaled * guide_site["fn"].batch_shape.numel()
