"""What a guide needs to know of a model's latent sites, read from one run of the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.util import prune_subsample_sites
from torch.distributions import Transform, biject_to, constraints


@dataclass(frozen=True)
class Plate:
    """A vectorised plate, as it was on first data.

    Attributes:
        name: its name.
        dim: its dimension, counted from the right.
        size: its rows.
        full_size: the rows that they stand for, more than ``size`` under subsampling.
    """

    name: str
    dim: int
    size: int
    full_size: int


@dataclass(frozen=True)
class Site:
    """One latent site of a model.

    Attributes:
        name: its name.
        transform: from the reals to its support.
        constrained: whether its support is less than the reals.
        shape: event shape of its unconstrained value.
        event_dim: event dimensions of its value.
        plates: the plates around it.
    """

    name: str
    transform: Transform
    constrained: bool
    shape: torch.Size
    event_dim: int
    plates: tuple[Plate, ...]

    @property
    def size(self) -> int:
        """Real numbers that make up one unconstrained value."""
        return self.shape.numel()


def read_sites(
    model: Callable[..., Any], names: Collection[str] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Site]:
    """The latent sites of a model, in its order; nothing that it does is seen by handlers outside.

    Args:
        model: a Pyro model.
        names: the sites wanted; None for all but the enumerated ones.
        args: the model's positional arguments.
        kwargs: its keyword arguments.

    Raises:
        ValueError: a site that is not there, is discrete, or has undeclared batch dimensions.
    """
    latents = latent_sites(model, args, kwargs)
    unknown = [name for name in names or () if name not in latents]
    if unknown:
        raise ValueError(
            f"the model has no latent site {unknown[0]!r}: it has {', '.join(map(repr, latents)) or 'none'}"
        )
    wanted = [site for name, site in latents.items() if (name in names if names is not None else not _enumerated(site))]
    if not wanted:
        raise ValueError("the model has no latent sites for this guide: name some, or leave the guide out")
    return [_read(site) for site in wanted]


def latent_sites(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The messages of a model's latent sites by name."""
    trace = traced_alone(model, args, kwargs)
    return {name: trace.nodes[name] for name in trace.stochastic_nodes}


def traced_alone(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> poutine.Trace:
    """One run of a model, of which handlers outside see nothing; subsampling is left out."""
    with torch.no_grad(), poutine.block():
        return prune_subsample_sites(poutine.trace(model).get_trace(*args, **kwargs))


def _enumerated(site: Any) -> bool:
    return bool(site["infer"].get("enumerate"))


def _read(site: Any) -> Site:
    name, fn = site["name"], site["fn"]
    if fn.support.is_discrete:
        raise ValueError(
            f"site {name!r} is discrete ({type(fn).__name__}), which no reparameterised family covers: enumerate it "
            'in the model, infer={"enumerate": "parallel"}, or leave it out of sites='
        )
    plates = tuple(
        Plate(frame.name, frame.dim, frame.size, frame.full_size or frame.size)
        for frame in site["cond_indep_stack"]
        if frame.vectorized
    )
    dims = {plate.dim for plate in plates}
    loose = [dim for dim in range(-len(fn.batch_shape), 0) if fn.batch_shape[dim] > 1 and dim not in dims]
    if loose:
        raise ValueError(
            f"site {name!r} has batch shape {tuple(fn.batch_shape)}, of which dimension {loose[0]} belongs to no "
            "plate: declare it dependent by .to_event(), or put it in a pyro.plate"
        )
    transform = biject_to(fn.support)
    event_dim = fn.event_dim - transform.codomain.event_dim + transform.domain.event_dim
    unconstrained = transform.inv(site["value"])
    shape = unconstrained.shape[unconstrained.dim() - event_dim :]
    return Site(name, transform, not _is_real(fn.support), shape, fn.event_dim, plates)


def _is_real(support: Any) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
