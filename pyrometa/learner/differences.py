"""How the state of another program differs from this one's."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pyrometa.types import Params


def differences(parameters: Params, constants: Params, others: Params, other_constants: Params) -> str:
    """What differs in names, shapes and dtypes, all of it in one line; empty if nothing does.

    Args:
        parameters: what is learned here.
        constants: what is computed with here and not learned.
        others: what was learned in the state.
        other_constants: what was not learned there.
    """
    here, there = {**parameters, **constants}, {**others, **other_constants}
    lacking = [name for name in here if name not in there]
    unknown = [name for name in there if name not in here]
    shared = [name for name in here if name in there]
    frozen = [name for name in shared if (name in parameters) != (name in others)]
    parts = [f"it lacks {', '.join(lacking)}"] if lacking else []
    parts += [f"it has {', '.join(unknown)}, which this program has not"] if unknown else []
    parts += [
        f"{name} has shape {tuple(here[name].shape)} here and {tuple(there[name].shape)} there"
        for name in shared
        if here[name].shape != there[name].shape
    ]
    parts += [f"{name} is learned {'here' if name in parameters else 'there'} only" for name in frozen]
    return "; ".join([*parts, *_of_other_dtypes(here, there, shared)])


def other_constraints(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """Which parameters have other constraints, and what to do about it; empty if none has.

    Args:
        here: the constraints of this program by the parameters' names, where there is one.
        there: those of the state.
    """
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    told = [f"{name} has {here.get(name, 'none')} here and {there.get(name, 'none')} there" for name in names]
    cure = "give each the constraint that it was saved with, as its numbers are unconstrained ones"
    return f"of other constraints: {'; '.join(told)}: {cure}" if told else ""


def _of_other_dtypes(here: Params, there: Params, shared: list[str]) -> list[str]:
    """A part for each pair of dtypes, with all names that it is of."""
    found: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    for name in shared:
        found.setdefault((here[name].dtype, there[name].dtype), []).append(name)
    return [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {_short(own)} here and {_short(other)} there, so "
        f"make the program in {_short(other)}, say after torch.set_default_dtype({other})"
        for (own, other), names in found.items()
        if own != other
    ]


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
