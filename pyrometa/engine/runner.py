"""Run the tasks of one program the fastest way that gives what the loop over them gives."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.at_meta_test import FastWeights, FastWeightsAlong, Scores
from pyrometa.engine.attempt import SideBySideError, attempt
from pyrometa.engine.batch import BatchPath
from pyrometa.engine.batch_function import BatchFunction, title
from pyrometa.engine.data_rows import NotPaddableError
from pyrometa.engine.fallback import fall_back
from pyrometa.engine.family_runs import FamilyRuns, proved_padding
from pyrometa.engine.loop import TaskPath, one_by_one
from pyrometa.engine.options import Engine, is_recorded_now
from pyrometa.engine.padding import padded
from pyrometa.engine.plan import Plan
from pyrometa.engine.posterior_draws import PosteriorDraws, Values
from pyrometa.engine.problem import PathFunction, Problem
from pyrometa.engine.proved_plans import ProvedPlans
from pyrometa.engine.repeats import Repeats
from pyrometa.engine.report import EngineReport, report
from pyrometa.engine.set_apart import FastWeightsApart, one_by_one_apart, plan_of_good
from pyrometa.engine.trial import UnprovedError
from pyrometa.errors import NonFiniteError
from pyrometa.explain.reasons import told
from pyrometa.inner import GradientOrder, all_finite
from pyrometa.program.end_to_end_values import TaskValues, of_each_task
from pyrometa.recording.accounts import Account
from pyrometa.recording.recordings import Recordings
from pyrometa.types import Params, TaskBatch


class Runner:
    """Runs tasks of one program by some options, and keeps what it learns on the way: plans, and recordings.

    Args:
        options: how tasks are run.

    Attributes:
        repeats: the last run, as long as it may be replayed again.
    """

    def __init__(self, options: Engine) -> None:
        self._options = options
        self._plans = ProvedPlans(options)
        self._pads = True
        self._posterior: PosteriorDraws | None = None
        self._recordings = Recordings(eager=is_recorded_now(options), compiled=options.compile)
        self._families = FamilyRuns(options, self._plans, self._replayed)
        self.repeats = Repeats(self._recordings, self._families)

    def run(
        self, problem: Problem, groups: Sequence[TaskBatch], function: PathFunction
    ) -> Iterator[tuple[tuple[int, ...], Any]]:
        """Compute something of every task, some tasks at a time, so that a caller can add up and forget.

        Args:
            problem: what to adapt, and how; always of the same program.
            groups: the meta-batch, as tasks of one shape each.
            function: what to compute.

        Yields:
            The positions of some tasks in the meta-batch, and the function of them.
        """
        self.repeats.forget()
        of_family, records = self._families.run(problem, groups, function)
        if of_family is not None:
            yield from of_family
            return
        for group in self._batches(problem, groups, function.order):
            for batch in group.chunks(self._options.chunk_size):
                plan = self._plans.plan(problem, batch, function.order)
                result = None if plan is None else self._together(problem, batch, function, plan, records=records)
                if result is None:
                    yield from self._one_by_one(problem, batch, function)
                else:
                    yield batch.index, result
        self.repeats.check(groups)

    def _one_by_one(
        self, problem: Problem, batch: TaskBatch, function: PathFunction
    ) -> Iterator[tuple[tuple[int, ...], Any]]:
        started = time.perf_counter()
        yield from one_by_one(problem, batch, function)
        name, accounts = title(problem, batch, function), self._recordings.accounts
        if name not in accounts:
            accounts[name] = Account(name, why=self._plans.why_none(problem, batch, function.order))
        accounts[name].add("as it is", time.perf_counter() - started)

    def scores(self, problem: Problem, groups: Sequence[TaskBatch], at: Collection[int]) -> dict[int, Tensor]:
        """Query losses of shape ``(len(at),)`` after several numbers of inner steps, by position in the meta-batch."""
        losses: dict[int, Tensor] = {}
        for index, some in self.run(problem, groups, Scores(tuple(at))):
            losses.update(zip(index, some.unbind(1), strict=True))
        return losses

    def adapted(self, problem: Problem, groups: Sequence[TaskBatch]) -> list[TaskValues]:
        """Fast weights of each task after the last step, cut off from any graph."""
        found: dict[int, TaskValues] = {}
        for index, fast in self.run(problem, groups, FastWeights()):
            found.update(zip(index, of_each_task(fast, len(index)), strict=True))
        return [found[i] for i in range(len(found))]

    def adapted_along(self, problem: Problem, groups: Sequence[TaskBatch]) -> list[list[TaskValues]]:
        """Fast weights of each task before the first step and after each."""
        found: dict[int, list[TaskValues]] = {}
        for index, fast in self.run(problem, groups, FastWeightsAlong()):
            points = [of_each_task(point, len(index)) for point in _steps(fast)]
            found.update(zip(index, map(list, zip(*points, strict=True)), strict=True))
        return [found[i] for i in range(len(found))]

    def drawn(self, problem: Problem, batch: TaskBatch, draws: int, diverged: dict[int, str] | None = None) -> Values:
        """Draws from the adapted guides of tasks of one shape, ``(tasks, draws, *site)`` by latent site.

        Args:
            problem: what to adapt, and how.
            batch: the tasks.
            draws: how many a task.
            diverged: takes why a task diverges, whose draws are of the leaves then; None raises it.
        """
        if self._posterior is None:
            self._posterior = PosteriorDraws(problem.program, self._options)
        chunks = batch.chunks(self._options.chunk_size)
        parts = [part for chunk in chunks for part in self._fast_weights(problem, chunk, diverged)]
        fast = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return self._posterior(fast, batch.support, draws)

    def _fast_weights(self, problem: Problem, batch: TaskBatch, diverged: dict[int, str] | None) -> list[Params]:
        try:
            return [fast for _, fast in self.run(problem, [batch], FastWeights())]
        except NonFiniteError:
            if diverged is None:
                raise
        plan = plan_of_good(self._plans, problem, batch)
        if plan is not None:
            with suppress(SideBySideError):
                return [attempt(FastWeightsApart(diverged), BatchPath(problem, batch, FastWeightsApart.order, plan))]
        return [one_by_one_apart(problem, batch, diverged)]

    def plan(self, problem: Problem, groups: Sequence[TaskBatch]) -> dict[str, str]:
        """How each adapted parameter is held, and why: one line a parameter."""
        plan = self._plans.plan(problem, groups[0], FastWeights.order)
        return plan.reasons if plan else dict.fromkeys(problem.adapted, "dense: tasks are run one by one")

    def recordings(self) -> list[str]:
        """What was recorded so far: the number of operations, and the seconds it took, one line a recording."""
        return [str(recording) for recording in self._recordings.kept.values()]

    def state_dict(self) -> dict[str, Any]:
        """How often what was run, and what sizes came: what decides when it is run another way."""
        return {"counts": self._recordings.counts.state_dict(), "families": self._families.families.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self._recordings.counts.load_state_dict(state.get("counts", {}))
        self._families.families.load_state_dict(state.get("families", {}))
        self.repeats.forget()

    def accounts(self) -> list[Account]:
        """What there is to say of the runs."""
        return self._recordings.told()

    def _batches(self, problem: Problem, groups: Sequence[TaskBatch], order: GradientOrder) -> Sequence[TaskBatch]:
        """Tasks of different sizes padded to a few shapes, where that can be done; else size by size."""
        if len(groups) <= 1 or self._options.vectorize is False or not self._pads:
            return groups
        try:
            return self._padded(problem, groups, order)
        except UnprovedError:  # of these tasks, not of the program
            return groups
        except NotPaddableError as error:
            check_interrupt(error)
            self._pads = False
            reason = told(problem.program, error)
            fall_back(self._options, f"tasks of different sizes can't be padded: {reason}", "run size by size")
            return groups

    def _padded(self, problem: Problem, groups: Sequence[TaskBatch], order: GradientOrder) -> Sequence[TaskBatch]:
        batches = padded(problem.program, groups)
        for batch in batches:
            if len(batch) > 1:
                proved_padding(self._plans, problem, batch, order)
        return batches

    def _together(
        self, problem: Problem, batch: TaskBatch, function: PathFunction, plan: Plan, *, records: bool
    ) -> Any:
        """The function of tasks of one shape at once; None where they have to be run one by one."""
        try:
            return self._replayed_or_run(problem, batch, function, plan, records=records)
        except NonFiniteError as error:
            task = next(t for t in batch.tasks() if t.index == error.task)
            function(TaskPath(problem, task, function.order, function.unrolled_steps))  # raises, and says more
            raise
        except SideBySideError:
            pass  # the program is not what it was when the plan was proved
        return self._by_another_plan(problem, batch, function)

    def _replayed_or_run(
        self, problem: Problem, batch: TaskBatch, function: PathFunction, plan: Plan, *, records: bool
    ) -> Any:
        if not records:
            return _attempted(problem, batch, function, plan)
        run = BatchFunction(problem, batch, function, plan)
        result = self._replayed(run)
        if result is None:
            started = time.perf_counter()
            result = _attempted(problem, batch, function, plan)
            self._recordings.ran(run, None, time.perf_counter() - started)
        else:
            self.repeats.note(run)
        return result

    def _replayed(self, run: BatchFunction) -> Any:
        """What a recording gives; None without one, or where a task diverges, which a run can name."""
        recording = self._recordings.recording(run)
        if recording is None:
            return None
        started = time.perf_counter()
        result = self._recordings.replayed(recording, run)
        self._recordings.ran(run, recording, time.perf_counter() - started)
        return result if all_finite(nest.tensors(result)) else None

    def _by_another_plan(self, problem: Problem, batch: TaskBatch, function: PathFunction) -> Any:
        """The function by a plan made anew; None where that fails too, as in the precision of the program."""
        plan = self._plans.remade(problem, batch, function.order)
        if plan is None:
            return None
        try:
            return _attempted(problem, batch, function, plan)
        except NonFiniteError as error:
            reason = told(problem.program, error)
        except SideBySideError as error:
            reason = told(problem.program, error.raised)
        for task in batch.tasks():  # what fails by itself as well is a task's fault, and no plan's
            function(TaskPath(problem, task, function.order, function.unrolled_steps))
        self._plans.give_up(problem, batch, function.order, reason)
        fall_back(self._options, reason, "run one by one")
        return None


class Runners:
    """The runners of a MetaSVI, one for each engine that it was set to. A pickle or a copy starts with states only.

    Args:
        states: of runners, by the engine's options.
    """

    def __init__(self, states: Mapping[str, Any] | None = None) -> None:
        self._made: dict[Engine, Runner] = {}
        self._states: Mapping[str, Any] = states or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Runners, (self.state_dict(),)

    def by(self, options: Engine) -> Runner:
        """The runner by these options, with what it has learned so far."""
        if options not in self._made:
            runner = self._made[options] = Runner(options)
            runner.load_state_dict(self._states.get(repr(options), {}))
        return self._made[options]

    def recordings(self) -> list[str]:
        """One line for each recording."""
        return [line for runner in self._made.values() for line in runner.recordings()]

    def report(self) -> EngineReport:
        """What runs how."""
        return report(account for runner in self._made.values() for account in runner.accounts())

    def state_dict(self) -> dict[str, Any]:
        """What decides when runs go over, by the engine's options and labels that are the same in every process."""
        made = {repr(options): runner.state_dict() for options, runner in self._made.items()}
        return {**self._states, **{options: state for options, state in made.items() if any(state.values())}}

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Go on from other states."""
        self._states = states
        for options, runner in self._made.items():
            runner.load_state_dict(states.get(repr(options), {}))


def _attempted(problem: Problem, batch: TaskBatch, function: PathFunction, plan: Plan) -> Any:
    return attempt(function, BatchPath(problem, batch, function.order, plan, function.unrolled_steps))


def _steps(fast: Params) -> Iterator[Params]:
    """Fast weights of each step, from those of shape ``(tasks, steps, *parameter)``."""
    columns = zip(*(value.unbind(1) for value in fast.values()), strict=True)
    return (dict(zip(fast, column, strict=True)) for column in columns)
