"""Find out which adapted numbers are an element's own, element by element of a plate."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrometa import generators
from pyrometa.program.enumeration import enumerated
from pyrometa.program.program import Program
from pyrometa.program.traces import draws
from pyrometa.types import Data, Elements, Params


def find_elements(program: Program, data: Data, values: Params) -> list[Elements]:
    """What may be each element's own, for each combination of plates that sites are in; read off one run.

    A number is an element's own where of all that is drawn, and of all densities, within the plates nothing depends on
    it but what is of that element. Names and shapes do not count, and nothing is asked of what is outside of the
    plates: whether a Hessian's blocks follow is for its numbers to show.

    Args:
        program: the program.
        data: a task.
        values: of the parameters that adapt, by name, which the gradients are by.
    """
    with program.using(values), generators.forked(), torch.enable_grad():
        taken = program.given.for_program(data)
        model, guide = enumerated(program.elbo, program.model, program.conditioned(data), taken)
        drawn = poutine.trace(guide).get_trace(*taken.args, **taken.kwargs)
        trace = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(*taken.args, **taken.kwargs)
        sites = [*draws(drawn).values(), *draws(trace).values()]
        found = [_own(frames, sites, values) for frames in _combinations(sites)]
    return [elements for elements in found if any((own >= 0).any() for own in elements.values())]


def _combinations(sites: Sequence[Any]) -> Collection[tuple[Any, ...]]:
    """The plates of each site together, and each plate by itself."""
    found: dict[tuple[str, ...], tuple[Any, ...]] = {}
    for site in sites:
        frames = tuple(frame for frame in site["cond_indep_stack"] if frame.vectorized and frame.size > 1)
        for some in (frames, *((frame,) for frame in frames)):
            if some:
                found[tuple(sorted(frame.name for frame in some))] = some
    return found.values()


def _own(frames: Sequence[Any], sites: Sequence[Any], values: Params) -> Elements:
    """The element of each number, -1 where it has none; digit by digit, all that it touches is of one element."""
    parts, count = [*_parts(frames, sites)], 1
    for frame in frames:
        count *= frame.size
    elements = {name: torch.zeros_like(value, dtype=torch.long) for name, value in values.items()}
    for digit in range((count - 1).bit_length()):
        one, zero = (_touched([(part, (at >> digit) & 1 == bit) for part, at in parts], values) for bit in (1, 0))
        for name, own in elements.items():
            undecided = one[name] == zero[name]
            elements[name] = torch.where(undecided | (own < 0), -1, own + (one[name].long() << digit))
    return elements


def _parts(frames: Sequence[Any], sites: Sequence[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """What is drawn within plates, and its densities: each with the element that every number of it is of."""
    names = {frame.name for frame in frames}
    for site in sites:
        stack = {frame.name: frame for frame in site["cond_indep_stack"] if frame.vectorized}
        if not names <= stack.keys():
            continue
        at: Tensor | int = 0
        for frame in frames:
            frame = stack[frame.name]
            index = torch.arange(frame.size).view(frame.size, *(1,) * (-frame.dim - 1))
            at = at * frame.size + index
        for part, event_dim in ((site["value"], site["fn"].event_dim), (_log_prob(site), 0)):
            if part.requires_grad:
                element = torch.as_tensor(at, device=part.device)
                yield part, element.view(*element.shape, *(1,) * event_dim).expand(part.shape)


def _log_prob(site: Any) -> Tensor:
    found: Tensor = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return found


def _touched(parts: Sequence[tuple[Tensor, Tensor]], values: Params) -> Mapping[str, Tensor]:
    """Which numbers have a part in what is chosen of some tensors."""
    generator = torch.Generator().manual_seed(3)
    total = torch.zeros(())
    for part, chosen in parts:
        weights = 0.5 + torch.rand(part.shape, generator=generator, device=generator.device).to(part)
        total = total + torch.where(chosen, part * weights, 0.0).sum()
    if not total.requires_grad:
        return {name: torch.zeros_like(value, dtype=torch.bool) for name, value in values.items()}
    grads = torch.autograd.grad(total, list(values.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(value, dtype=torch.bool) if grad is None else grad != 0
        for (name, value), grad in zip(values.items(), grads, strict=True)
    }
