"""How each parameter is held while tasks adapt side by side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrometa import generators, nest
from pyrometa.engine.batch_mode import BatchMode
from pyrometa.engine.bundles import Bundle, bundles
from pyrometa.engine.low_rank import Call, FactoredLayers, NotLinearError, Placeholders
from pyrometa.engine.problem import Problem
from pyrometa.inner import GeometricRule, GradientDescent, LossRule
from pyrometa.types import Data, Params, TaskBatch

_CACHE = 2 * 2**20  # bytes


@dataclass(frozen=True)
class Plan:
    """The choice for each adapted parameter, and why.

    Attributes:
        low_rank: weights of linear layers whose fast weights are held as factors.
        reasons: one line for each adapted parameter.
        support_calls: calls of low-rank layers in the support loss, in order.
        dense: the other parameters, by kind.
        descent: the rule, where it is gradient descent, so that the engine takes its steps; else None.
    """

    low_rank: tuple[str, ...]
    reasons: dict[str, str]
    support_calls: tuple[Call, ...]
    dense: tuple[Bundle, ...]
    descent: GradientDescent | None

    @property
    def grows(self) -> bool:
        """Whether each inner step adds rows to the factors, as layers do that are not on the data themselves."""
        return not all(call.on_data for call in self.support_calls)


def make_plan(problem: Problem, tasks: TaskBatch, low_rank: bool | Literal["auto"]) -> Plan:
    """Choose by running the program once on one task, drawing nothing from the global generator.

    All matrices that adapt are candidates for factors. The program is run on placeholders of them, and some are struck
    out: those that it uses otherwise than as the weight of a linear layer, those that it does not use, and those that
    so many rows reach that factors cost more. Then it is run again on the rest, until all of them stay.

    Args:
        problem: what adapts, and how.
        tasks: those that run side by side.
        low_rank: ``"auto"`` holds factors where that pays, True wherever it is exact, False nowhere.
    """
    descent = problem.rule if isinstance(problem.rule, GradientDescent) else None
    if low_rank is False:
        return _all_dense(problem, descent, "dense: low_rank=False")
    if isinstance(problem.rule, LossRule):
        return _all_dense(problem, descent, "dense: the rule moves all numbers of a task together")
    if isinstance(problem.rule, GeometricRule):
        return _all_dense(problem, descent, "dense: the rule moves the numbers of a Gaussian together")
    if descent is None or descent.one_rate_for == "element":
        return _all_dense(problem, descent, "dense: the rule scales each element by itself")
    reasons = dict.fromkeys(problem.adapted, "dense: not the weight of a linear layer")
    candidates = {name: problem.leaves[name] for name in problem.adapted if problem.leaves[name].dim() == 2}
    calls: Sequence[Call] = ()
    while candidates:
        calls, struck = _tried(problem, candidates, tasks, low_rank)
        reasons |= struck
        if not struck:
            break
        candidates = {name: weight for name, weight in candidates.items() if name not in struck}
    calls = [call for call in calls if call.name in candidates]
    reasons |= {name: f"low-rank: rank {_rank(problem, calls, name)}" for name in candidates}
    return Plan(tuple(candidates), reasons, tuple(calls), _dense(problem, candidates), descent)


def _all_dense(problem: Problem, descent: GradientDescent | None, reason: str) -> Plan:
    return Plan((), dict.fromkeys(problem.adapted, reason), (), _dense(problem, ()), descent)


def _dense(problem: Problem, low_rank: Collection[str]) -> tuple[Bundle, ...]:
    return bundles(problem.program.leaves[name] for name in problem.adapted if name not in low_rank)


def _tried(
    problem: Problem, candidates: Params, tasks: TaskBatch, low_rank: bool | Literal["auto"]
) -> tuple[Sequence[Call], dict[str, str]]:
    """The calls of the candidates' layers in the support loss, and the reasons why some are to be dense."""
    try:
        calls = _calls(problem, candidates, tasks.support[0], tasks.query[0])
    except NotLinearError as error:
        return (), {error.name: f"dense: used by {error.operation}"}
    struck = {}
    for name, weight in candidates.items():
        rank = _rank(problem, calls, name)
        if rank == 0:
            struck[name] = "dense: not in use"
        elif low_rank == "auto" and not _pays(weight, rank, len(tasks)):
            struck[name] = f"dense: rank {rank} is past what pays"
    return calls, struck


def _calls(problem: Problem, weights: Params, support: Data, query: Data) -> Sequence[Call]:
    """Calls of the layers in the support loss; the score is run as well, since it may use a weight otherwise.

    Raises:
        NotLinearError: a weight is used otherwise.
    """
    placeholders = Placeholders(weights)

    def run(data: Data, given: Data | None = None) -> Sequence[Call]:
        layers = FactoredLayers(placeholders, {}, None, nest.tensors(data.args), {})
        mode = BatchMode((), placeholders.tensors.values(), layers)
        with generators.forked(), torch.enable_grad():
            problem.program.batched(placeholders.tensors, data, mode, support=given)
        return layers.calls

    run(query, support)
    return run(support)


def _rank(problem: Problem, calls: Sequence[Call], name: str) -> int:
    """The rank of the weight's update after all inner steps."""
    return sum(call.rank(problem.steps) for call in calls if call.name == name)


def _pays(weight: Tensor, rank: int, tasks: int) -> bool:
    """Two thin products against one dense product a task, and a matrix a task to write and read again.

    Dense wins past twice the rank of equal work where all tasks' matrices fit in the cache, and past four times that
    where they do not (measured on one core over layers from 100x100 to 784x200, 5 to 50 rows).
    """
    out, into = weight.shape
    in_cache = tasks * weight.numel() * weight.element_size() < _CACHE
    return rank < (2 if in_cache else 4) * into * out / (into + out)
