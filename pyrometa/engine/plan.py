"""How each parameter is held while tasks adapt side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.engine.bundles import Bundle, bundles
from pyrometa.engine.low_rank import BatchMode, Call, NotLinearError
from pyrometa.engine.problem import Problem
from pyrometa.inner import SGD
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
    """

    low_rank: tuple[str, ...]
    reasons: dict[str, str]
    support_calls: tuple[Call, ...]
    dense: tuple[Bundle, ...]

    def rate(self, problem: Problem, name: str, step: int) -> float | Tensor:
        """The rule's rate of a low-rank weight at an inner step."""
        return _sgd(problem).rate(name, problem.learned, step)

    def rates(self, problem: Problem, bundle: Bundle, step: int) -> float | Tensor:
        """The rule's rates of parameters that are held end to end, shape ``()`` or ``(size,)``."""
        rule = _sgd(problem)
        if rule.learn == "rate" or not (rule.learn or isinstance(rule.lr, Mapping)):
            return rule.rate(bundle.names[0], problem.learned, step)
        rates = {
            name: torch.as_tensor(rule.rate(name, problem.learned, step)).to(problem.leaves[name]).expand(shape)
            for name, shape in zip(bundle.names, bundle.shapes, strict=True)
        }
        return bundle.packed(rates)


def _sgd(problem: Problem) -> SGD:
    if not isinstance(problem.rule, SGD):
        raise TypeError(f"one rate a layer is known of SGD, not of {type(problem.rule).__name__}")
    return problem.rule


def make_plan(problem: Problem, tasks: TaskBatch, low_rank: bool | Literal["auto"]) -> Plan:
    """Choose by running the program once on one task, drawing nothing from the global generator.

    Args:
        problem: what adapts, and how.
        tasks: those that run side by side.
        low_rank: ``"auto"`` holds factors where that pays, True wherever it is exact, False nowhere.
    """
    reasons = dict.fromkeys(problem.adapted, "dense: not the weight of a linear layer")
    if low_rank is False:
        return _all_dense(problem, dict.fromkeys(reasons, "dense: low_rank=False"))
    if not isinstance(problem.rule, SGD) or problem.rule.learn == "parameter":
        return _all_dense(problem, dict.fromkeys(reasons, "dense: the rule scales each element by itself"))
    candidates = {name: problem.leaves[name] for name in problem.adapted if problem.leaves[name].dim() == 2}
    while candidates:
        try:
            calls = _calls(problem, candidates, tasks.support[0], tasks.query[0])
        except NotLinearError as error:
            reasons[error.name] = f"dense: used by {error.operation}"
            del candidates[error.name]
            continue
        ranks = {n: sum(call.rank(problem.steps) for call in calls if call.name == n) for n in candidates}
        high = {
            n
            for n, rank in ranks.items()
            if rank == 0 or (low_rank == "auto" and not _pays(candidates[n], rank, len(tasks)))
        }
        for name in high:
            reasons[name] = f"dense: rank {ranks[name]} is past what pays" if ranks[name] else "dense: not in use"
            del candidates[name]
        if not high:
            reasons |= {n: f"low-rank: rank {ranks[n]}" for n in candidates}
            return Plan(tuple(candidates), reasons, tuple(calls), _dense(problem, candidates))
    return _all_dense(problem, reasons)


def _all_dense(problem: Problem, reasons: dict[str, str]) -> Plan:
    return Plan((), reasons, (), _dense(problem, ()))


def _dense(problem: Problem, low_rank: Collection[str]) -> tuple[Bundle, ...]:
    return bundles(problem.program.leaves[name] for name in problem.adapted if name not in low_rank)


def _calls(problem: Problem, weights: Params, support: Data, query: Data) -> list[Call]:
    """Calls of the layers in the support loss; the score is run too, for the uses in it."""
    placeholders = {n: torch.full_like(w, torch.nan).requires_grad_() for n, w in weights.items()}

    def run(data: Data, given: Data | None = None) -> list[Call]:
        arguments = nest.tensors(data.args)
        mode = BatchMode((), {id(p) for p in placeholders.values()}, weights, placeholders, {}, None, arguments)
        with torch.random.fork_rng(), torch.enable_grad():
            problem.program.batched(placeholders, data, mode, support=given)
        return mode.calls

    run(query, support)
    return run(support)


def _pays(weight: Tensor, rank: int, tasks: int) -> bool:
    """Two thin products against one dense product a task, and a matrix a task to write and read again.

    Dense wins past twice the rank of equal work where all tasks' matrices fit in the cache, and past four times that
    where they do not (measured on one core over layers from 100x100 to 784x200, 5 to 50 rows).
    """
    out, into = weight.shape
    in_cache = tasks * weight.numel() * weight.element_size() < _CACHE
    return rank < (2 if in_cache else 4) * into * out / (into + out)
