"""A guide of particles."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.util import sum_rightmost
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrometa.guides.sites import Site, latent_sites, read_sites


class ParticleGuide(PyroModule):
    r"""P values of each latent site, as parameters: the posterior as a set of particles.

    .. math:: q(w) = \frac{1}{P} \sum_{p=1}^{P} \delta(w - w_p)

    The particles fill the batch dimension to the left of the model's plates, where ``vectorize_particles=True`` runs
    its samples. So the model must allow for that, ``Trace_ELBO`` gives the mean of the particles' negative log joint
    densities, and the rule :class:`~pyrometa.inner.SVGD` takes them to the posterior. A site with a constrained support
    has its particles on the reals. They start as draws from the model.

    Args:
        model: a Pyro model whose latent sites are outside of plates.
        num_particles: P; give the ELBO the same.
        max_plate_nesting: the number of batch dimensions that the model's plates take; give the ELBO the same.

    Raises:
        TypeError: a model that can't be called.
        ValueError: a number out of range; on first data, a site that is discrete or in a plate.

    References:
        Yoon et al. (2018), Bayesian model-agnostic meta-learning, https://arxiv.org/abs/1806.03836.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro.infer import Trace_ELBO
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
        >>> guide = ParticleGuide(model, num_particles=5, max_plate_nesting=1)
        >>> guide(torch.randn(10, 2))["mean"].shape
        torch.Size([5, 1, 2])
        >>> elbo = Trace_ELBO(num_particles=5, vectorize_particles=True, max_plate_nesting=1)
        >>> loss = elbo.differentiable_loss(model, guide, torch.randn(10, 2))
    """

    def __init__(self, model: Callable[..., Any], num_particles: int, max_plate_nesting: int) -> None:
        super().__init__()
        if not callable(model):
            raise TypeError(f"model must be callable, got {type(model).__name__}")
        for name, value, least in (("num_particles", num_particles, 1), ("max_plate_nesting", max_plate_nesting, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        self._model = (model,)  # not a submodule: the model's parameters are not the guide's
        self.num_particles, self.max_plate_nesting = num_particles, max_plate_nesting
        self._sites: list[Site] = []

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The particles by site, of shape ``(P, 1, ..., *event)``; the arguments are the model's."""
        if not self._sites:
            self._setup(args, kwargs)
        return {site.name: self._sample(site) for site in self._sites}

    def _sample(self, site: Site) -> Tensor:
        particles = attrgetter(f"particles.{site.name}")(self)
        value = site.transform(particles)
        density = site.transform.inv.log_abs_det_jacobian(value, particles)
        density = sum_rightmost(density, density.dim() - value.dim() + site.event_dim)
        return pyro.sample(site.name, dist.Delta(value, density, event_dim=site.event_dim))

    def _setup(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        (model,) = self._model
        sites = read_sites(model, None, args, kwargs)
        for site in sites:
            if site.plates:
                raise ValueError(
                    f"site {site.name!r} is in the plate {site.plates[0].name!r}: particles are of global latents; "
                    "use .to_event(), or an AmortizedGuide for this site"
                )
        draws = [latent_sites(model, args, kwargs) for _ in range(self.num_particles)]
        for site in sites:
            start = torch.stack([site.transform.inv(draw[site.name]["value"]) for draw in draws])
            start = start.reshape(self.num_particles, *(1,) * self.max_plate_nesting, *site.shape)
            deep_setattr(self, f"particles.{site.name}", nn.Parameter(start))
        self._sites = sites
