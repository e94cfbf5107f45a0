"""Which parameters adapt."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from pyrometa.program.leaves import Leaf

Selection = str | Sequence[str] | Callable[[str], bool]


def select(adapt: Selection, leaves: Mapping[str, Leaf]) -> tuple[str, ...]:
    """Names of the trainable leaves that ``adapt`` chooses, in the program's order.

    Args:
        adapt: ``"guide"``, ``"model"``, ``"both"``, a name or pattern such as ``"guide.head.*"`` or a list of
            them, or a predicate on names.
        leaves: all leaves by name.

    Raises:
        ValueError: a pattern that matches no trainable parameter, with the nearest names.
    """
    names = [name for name, leaf in leaves.items() if leaf.trainable]
    if callable(adapt):
        return tuple(name for name in names if adapt(name))
    chosen: set[str] = set()
    for pattern in _patterns(adapt):
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched and pattern not in ("guide.*", "model.*"):
            raise ValueError(_unknown(pattern, names, leaves))
        chosen.update(matched)
    return tuple(name for name in names if name in chosen)


def _patterns(adapt: str | Sequence[str]) -> list[str]:
    sides = {"guide": ["guide.*"], "model": ["model.*"], "both": ["guide.*", "model.*"]}
    if isinstance(adapt, str):
        return sides.get(adapt, [adapt])
    return [pattern for item in adapt for pattern in sides.get(item, [item])]


def _unknown(pattern: str, names: Iterable[str], leaves: Mapping[str, Leaf]) -> str:
    names = list(names)
    frozen = [name for name in leaves if fnmatchcase(name, pattern)]
    if frozen:
        return f"adapt={pattern!r} matches only frozen parameters ({', '.join(frozen)}): set requires_grad=True"
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:8]
    return f"adapt={pattern!r} matches no parameter; the nearest names are {', '.join(near) or '(none)'}"
