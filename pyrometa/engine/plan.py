"""How each parameter is held while tasks adapt side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrometa.engine.linear import BatchMode, Call, NotLinearError
from pyrometa.engine.problem import Problem
from pyrometa.inner import SGD
from pyrometa.types import Data, Params, TaskData

_CACHE = 2 * 2**20  # bytes


@dataclass(frozen=True)
class Plan:
    """The choice for each adapted parameter, and why.

    Attributes:
        low_rank: weights of linear layers whose fast weights are held as factors.
        reasons: one line for each adapted parameter.
        support_calls: calls of low-rank layers in the support loss, in order.
    """

    low_rank: tuple[str, ...]
    reasons: dict[str, str]
    support_calls: tuple[Call, ...]

    def rate(self, problem: Problem, name: str, step: int) -> float | Tensor:
        """The rule's rate of a low-rank weight at an inner step."""
        rule = problem.rule
        if not isinstance(rule, SGD):
            raise TypeError(f"low-rank fast weights need SGD, got {type(rule).__name__}")
        return rule.rate(name, problem.learned, step)


def make_plan(problem: Problem, task: TaskData, tasks: int, low_rank: bool | Literal["auto"]) -> Plan:
    """Choose by running the program once on one task, drawing nothing from the global generator.

    Args:
        problem: what adapts, and how.
        task: a task of the shape to plan for.
        tasks: how many run side by side.
        low_rank: ``"auto"`` holds factors where that pays, True wherever it is exact, False nowhere.
    """
    reasons = dict.fromkeys(problem.adapted, "dense: not the weight of a linear layer")
    if low_rank is False:
        return Plan((), dict.fromkeys(reasons, "dense: low_rank=False"), ())
    candidates = {name: p for name, p in problem.adapted.items() if p.dim() == 2}
    if not isinstance(problem.rule, SGD) or problem.rule.learn == "parameter":
        return Plan((), dict.fromkeys(reasons, "dense: the rule scales each element by itself"), ())
    while candidates:
        try:
            calls = _calls(problem, candidates, task)
        except NotLinearError as error:
            reasons[error.name] = f"dense: used by {error.operation}"
            del candidates[error.name]
            continue
        ranks = {n: sum(call.rank(problem.steps) for call in calls if call.name == n) for n in candidates}
        high = {
            n
            for n, rank in ranks.items()
            if rank == 0 or (low_rank == "auto" and not _pays(candidates[n], rank, tasks))
        }
        for name in high:
            reasons[name] = f"dense: rank {ranks[name]} is past what pays" if ranks[name] else "dense: not in use"
            del candidates[name]
        if not high:
            reasons |= {n: f"low-rank: rank {ranks[n]}" for n in candidates}
            return Plan(tuple(candidates), reasons, tuple(calls))
    return Plan((), reasons, ())


def _calls(problem: Problem, weights: Params, task: TaskData) -> list[Call]:
    """Calls of the layers in the support loss; the score is run too, for the uses in it."""
    placeholders = {n: torch.full_like(w, torch.nan).requires_grad_() for n, w in weights.items()}

    def run(data: Data, *, score: bool) -> list[Call]:
        arguments = [arg for arg in data.args if isinstance(arg, Tensor)]
        mode = BatchMode((), {id(p) for p in placeholders.values()}, weights, placeholders, {}, None, arguments)
        with torch.random.fork_rng(), torch.no_grad():
            problem.program.batched(placeholders, data, mode, score=score)
        return mode.calls

    run(task.query, score=True)
    return run(task.support, score=False)


def _pays(weight: Tensor, rank: int, tasks: int) -> bool:
    """Two thin products against one dense product a task, and a matrix a task to write and read again.

    Dense wins past twice the rank of equal work where all tasks' matrices fit in the cache, and past four times that
    where they do not (measured on one core over layers from 100x100 to 784x200, 5 to 50 rows).
    """
    out, into = weight.shape
    in_cache = tasks * weight.numel() * weight.element_size() < _CACHE
    return rank < (2 if in_cache else 4) * into * out / (into + out)
