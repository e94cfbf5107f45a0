"""Refuse draws of the guide whose second derivative is known to be wrong or missing."""

from __future__ import annotations

from collections.abc import Iterable

from pyro.infer import RenyiELBO, Trace_ELBO

from pyrometa.errors import UnsupportedProgramError
from pyrometa.program.program import Program


def check_draws(program: Program, adapted: Iterable[str]) -> None:
    """Refuse draws of the guide whose second derivative is known to be wrong or missing.

    Raises:
        UnsupportedProgramError: naming the site and the cure.
    """
    names = set(adapted)
    for site, leaves in program.guide_draws.score_function.items():
        if leaves & names and isinstance(program.elbo, Trace_ELBO | RenyiELBO):
            raise UnsupportedProgramError(
                f"guide site {site!r} is not reparameterised, and {type(program.elbo).__name__} has a wrong second "
                "derivative there: use TraceEnum_ELBO (enumerate the site, or its DiCE estimator), or first order, "
                "meta_gradient=Unrolled(first_order=True)"
            )
    for site, leaves in program.guide_draws.once_differentiable.items():
        if leaves & names:
            raise UnsupportedProgramError(
                f"guide site {site!r} draws a Gamma, Beta or Dirichlet, whose reparameterised sample torch can't "
                "differentiate twice: use first order, meta_gradient=Unrolled(first_order=True), or a LogNormal, "
                "Kumaraswamy or logistic-normal guide"
            )
