"""What was meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_FEW = 12


def meant(given: str, known: Iterable[str]) -> str:
    """What to write instead of a name that nobody knows: the nearest one, or which there are."""
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    near = get_close_matches(given.lower(), by_lower, 5, 0.6)
    if near:
        nearest = min(near, key=lambda name: sorted(name) != sorted(given.lower()))  # two letters are often swapped
        return f"did you mean {by_lower[nearest]!r}?"
    if not names:
        return "there is none"
    few = ", ".join(names[:_FEW])
    return f"there are {few}{', ...' if len(names) > _FEW else ''}"
