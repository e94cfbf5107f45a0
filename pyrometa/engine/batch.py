"""Many tasks side by side, in one vectorised pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from pyrometa.engine.linear import BatchMode, Factors, Product, StalePlanError
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, cut
from pyrometa.inner import Order
from pyrometa.types import Data, Params, TaskData


@dataclass(frozen=True)
class Point:
    """Fast weights of all tasks, with a leading task dimension.

    Attributes:
        dense: one tensor a task.
        factors: low-rank updates of the weights of linear layers, ``(A, H)`` of shapes ``(tasks, rank, out)`` and
            ``(tasks, rank, in)``, a pair for each set of rows.
        products: products of the support set with the leaves, which no step changes.
        state: the rule's state.
    """

    dense: Params
    factors: Mapping[str, tuple[Factors, ...]]
    products: Mapping[Product, Tensor]
    state: Any


@dataclass(frozen=True)
class Seen:
    """What one evaluation leaves for the step: the inputs of the low-rank layers, and the products."""

    inputs: list[Tensor]
    products: dict[Product, Tensor]


@dataclass
class BatchPath:
    """Tasks of one shape, each on its own fast weights, evaluated together by ``vmap``."""

    problem: Problem
    batch: Sequence[TaskData]
    order: Order
    plan: Plan
    tasks: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = [task.index for task in self.batch]
        self._support = _stacked([task.support for task in self.batch])
        self._query = _stacked([task.query for task in self.batch])
        self._support_noise = _columns([task.support_noise for task in self.batch])
        self._query_noise = _columns([task.query_noise for task in self.batch])
        self._weights = {name: cut(self.problem.adapted[name], self.order) for name in self.plan.low_rank}
        self._placeholders = {n: torch.full_like(w, torch.nan).requires_grad_() for n, w in self._weights.items()}

    def start(self) -> Point:
        """Every task at the leaves, which are shared and not copied."""
        start = self.problem.start(self.order)
        dense = {n: p.expand(len(self.batch), *p.shape) for n, p in start.items() if n not in self._weights}
        return Point(dense, {}, {}, self.problem.rule.init(dense))

    def loss(self, point: Point, step: int) -> tuple[Tensor, Params, Seen]:
        """Support losses; the dense fast weights and the linear layers' probes; the layers' inputs."""
        calls = self.plan.support_calls
        probes = [
            next(iter(self._weights.values())).new_zeros(len(self.batch), *call.shape).requires_grad_()
            for call in calls
        ]
        noise = [draw[:, step] for draw in self._support_noise]
        losses, inputs, products = self._evaluate(point, self._support, noise, probes, point.products, score=False)
        named = {f"{call.name} (call {i})": probe for i, (call, probe) in enumerate(zip(calls, probes, strict=True))}
        return losses, {**named, **point.dense}, Seen(inputs, products)

    def move(self, point: Point, grads: Mapping[str, Tensor], step: int, seen: Seen) -> Point:
        """One step of the rule on the dense weights, and one more set of factors for the others."""
        deltas = list(grads.values())[: len(seen.inputs)]
        dense_grads = dict(list(grads.items())[len(seen.inputs) :])
        dense, state = self.problem.rule.update(point.dense, dense_grads, point.state, self.problem.learned, step)
        factors = dict(point.factors)
        for call, delta, x in zip(self.plan.support_calls, deltas, seen.inputs, strict=True):
            rate = self.plan.rate(self.problem, call.name, step)
            if self.order is not Order.SECOND:
                x = x.detach()
            a, h = (-rate * delta).flatten(1, -2), x.flatten(1, -2)
            if self.order is Order.NONE:
                a = a.detach()
            factors[call.name] = _added(factors.get(call.name, ()), a, h)
        return Point({n: cut(v, self.order) for n, v in dense.items()}, factors, seen.products, state)

    def score(self, point: Point) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``."""
        with torch.set_grad_enabled(self.order is not Order.NONE):
            return self._evaluate(point, self._query, self._query_noise, None, {}, score=True)[0]

    def fast_weights(self, point: Point) -> list[Params]:
        """The fast weights of each task, factors multiplied out."""
        fast = dict(point.dense)
        for name, weight in self._weights.items():
            update = sum(a.mT @ h for a, h in point.factors.get(name, ()))
            fast[name] = (weight + update).expand(len(self.batch), *weight.shape)
        return [{n: fast[n][i] for n in self.problem.adapted} for i in range(len(self.batch))]

    def _evaluate(
        self,
        point: Point,
        data: Data,
        noise: Sequence[Tensor],
        probes: Sequence[Tensor] | None,
        products: Mapping[Product, Tensor],
        *,
        score: bool,
    ) -> tuple[Tensor, list[Tensor], dict[Product, Tensor]]:
        factors = {
            name: (torch.cat([a for a, _ in pairs], 1), torch.cat([h for _, h in pairs], 1))
            for name, pairs in point.factors.items()
        }
        batched = [i for i, arg in enumerate(data.args) if isinstance(arg, Tensor)]
        args = [data.args[i] for i in batched]

        def one(
            dense: Params, factors: Any, probes: Any, noise: Any, args: Any, products: Any
        ) -> tuple[Tensor, list[Tensor], dict[Product, Tensor]]:
            fast = {**self._placeholders, **dense}
            ids = {id(value) for value in fast.values()}
            mode = BatchMode(noise, ids, self._weights, self._placeholders, factors or {}, probes, args, products)
            full = list(data.args)
            for i, arg in zip(batched, args, strict=True):
                full[i] = arg
            loss = self.problem.program.batched(fast, Data(tuple(full), data.kwargs), mode, score=score)
            if not score and tuple(mode.calls) != self.plan.support_calls:
                raise StalePlanError(f"{len(mode.calls)} calls of linear layers differ from the plan's")
            return loss, mode.inputs, mode.products

        given = (point.dense, factors, probes, list(noise), args, dict(products))
        in_dims = tuple(0 if part else None for part in given)
        return vmap(one, in_dims, randomness="different")(*given)


def _added(pairs: tuple[Factors, ...], a: Tensor, h: Tensor) -> tuple[Factors, ...]:
    """One more update; rows that are in already, such as the support set itself, only add to their ``A``."""
    for i, (known_a, known_h) in enumerate(pairs):
        if _same_memory(known_h, h):
            return (*pairs[:i], (known_a + a, known_h), *pairs[i + 1 :])
    return (*pairs, (a, h))


def _same_memory(left: Tensor, right: Tensor) -> bool:
    return (
        not (left.requires_grad or right.requires_grad)
        and left.data_ptr() == right.data_ptr()
        and left.shape == right.shape
        and left.stride() == right.stride()
    )


def _stacked(tasks: Sequence[Data]) -> Data:
    columns = zip(*(task.args for task in tasks), strict=True)
    args = tuple(torch.stack(column) if isinstance(column[0], Tensor) else column[0] for column in columns)
    return Data(args, tasks[0].kwargs)


def _columns(rows: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    return [torch.stack(column) for column in zip(*rows, strict=True)]
