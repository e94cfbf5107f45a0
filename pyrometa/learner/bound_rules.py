"""Inner rules that know something of the program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrometa.inner import BlockRule, Blocks, GeometricRule, Rule
from pyrometa.learner.blocks import find_blocks
from pyrometa.nest import Same
from pyrometa.program.geometry import find_geometry
from pyrometa.program.program import Program
from pyrometa.types import Data, Geometry


class BoundRules:
    """Rules as they run on a program: those that ask for the guide's geometry, or for blocks, are told.

    A rule is told once, so that it is one object from then on: recordings are known by it.
    """

    def __init__(self) -> None:
        self._geometry: Geometry | None = None
        self._blocks: Blocks | None = None
        self._asked_for_blocks = False
        self._bound: dict[Any, Rule] = {}
        self._plain: Rule | None = None  # the last rule that asked for nothing: to ask it takes a while

    def see(self, rule: Rule, program: Program, data: Data, adapted: Sequence[str]) -> None:
        """Find out on a task what this rule is the first to ask for."""
        if rule is self._plain:
            return
        if isinstance(rule, GeometricRule) and self._geometry is None:
            self._geometry = find_geometry(program, data, adapted)
        if isinstance(rule, BlockRule) and not self._asked_for_blocks:
            self._blocks, self._asked_for_blocks = find_blocks(program, data, adapted), True
        if not isinstance(rule, GeometricRule | BlockRule):
            self._plain = rule

    def of(self, rule: Rule, frozen: frozenset[str] = frozenset()) -> Rule:
        """The rule to run, where some parameters that adapted no longer do.

        Raises:
            ValueError: the rule does not suit the guide.
        """
        if rule is self._plain:
            return rule
        if isinstance(rule, BlockRule):
            return self._in_blocks(rule)
        if not isinstance(rule, GeometricRule) or self._geometry is None:
            return rule
        key = (Same(rule), frozen)
        if key not in self._bound:
            self._bound[key] = rule.bound(self._geometry.without(frozen))
        return self._bound[key]

    def _in_blocks(self, rule: BlockRule) -> Rule:
        """The rule itself once blocks were seen not to hold: what was recorded of blocks is not replayed again."""
        if self._blocks is None or not self._blocks.hold:
            return rule
        key = (Same(rule), "blocks")
        if key not in self._bound:
            self._bound[key] = rule.in_blocks(self._blocks)
        return self._bound[key]

    def __getstate__(self) -> dict[str, Any]:
        """What was found: rules are told anew, as a pickle keeps no identities."""
        return {**vars(self), "_bound": {}, "_plain": None}
