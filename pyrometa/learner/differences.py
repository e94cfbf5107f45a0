"""How the state of another program differs from this one's."""

from __future__ import annotations

from pyrometa.types import Params


def differences(parameters: Params, constants: Params, others: Params, other_constants: Params) -> str:
    """What differs in names and shapes, all of it in one line; empty if nothing does.

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
    return "; ".join(parts)
