"""What a posterior makes of each latent dimension: how far it is from the prior, and whether it follows the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Independent, biject_to, kl_divergence

from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.program.traces import draws, is_auxiliary, latents

__all__ = ["Rows", "divergences", "drawn_by", "posterior_means", "rows_of"]

_DRAWS = 64
"""By which divergences are averaged over what a site's distribution depends on."""

Program = Callable[..., Any]


class Rows(NamedTuple):
    """Latent sites by what they belong to.

    Attributes:
        plates: of the rows: those around some observed site that are around a latent site too.
        local: names of the latent sites that each row has its own of, with the batch dimensions of these plates.
        shared: names of the others.
    """

    plates: frozenset[str]
    local: Mapping[str, tuple[int, ...]]
    shared: tuple[str, ...]


def rows_of(model: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Rows:
    """A latent site is local if it is in all plates of an observed one, of which there is at least one."""
    with store_left_as_it_is(), torch.no_grad():
        sites = draws(poutine.trace(model).get_trace(*args, **kwargs))
    rows = [_plates(site).keys() for site in sites.values() if site["is_observed"] and _plates(site)]
    local: dict[str, tuple[int, ...]] = {}
    shared, plates = [], frozenset[str]()
    for name, site in sites.items():
        if site["is_observed"]:
            continue
        mine = _plates(site)
        within = [stack for stack in rows if stack <= mine.keys()]
        if not within:
            shared.append(name)
            continue
        of_rows = frozenset().union(*within)
        plates |= of_rows
        local[name] = tuple(mine[plate] for plate in of_rows)
    return Rows(plates, local, tuple(shared))


def _plates(site: Any) -> dict[str, int]:
    return {frame.name: frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}


def posterior_means(values: Mapping[str, Tensor], rows: Rows, events: Mapping[str, int]) -> dict[str, Tensor]:
    """Means of real sites, shape ``(rows, *unit)``: one row for a site that a task has one of.

    Args:
        values: draws of each latent site, shape ``(draws, *site)``.
        rows: which sites are local.
        events: how many dimensions of each site are its event's.
    """
    means = {name: value.mean(0) for name, value in values.items() if value.is_floating_point()}
    return {name: _by_rows(mean, rows.local.get(name, ()), events[name]) for name, mean in means.items()}


def _by_rows(value: Tensor, plates: Sequence[int], event: int) -> Tensor:
    """Dimensions of rows in front, as one."""
    dims = [value.dim() - event + dim for dim in plates]
    moved = value.movedim(dims, list(range(len(dims))))
    return moved.reshape(-1, *moved.shape[len(dims) :])


def divergences(
    model: Program, guide: Program, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: Rows
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Of the guide's latent sites from the prior, element by element: ``E_q[KL(q(z_i | ...) || p(z_i | ...))]``.

    Returns:
        for each site whose elements the guide and the model draw each by itself given other sites, its divergences,
        shape of the site without its rows, over which they are averaged; and for every latent site, the number of its
        event dimensions.
    """
    found: dict[str, list[Tensor]] = {}
    events: dict[str, int] = {}
    with store_left_as_it_is(), torch.no_grad():
        for _ in range(_DRAWS):
            guided = poutine.trace(guide).get_trace(*args, **kwargs)
            modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(*args, **kwargs)
            sites = latents(guided)
            for name, prior in latents(modelled).items():
                if name not in sites:
                    continue
                events[name] = prior["fn"].event_dim
                own = _divergence(drawn_by(name, sites), prior)
                if own is not None:
                    found.setdefault(name, []).append(_by_rows(own, rows.local.get(name, ()), events[name]).mean(0))
    return {name: torch.stack(each).mean(0) for name, each in found.items() if len(each) == _DRAWS}, events


def drawn_by(name: str, sites: Mapping[str, Any]) -> Any:
    """The site whose distribution is the latent's: an autoguide's is that of its unconstrained value."""
    auxiliary = sites.get(f"{name}_unconstrained")
    return auxiliary if auxiliary is not None and is_auxiliary(auxiliary) else sites[name]


def _divergence(site: Any, prior: Any) -> Tensor | None:
    """Element by element, in closed form or by the draw; None where elements are not drawn each by itself."""
    q, p = _elementwise(site["fn"]), _elementwise(prior["fn"])
    shape = prior["value"].shape
    if q is None or p is None or site["value"].shape != shape or type(q).__name__ == "Delta":
        return None
    if torch.equal(site["value"], prior["value"]):
        try:
            return kl_divergence(q, p).expand(shape)
        except NotImplementedError:
            return q.log_prob(site["value"]).expand(shape) - p.log_prob(prior["value"])
    jacobian = biject_to(p.support).log_abs_det_jacobian(site["value"], prior["value"])
    return q.log_prob(site["value"]) - jacobian - p.log_prob(prior["value"])


def _elementwise(fn: Any) -> Any:
    """A distribution without its declaration of event dimensions; None if it is over vectors."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return None if fn.event_dim else fn
