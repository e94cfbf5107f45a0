"""Refuse draws of the guide whose second derivative is known to be wrong or missing."""

from __future__ import annotations

from collections.abc import Iterable

from pyro.infer import RenyiELBO, Trace_ELBO

from pyrometa.errors import UnsupportedProgramError
from pyrometa.program.program import Program

FIRST_ORDER = "use first order, meta_gradient=Unrolled(first_order=True)"
"""The cure where it is the outer loop that takes second derivatives."""


def check_draws(program: Program, adapted: Iterable[str], cure: str = FIRST_ORDER) -> None:
    """Refuse draws of the guide whose second derivative is known to be wrong or missing.

    Args:
        program: whose guide it is.
        adapted: names of the leaves that adapt.
        cure: what else can be done about it.

    Raises:
        UnsupportedProgramError: naming the site and the cure.
    """
    names = set(adapted)
    for site, leaves in program.guide_draws.score_function.items():
        if leaves & names and isinstance(program.elbo, Trace_ELBO | RenyiELBO):
            raise UnsupportedProgramError(
                f"guide site {site!r} is not reparameterised, and {type(program.elbo).__name__} has a wrong second "
                f"derivative there: enumerate the site, or take its DiCE estimator, by TraceEnum_ELBO; or {cure}"
            )
    for site, leaves in program.guide_draws.once_differentiable.items():
        if leaves & names:
            raise UnsupportedProgramError(
                f"guide site {site!r} draws a Gamma, Beta or Dirichlet, whose reparameterised sample torch can't "
                f"differentiate twice: {cure}, or a LogNormal, Kumaraswamy or logistic-normal guide"
            )
