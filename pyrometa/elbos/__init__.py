"""ELBO losses as sums over traces, for evaluation under ``torch.func.vmap``.

Pyro's own estimators read numbers out of tensors (``.item()``, boolean masks, NaN warnings), which vmap can't
batch. These compute the same values and gradients from the same traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor

from pyrometa.elbos import renyi, sticking_the_landing
from pyrometa.elbos import trace as sampled
from pyrometa.elbos import trace_enum as enumerated
from pyrometa.elbos import trace_mean_field as mean_field
from pyrometa.elbos.site_errors import naming_sites
from pyrometa.elbos.sticking_the_landing import StickingTheLanding_ELBO

_LOSSES: dict[type, Callable[..., Tensor]] = {
    Trace_ELBO: sampled.loss,
    TraceMeanField_ELBO: mean_field.loss,
    TraceEnum_ELBO: enumerated.loss,
    RenyiELBO: renyi.loss,
    StickingTheLanding_ELBO: sticking_the_landing.loss,
}


def refusal(elbo: Any) -> str | None:
    """Why an ELBO can't be evaluated from traces here, or None if it can."""
    if not isinstance(elbo, ELBO) or type(elbo) in _LOSSES:
        return None
    return f"{type(elbo).__name__} is not one of {', '.join(kind.__name__ for kind in _LOSSES)}"


def loss_of(elbo: ELBO) -> Callable[..., Tensor]:
    """The ELBO's loss as a function of ``(model, guide, *args, **kwargs)``."""

    def loss(model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        return _LOSSES[type(elbo)](elbo, model, guide, args, kwargs)

    return loss


def traced(elbo: ELBO) -> Callable[..., Tensor]:
    """:func:`loss_of` for use under vmap.

    Raises:
        UnsupportedProgramError: naming the site that vmap can't batch.
    """
    loss = loss_of(elbo)

    def named(model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        with naming_sites():
            return loss(model, guide, *args, **kwargs)

    return named


__all__ = ["StickingTheLanding_ELBO", "loss_of", "refusal", "traced"]
