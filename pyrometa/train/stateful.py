"""Things that say where they stand."""

from __future__ import annotations

from typing import Any


def has_state(thing: Any) -> bool:
    """Whether something says where it stands, and can be put there."""
    return all(callable(getattr(thing, name, None)) for name in ("state_dict", "load_state_dict"))


def state_of(thing: Any) -> Any:
    """Where it stands; None if it does not say."""
    return thing.state_dict() if has_state(thing) else None
