"""Inner rules that know the guide's geometry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrometa.inner import GeometricRule, Rule
from pyrometa.nest import Same
from pyrometa.types import Geometry


class BoundRules:
    """Rules as they run on a program: those that ask for the guide's geometry are told it.

    A rule is told once, so that it is one object from then on: recordings are known by it.
    """

    def __init__(self) -> None:
        self._geometry: Geometry | None = None
        self._bound: dict[Any, Rule] = {}

    def see(self, rule: Rule, find: Callable[[], Geometry]) -> None:
        """Find the geometry if this is the first rule that asks for it."""
        if isinstance(rule, GeometricRule) and self._geometry is None:
            self._geometry = find()

    def of(self, rule: Rule, frozen: frozenset[str] = frozenset()) -> Rule:
        """The rule to run, where some parameters that adapted no longer do.

        Raises:
            ValueError: the rule does not suit the guide.
        """
        if not isinstance(rule, GeometricRule) or self._geometry is None:
            return rule
        key = (Same(rule), frozen)
        if key not in self._bound:
            self._bound[key] = rule.bound(self._geometry.without(frozen))
        return self._bound[key]

    def __getstate__(self) -> dict[str, Any]:
        """The geometry: rules are told anew, as a pickle keeps no identities."""
        return {"_geometry": self._geometry, "_bound": {}}
