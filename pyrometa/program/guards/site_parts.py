"""What each site of a program adds to its loss, one by one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pyro import poutine
from torch import Tensor

from pyrometa.program.enumeration import enumerated
from pyrometa.program.program import Program
from pyrometa.types import Data

_WRAPPERS = ("Independent", "MaskedDistribution", "ExpandedDistribution")


def held_draws(program: Program, params: Mapping[str, Tensor], data: Data, sites: Collection[str]) -> poutine.Trace:
    """Draw some of the guide's sites, so that :func:`site_parts` can give them the same values at other parameters.

    Args:
        program: whose guide draws.
        params: unconstrained values by name.
        data: what the model and the guide take.
        sites: names of the sites.
    """
    with program.using(params):
        _, run_guide = enumerated(program.elbo, program.model, program.conditioned(data), data)
        trace = poutine.trace(run_guide).get_trace(*data.args, **data.kwargs)
    for name in set(trace.nodes) - set(sites):
        trace.remove_node(name)
    trace.detach_()
    return trace


def site_parts(program: Program, params: Mapping[str, Tensor], data: Data, held: poutine.Trace) -> dict[str, Tensor]:
    """The values and log densities that depend on the parameters, by a description of the site, in the program's order.

    Args:
        program: whose sites.
        params: unconstrained values by name.
        data: what the model and the guide take.
        held: :func:`held_draws`, which are not made anew.
    """
    with program.using(params):
        run_model, run_guide = enumerated(program.elbo, program.model, program.conditioned(data), data)
        guide = poutine.trace(poutine.replay(run_guide, trace=held)).get_trace(*data.args, **data.kwargs)
        replayed = poutine.replay(run_model, trace=guide)
        model = poutine.trace(replayed).get_trace(*data.args, **data.kwargs)
        return {**_parts("guide", guide), **_parts("model", model)}


def _parts(side: str, trace: poutine.Trace) -> dict[str, Tensor]:
    found: dict[str, Any] = {}
    for name, site in trace.nodes.items():
        if site["type"] == "sample":
            fn: Any = site["fn"]
            described = f"{side} site {name!r} ({type(_base(fn)).__name__})"
            found[described] = site["value"]
            found[f"the density of {described}"] = fn.log_prob(site["value"])
    return {description: value for description, value in found.items() if value.requires_grad}


def _base(fn: Any) -> Any:
    while type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return fn
