"""What is read off one run of the model on an example: latents, plates, and which argument each observed site fills."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
from pyro import poutine
from pyro.infer import config_enumerate
from torch import Tensor

from pyrometa.guides.sites import Site, read_sites, traced_alone


@dataclass(frozen=True)
class Reading:
    """A model, as it was on an example.

    Attributes:
        model: the model, its discrete latents marked to be enumerated.
        sites: its continuous latents.
        observed: the position of the argument that each observed site fills.
        plates: names of the plates over the rows of the data.
        nesting: how many dimensions its plates take.
        enumerates: whether it has discrete latents.
    """

    model: Callable[..., Any]
    sites: tuple[Site, ...]
    observed: Mapping[str, int]
    plates: frozenset[str]
    nesting: int
    enumerates: bool


def read(model: Callable[..., Any], example: tuple[Tensor, ...], observed: Mapping[str, int] | None) -> Reading:
    """Run the model once on an example.

    Raises:
        ValueError: naming the site or argument, with the cure.
    """
    rows = _count_rows(example)
    trace = traced_alone(model, example, {})
    nodes: dict[str, Any] = trace.nodes
    learned = [name for name in trace.param_nodes if nodes[name]["value"].requires_grad]
    if learned:
        raise ValueError(
            f"the model learns parameter {learned[0]!r}, which would change the prior that tasks are drawn from: fit "
            "it first, and freeze it by requires_grad_(False)"
        )
    discrete = [name for name in trace.stochastic_nodes if nodes[name]["fn"].support.is_discrete]
    for name in discrete:
        _check_enumerable(name, nodes[name]["fn"])
    frames: list[Any] = [f for site in nodes.values() for f in site.get("cond_indep_stack", ()) if f.vectorized]
    plates = frozenset(frame.name for frame in frames if frame.size == rows)
    for name in trace.stochastic_nodes:
        inside = [frame.name for frame in nodes[name]["cond_indep_stack"] if frame.vectorized]
        if inside and name not in discrete:
            raise ValueError(
                f"latent site {name!r} is inside plate {inside[0]!r}, and Amortize covers latents outside of plates: "
                "declare a vector of them by .to_event(), or cover those of the rows by guides.AmortizedGuide"
            )
    model = config_enumerate(model, default="parallel") if discrete else model
    return Reading(
        model,
        tuple(read_sites(model, None, example, {})),
        _observed(trace, example) if observed is None else dict(observed),
        plates,
        max((-frame.dim for frame in frames), default=0),
        bool(discrete),
    )


def _count_rows(example: tuple[Tensor, ...]) -> int:
    for position, arg in enumerate(example):
        if not isinstance(arg, Tensor) or arg.dim() == 0 or len(arg) != len(example[0]):
            got = tuple(arg.shape) if isinstance(arg, Tensor) else type(arg).__name__
            raise ValueError(
                f"argument {position} of the example must be a tensor with a row for each datum, as argument 0 has, "
                f"got {got}: repeat what is the same for all rows, and bind what is no tensor by functools.partial"
            )
    return len(example[0])


def _check_enumerable(name: str, fn: Any) -> None:
    if not fn.has_enumerate_support:
        raise ValueError(
            f"latent site {name!r} is discrete ({type(fn).__name__}) and can't be enumerated: bound it, as a "
            "Categorical does, or sum it out in the model"
        )


def _observed(trace: poutine.Trace, example: tuple[Tensor, ...]) -> dict[str, int]:
    names = [name for name in trace.observation_nodes if not isinstance(trace.nodes[name]["fn"], dist.Unit)]
    if not names:
        raise ValueError("the model observes nothing on the example: give it the data, pyro.sample(..., obs=y)")
    return {name: _position(name, trace.nodes[name]["value"], example) for name in names}


def _position(name: str, value: Any, example: tuple[Tensor, ...]) -> int:
    """Which argument a site observes, as it is or as a view of it of the same shape."""
    memory = value.untyped_storage().data_ptr()
    found = [
        i for i, arg in enumerate(example) if arg.untyped_storage().data_ptr() == memory and arg.shape == value.shape
    ]
    if len(found) != 1:
        what = "is none of the arguments" if not found else f"may be any of arguments {found}"
        raise ValueError(
            f"what site {name!r} observes {what}: say which one it fills, observed={{{name!r}: position}}, and hand "
            "the data over as the model observes it"
        )
    return found[0]
