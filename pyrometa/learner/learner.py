"""The state of a MetaSVI from first data on: the program, what adapts, what is learned, and by which optimiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pyrometa.atomic.untouched import left_alone
from pyrometa.elbos import StickingTheLanding_ELBO
from pyrometa.engine import Problem
from pyrometa.engine.problem import by_public_name
from pyrometa.errors import CheckpointError
from pyrometa.explain.reasons import naming_lines
from pyrometa.inner import GradientOrder, LossRule, Newton, Rule
from pyrometa.learner.arguments import Argument, GivenTasks, Kwargs, Ranks, by_shape, check_ranks, read_tasks
from pyrometa.learner.bound_rules import BoundRules
from pyrometa.learner.differences import differences, other_constraints
from pyrometa.noise.options import Noise
from pyrometa.noise.task_batches import Drawing, with_noise
from pyrometa.outer import Implicit, MetaGradient, OuterOptimizer
from pyrometa.program.constants import constants
from pyrometa.program.constraints import constraints_of
from pyrometa.program.discovery import look_again
from pyrometa.program.guards import second_order
from pyrometa.program.guards.backward import check_backward
from pyrometa.program.guards.local_rows import check_rows
from pyrometa.program.guards.reach import check_reach
from pyrometa.program.pickled import own
from pyrometa.program.program import Program
from pyrometa.types import Data, Params, TaskBatch

Guard: TypeAlias = Callable[[Program, Data, Sequence[str]], None]
"""Refuses a program on some data, by the names of what adapts."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A learner's state in a file.

    Attributes:
        path: the file.
        state: what it holds.
    """

    path: str
    state: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Learner:
    """All that first data decide.

    Attributes:
        program: the pure loss.
        guard: what it has to pass in each mode, besides what every program has to.
        leaves: its parameters that learn, by name: the user's own tensors.
        adapted: names of those that adapt.
        learned: what the inner rule learns, by the rule's own names.
        optimizer: updates both.
        ranks: the ranks of the tensors that a task holds.
        rules: inner rules as they run on the program.
    """

    program: Program
    guard: Guard
    leaves: Params
    adapted: tuple[str, ...]
    learned: Params
    optimizer: OuterOptimizer
    ranks: Ranks
    rules: BoundRules

    def known(self) -> Learner:
        """This learner: the parameters are known."""
        return self

    def read(self, name: str, given: Argument, kwargs: Kwargs) -> GivenTasks:
        """The tasks of an argument; errors as of :func:`pyrometa.learner.arguments.read_tasks`."""
        return read_tasks(name, given, kwargs)

    def started(self, data: Data, rule: Rule, steps: int, meta_gradient: MetaGradient) -> Learner:
        """This learner, after the guards have looked at the program's mode, if it is a new one.

        Raises:
            ReachError, UnsupportedProgramError, ValueError: what first data may raise too.
        """
        program = self.program
        self.rules.see(rule, program, data, self.adapted)
        if not program.guarded.enter(program.begin()):
            with naming_lines(program), left_alone(program):
                look_again(program, data)
                guard_program(program, data, self._adapting(), self.guard)
            program.guarded.let_pass(program.begin())
        check_rule(rule, program, self._adapting(), data)
        return self

    def check_ranks(self, support: Data) -> None:
        """Refuse a task whose arguments have other ranks than first data's.

        Raises:
            ValueError: naming the argument, both ranks and the cure.
        """
        check_ranks("support", support, self.ranks, "the first meta-batch")

    def problem(self, rule: Rule, steps: int) -> Problem:
        """Adaptation as it is now: a leaf that was frozen since first data takes no part."""
        leaves = {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}
        adapted = self._adapting()
        if steps:
            rule = self.rules.of(rule, frozenset(self.adapted).difference(adapted))
        return Problem(self.program, rule, adapted, leaves, self.learned, steps)

    def _adapting(self) -> tuple[str, ...]:
        return tuple([name for name in self.adapted if self.leaves[name].requires_grad])

    def check_rows(self, supports: GivenTasks, queries: GivenTasks) -> None:
        """Refuse to score variational parameters of the support set's rows on other rows.

        Raises:
            UnsupportedProgramError: naming the sites and the cure.
        """
        with naming_lines(self.program):
            check_rows(self.program.found.local_sites, supports, queries)

    def tasks(
        self, supports: GivenTasks, queries: GivenTasks, steps: int, meta_gradient: MetaGradient, noise: Noise
    ) -> list[TaskBatch]:
        """The tasks of one shape side by side, with the noise of all their evaluations.

        Raises:
            UnsupportedProgramError, ValueError: the points of the noise do not suit the program.
        """
        groups = by_shape(supports, queries)
        points = partial(self.program.points, noise.points)
        one_noise = noise.shared or meta_gradient.one_noise
        with naming_lines(self.program):
            return with_noise(groups, self.program.tape, points, steps, one_noise=one_noise)

    def drawing(self, tasks: TaskBatch, steps: int, meta_gradient: MetaGradient, noise: Noise) -> Drawing:
        """How the noise of tasks was drawn by :meth:`tasks`."""
        support, query = tasks.support.first, tasks.query.first
        drawn = [
            (self.program.tape(*data), self.program.points(noise.points, *data))
            for data in ((support,), (query, support))
        ]
        return Drawing(len(tasks), steps, noise.shared or meta_gradient.one_noise, *drawn)

    def parameters(self) -> Params:
        """All that the outer loop learns by public name, what was frozen since first data too."""
        return {**self.leaves, **by_public_name(self.learned)}

    def constants(self) -> Params:
        """What the program computes with and the outer loop does not learn, by public name."""
        return constants(self.program, self.leaves)

    def state_dict(self) -> dict[str, Any]:
        """All that the outer loop has learned, its optimiser's state, and what the program has besides, by name."""
        optimizer = self.optimizer.state_dict()
        parameters, besides = (
            {name: tensor.detach().clone() for name, tensor in tensors.items()}
            for tensors in (self.parameters(), self.constants())
        )
        told = constraints_of(self.program.leaves)
        return {"parameters": parameters, "optimizer": optimizer, "constraints": told, "constants": besides}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`; the leaves keep their identity.

        Raises:
            ValueError: names, shapes, dtypes, constraints or the optimiser's class differ; nothing was changed.
        """
        leaves, besides = self.parameters(), self.constants()
        missing = [part for part in ("parameters", "optimizer") if part not in state]
        if missing:
            raise ValueError(f"the state lacks {' and '.join(missing)}: give what meta.state_dict() returned")
        given, others = state["parameters"], state.get("constants", besides)
        different = differences(leaves, besides, given, others)
        if different:
            raise ValueError(f"the state is of another program: {different}")
        own = constraints_of(self.program.leaves)
        if constrained := other_constraints(own, state.get("constraints", own)):
            raise ValueError(f"the state is {constrained}")
        moved = {name: besides[name] for name, value in others.items() if not _same(besides[name], value)}
        with self.optimizer.undone_on_error(moved.values()), torch.no_grad():
            self.optimizer.load_state_dict(state["optimizer"])
            for name, leaf in leaves.items():
                leaf.copy_(given[name])
            for name, tensor in moved.items():
                tensor.copy_(others[name])

    def after(self, checkpoint: Checkpoint) -> Learner:
        """This learner, in the state of a checkpoint.

        Raises:
            CheckpointError: it is of another program; nothing was changed.
        """
        try:
            self.load_state_dict(checkpoint.state)
        except ValueError as error:
            raise CheckpointError(f"{checkpoint.path} does not suit this MetaSVI: {error}") from None
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        own([*self.learned.values(), *self.optimizer.tensors()])


def _same(held: Tensor, given: Tensor) -> bool:
    return held.dtype == given.dtype and torch.equal(held.cpu(), given.cpu())


def check_grad_mode() -> None:
    """Refuse to adapt where torch takes no gradients.

    Raises:
        ValueError: with the cure.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("adaptation takes gradients, at meta-test as well: leave torch.inference_mode()")


def guard_program(program: Program, data: Data, adapted: Sequence[str], guard: Guard) -> None:
    """Refuse a program in its present mode that fast weights do not reach, or not in the backward pass.

    Raises:
        ReachError, UnsupportedProgramError, ValueError: naming the parameters and the cure.
    """
    check_backward(program, data, adapted)
    check_reach(program, data, adapted)
    guard(program, data, adapted)


def check_rule(rule: Rule, program: Program, adapted: Sequence[str], data: Data) -> None:
    """Refuse a rule that takes the loss's second derivatives, by what adapts, where these are not right.

    Raises:
        UnsupportedProgramError: naming the site and the cure.
        ValueError: of the loss.
    """
    if isinstance(rule, LossRule):
        if isinstance(program.elbo, StickingTheLanding_ELBO):
            raise ValueError(
                f"{type(rule).__name__} lowers a loss, and the gradient of StickingTheLanding_ELBO is that of no "
                "function: use loss=Trace_ELBO()"
            )
        cure = f"use another inner rule than {type(rule).__name__}, which takes second derivatives at every step"
        with naming_lines(program):
            second_order.check(program, adapted, data, cure, by=adapted)


def check_meta_gradient(meta_gradient: MetaGradient, problem: Problem, data: Data) -> None:
    """Refuse to differentiate through what has no right derivative of the order asked for.

    Raises:
        UnsupportedProgramError: of the program on these data.
        ValueError: of the rule.
    """
    if not problem.steps:
        return
    meta_gradient.check(problem.rule, problem.learned, problem.steps)
    if isinstance(meta_gradient, Implicit) and isinstance(problem.program.elbo, StickingTheLanding_ELBO):
        raise ValueError(
            "Implicit() needs a loss with a minimum, and the gradient of StickingTheLanding_ELBO is that of no "
            "function: use loss=Trace_ELBO(), or meta_gradient=Unrolled()"
        )
    if meta_gradient.order is GradientOrder.SECOND:
        if isinstance(problem.rule, Newton) and meta_gradient.unrolled_steps != 0:
            problem.rule.check_exact(sum(problem.leaves[name].numel() for name in problem.adapted))
        with naming_lines(problem.program):
            second_order.check(problem.program, problem.adapted, data)
