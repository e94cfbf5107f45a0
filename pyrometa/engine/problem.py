"""What a runner is asked to do, apart from how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyrometa.inner import GradientOrder, InnerRule, LossRule, Path, ReadingRule, Rule
from pyrometa.nest import Same
from pyrometa.program.gaussian_sites import shown
from pyrometa.program.program import Program
from pyrometa.types import Data, Params


@dataclass(frozen=True)
class Problem:
    """Adaptation of one program by one rule.

    Attributes:
        program: the pure loss.
        rule: the inner rule.
        adapted: names of the leaves that adapt.
        leaves: the program's trainable leaves by name, where adaptation starts.
        learned: the rule's learned parameters, by its own names.
        steps: inner steps K.
    """

    program: Program
    rule: Rule
    adapted: tuple[str, ...]
    leaves: Params
    learned: Params
    steps: int

    @property
    def gradient_rule(self) -> InnerRule:
        """The rule, of one that moves by gradients alone.

        Raises:
            TypeError: it does not.
        """
        if isinstance(self.rule, LossRule):
            raise TypeError(f"{type(self.rule).__name__} moves by more than gradients")
        return self.rule

    def rule_on(self, support: Data) -> InnerRule:
        """The rule for steps of one task, told what the guide shows on its data if it has to be."""
        rule = self.gradient_rule
        read = rule.reads if isinstance(rule, ReadingRule) else None
        if read is None or not isinstance(rule, ReadingRule):
            return rule
        return rule.reading(lambda fast: shown(self.program, {**self.leaves, **fast}, support, read.sites))

    def start(self, order: GradientOrder) -> Params:
        """The fast weights before the first step."""
        return {name: cut(self.leaves[name], order) for name in self.adapted}

    @property
    def outer(self) -> Params:
        """All that the outer loop learns, by public name."""
        return {
            name: leaf for name, leaf in {**self.leaves, **by_public_name(self.learned)}.items() if leaf.requires_grad
        }


def by_public_name(learned: Params) -> Params:
    """What a rule learns by public name, which sets it apart from the program's parameters."""
    return {f"inner.{name}": value for name, value in learned.items()}


class ScoredPath(Path[Any], Protocol):
    """A path of the inner loop whose points can also be scored on the query sets.

    Attributes:
        problem: what adapts, and how.
    """

    @property
    def problem(self) -> Problem:
        """What adapts, and how."""

    def score(self, point: Any) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``."""

    def fast_weights(self, point: Any) -> Params:
        """The fast weights, each of shape ``(tasks, *parameter)``."""


class PathFunction(Protocol):
    """What is wanted of some tasks, as a function of the path that a runner chooses. Equal functions do the same."""

    @property
    def order(self) -> GradientOrder:
        """How much of the inner loop the function differentiates through."""

    @property
    def unrolled_steps(self) -> int | None:
        """How many of the last inner steps it differentiates through to that order; None for all of them."""

    def __call__(self, path: ScoredPath) -> Any:
        """Tensors, in tuples, lists and dictionaries."""


@runtime_checkable
class CountingFunction(PathFunction, Protocol):
    """A function to which a task adds nothing whose score is 0 and whose fast weights are the leaves.

    So more tasks may be run than there are: those that only fill up repeat others, and do not count.
    """

    def of_first(self, made: Any, tasks: int) -> Any:
        """What it makes of the first tasks alone, from what it made of all where the others do not count."""


def comparable(function: PathFunction) -> Any:
    """A function as a part of a key: by its value if it has a hash, else by identity."""
    try:
        hash(function)
    except TypeError:
        return Same(function)
    return function


def cut(value: Tensor, order: GradientOrder) -> Tensor:
    """A fast weight, off its graph where nothing is to be differentiated through it."""
    return value.detach().requires_grad_() if order is GradientOrder.NONE else value
