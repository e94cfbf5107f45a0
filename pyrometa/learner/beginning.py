"""The state of a MetaSVI before first data: what the user gave."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NoReturn

from torch import Tensor

from pyrometa.engine.problem import by_public_name
from pyrometa.errors import NotInitializedError
from pyrometa.explain.reasons import naming_lines
from pyrometa.inner import Rule
from pyrometa.learner.arguments import Argument, GivenTasks, Kwargs, ranks, read_tasks
from pyrometa.learner.bound_rules import BoundRules
from pyrometa.learner.learner import Checkpoint, Guard, Learner, check_rule, guard_program
from pyrometa.outer import MetaGradient, Optim, OuterOptimizer
from pyrometa.outer.optimizer import check_optim
from pyrometa.program.discovery import discover
from pyrometa.program.given import Given
from pyrometa.program.guards.arguments import check_call, check_list
from pyrometa.program.program import Program
from pyrometa.program.selection import Selection, select
from pyrometa.types import Data, Params


def check_instances(**options: object) -> None:
    """Refuse a class in the place of what it makes, which may well be callable and fail only later.

    Raises:
        TypeError: naming the argument, with the cure.
    """
    for name, option in options.items():
        if isinstance(option, type):
            raise TypeError(f"{name} is the class {option.__name__} itself: give one of it, {option.__name__}(...)")


@dataclass(frozen=True, eq=False)
class Beginning:
    """What the user gave, from which first data make a :class:`Learner`.

    Attributes:
        program: model, guide and loss.
        guard: what the program has to pass, besides what every program has to.
        adapt: what adapts.
        optim: what the optimiser is made from.
        awaited: a checkpoint that the learner is to take over.

    Raises:
        TypeError: an ``optim`` that no optimiser can be made from.
    """

    program: Given
    guard: Guard
    adapt: Selection
    optim: Optim
    awaited: Checkpoint | None = None

    def __post_init__(self) -> None:
        check_optim(self.optim)

    def known(self) -> NoReturn:
        """Refuse to tell what is known from first data on.

        Raises:
            NotInitializedError: with the cure.
        """
        raise NotInitializedError(
            "the parameters are not known before first data: call meta.init(support) with a meta-batch first"
        )

    def read(self, name: str, given: Argument, kwargs: Kwargs) -> GivenTasks:
        """The tasks of an argument that is first data.

        Raises:
            TypeError: a list that may as well be the model's arguments.
            TypeError, ValueError: as of :func:`pyrometa.learner.arguments.read_tasks`.
        """
        check_list(self.program.model, name, given)
        return read_tasks(name, given, kwargs)

    def started(self, data: Data, rule: Rule, steps: int, meta_gradient: MetaGradient) -> Learner:
        """Find the parameters on first data, and prove that fast weights reach the program.

        Args:
            data: the first task.
            rule: the inner rule.
            steps: number of inner steps K.
            meta_gradient: how the outer loop learns.

        Raises:
            ReachError: the program reads an adapted parameter from where fast weights do not reach.
            UnsupportedProgramError: a part of the program that can't be differentiated rightly.
            TypeError, ValueError: bad data, a guide that misses a site, nothing that adapts or learns.
            CheckpointError: the awaited checkpoint is of another program.
        """
        with naming_lines(self.program):
            check_call(self.program.model, data)
            program = discover(self.program, data)
        with naming_lines(program):
            adapted = self._adapted(program, steps)
            guard_program(program, data, adapted, self.guard)
            check_rule(rule, program, adapted, data)
            leaves = {name: leaf.tensor for name, leaf in program.leaves.items() if leaf.trainable}
            rules = BoundRules()
            if steps:
                rules.see(rule, program, data, adapted)
            learned = _learned(rules.of(rule), {name: leaves[name] for name in adapted}, steps, meta_gradient)
            optimizer = OuterOptimizer(self.optim, leaves, by_public_name(learned), rule.outer_lr)
        program.guarded.let_pass(program.modes())
        learner = Learner(program, self.guard, leaves, adapted, learned, optimizer, ranks(data), rules)
        return learner if self.awaited is None else learner.after(self.awaited)

    def after(self, checkpoint: Checkpoint) -> Beginning:
        """The same, to take over a checkpoint on first data."""
        return replace(self, awaited=checkpoint)

    def _adapted(self, program: Program, steps: int) -> tuple[str, ...]:
        adapted = select(self.adapt, program.leaves)
        if steps and not adapted:
            raise ValueError(
                f"adapt={self.adapt!r} leaves nothing to adapt: the program's parameters are "
                f"{', '.join(program.leaves) or '(none)'}; choose some of them, or steps=0"
            )
        return adapted


def _learned(rule: Rule, start: Params, steps: int, meta_gradient: MetaGradient) -> Params:
    """What a rule learns; a parameter that is the user's own, as of a learn2learn wrapper, is learned in place."""
    if not steps:
        return {}
    learned = rule.learned(start, steps)
    meta_gradient.check(rule, learned, steps)
    return {name: _leaf(value) for name, value in learned.items()}


def _leaf(value: Tensor) -> Tensor:
    return value if value.requires_grad else value.detach().requires_grad_()
