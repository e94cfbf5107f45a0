"""Which ELBO is right for a guide: Pyro's ``TraceMeanField_ELBO`` forgets the Jacobians of transformed sites.

An autoguide draws a constrained latent as an unconstrained auxiliary one and a ``Delta`` that carries the log Jacobian.
Pyro's divergence from a ``Delta`` (1.9.2, ``pyro/distributions/kl.py``) is the model's log density alone, so that
the loss is off by the expected log Jacobian, and the best guide is another.
"""

from __future__ import annotations

import warnings
from typing import Any

from pyro.distributions import Delta
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine import Trace

from pyrometa.elbos.wrapped_distributions import layers
from pyrometa.explain.source_lines import stacklevel


def mean_field_elbo(guide: Trace) -> Trace_ELBO:
    """``TraceMeanField_ELBO()``, or ``Trace_ELBO()`` where that would forget a Jacobian."""
    return Trace_ELBO() if forgotten_jacobians(guide) else TraceMeanField_ELBO()


def warn_of_forgotten_jacobians(loss: Any, guide: Trace) -> None:
    """Name the first site whose Jacobian a loss forgets, and the cure."""
    sites = forgotten_jacobians(guide)
    if sites and isinstance(loss, TraceMeanField_ELBO):
        warnings.warn(
            f"{type(loss).__name__} forgets the Jacobian of guide site {sites[0]!r}, whose support is constrained: "
            "its loss is not the ELBO, and the guide that minimises it not the best; use Trace_ELBO",
            UserWarning,
            stacklevel=stacklevel(),
        )


def forgotten_jacobians(guide: Trace) -> list[str]:
    """The guide's sites with a ``Delta`` that has a density."""
    return [name for name in guide.stochastic_nodes if _has_density(guide.nodes[name]["fn"])]


def _has_density(fn: Any) -> bool:
    deltas = (layer for layer in layers(fn) if isinstance(layer, Delta))
    return any(bool(delta.log_density.requires_grad or delta.log_density.any()) for delta in deltas)
