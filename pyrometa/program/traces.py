"""What a trace of a program holds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyro.distributions import Delta
from pyro.poutine import Trace

from pyrometa.elbos.wrapped_distributions import layers


def latents(trace: Trace) -> dict[str, Any]:
    """The sites that are drawn and not observed."""
    return {name: site for name, site in draws(trace).items() if not site["is_observed"]}


def draws(trace: Trace) -> dict[str, Any]:
    """The sites that are drawn or observed, without the choices of subsampled plates."""
    nodes = trace.nodes.items()
    return {name: site for name, site in nodes if site["type"] == "sample" and not _is_subsample(site)}


def is_data(site: Any) -> bool:
    """Whether a site is observed, and not a value that ``pyro.deterministic`` or a reparameterisation computed."""
    return bool(site.get("is_observed")) and not any(isinstance(fn, Delta) for fn in layers(site["fn"]))


def is_auxiliary(site: Any) -> bool:
    """Whether a guide draws it on the way to its latent sites, as an autoguide's one vector of all of them."""
    return bool(site["infer"].get("is_auxiliary"))


def plates(site: Any) -> Iterable[Any]:
    """The plates around a sample site."""
    return site["cond_indep_stack"] if site["type"] == "sample" else ()


def plate_nesting(sites: Iterable[Any]) -> int:
    """How many batch dimensions the vectorised plates around some sites take."""
    dims = (frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized)
    return -min(dims, default=0)


def _is_subsample(site: Any) -> bool:
    return type(site["fn"]).__name__ == "_Subsample"


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(repr(n) for n in names)
