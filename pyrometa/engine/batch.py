"""Many tasks side by side, in one vectorised pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from pyrometa import nest
from pyrometa.engine.low_rank import BatchMode, Factors, LeafProduct, StalePlanError
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, cut
from pyrometa.inner import SGD, GradientOrder, over_rows
from pyrometa.types import Data, Params, TaskBatch


@dataclass(frozen=True)
class Point:
    """Fast weights of all tasks, with a leading task dimension.

    Attributes:
        dense: parameters of one kind end to end, ``(tasks, size)`` for each kind of the plan.
        factors: low-rank updates of the weights of linear layers, ``(A, H)`` of shapes ``(tasks, rank, out)`` and
            ``(tasks, rank, in)``, a pair for each set of rows.
        products: products of the support set with the leaves, which no step changes.
        state: the rule's state.
    """

    dense: tuple[Tensor, ...]
    factors: Mapping[str, tuple[Factors, ...]]
    products: Mapping[LeafProduct, Tensor]
    state: Any


@dataclass(frozen=True)
class Seen:
    """What one evaluation leaves for the step: the inputs of the low-rank layers, and the products."""

    inputs: list[Tensor]
    products: dict[LeafProduct, Tensor]


def side_by_side(work: Callable[[Any], Any], path: BatchPath, *, thorough: bool = False) -> Any:
    """Do a work on tasks side by side, after which the program holds no tensor of all of them."""
    try:
        return work(path)
    finally:
        path.problem.program.mend_kept(thorough=thorough)


@dataclass
class BatchPath:
    """Tasks of one shape, each on its own fast weights, evaluated together by ``vmap``."""

    problem: Problem
    batch: TaskBatch
    order: GradientOrder
    plan: Plan
    unrolled_steps: int | None = None
    check_finite: bool = True
    tasks: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = self.batch.index
        self._weights = {name: cut(self.problem.leaves[name], self.order) for name in self.plan.low_rank}
        self._placeholders = {n: torch.full_like(w, torch.nan).requires_grad_() for n, w in self._weights.items()}

    def start(self) -> Point:
        """Every task at the leaves, which are shared and not copied."""
        start = self.problem.start(self.order)
        dense = tuple(bundle.packed(start).expand(len(self.batch), -1) for bundle in self.plan.dense)
        return Point(dense, {}, {}, self._rule_state(dense))

    def loss(self, point: Point, step: int) -> tuple[Tensor, Params, Seen]:
        """Support losses; the dense fast weights and the linear layers' probes; the layers' inputs."""
        calls = self.plan.support_calls
        probes = [
            next(iter(self._weights.values())).new_zeros(len(self.batch), *call.shape).requires_grad_()
            for call in calls
        ]
        noise = self.batch.support_noise[step]
        losses, inputs, products = self._evaluate(point, self.batch.support, noise, probes, point.products)
        variables = {
            f"{call.name} (call {i})": probe for i, (call, probe) in enumerate(zip(calls, probes, strict=True))
        }
        variables.update(
            (", ".join(bundle.names), flat) for bundle, flat in zip(self.plan.dense, point.dense, strict=True)
        )
        return losses, variables, Seen(inputs, products)

    def move(self, point: Point, grads: Mapping[str, Tensor], step: int, seen: Seen, order: GradientOrder) -> Point:
        """One step of the rule on the dense weights, and one more set of factors for the others."""
        found = list(grads.values())
        deltas, dense_grads = found[: len(seen.inputs)], found[len(seen.inputs) :]
        dense, state = self._moved(point, dense_grads, step)
        factors = dict(point.factors)
        for call, delta, x in zip(self.plan.support_calls, deltas, seen.inputs, strict=True):
            if order is not GradientOrder.SECOND:
                x = x.detach()
            a, h = (-self.plan.rate(self.problem, call.name, step) * delta).flatten(1, -2), x.flatten(1, -2)
            if order is GradientOrder.NONE:
                a = a.detach()
            factors[call.name] = _added(factors.get(call.name, ()), a, h)
        return Point(tuple(cut(flat, order) for flat in dense), factors, seen.products, state)

    def _moved(self, point: Point, grads: Sequence[Tensor], step: int) -> tuple[Sequence[Tensor], Any]:
        if isinstance(self.problem.rule, SGD):
            rates = (self.plan.rates(self.problem, bundle, step) for bundle in self.plan.dense)
            return [p - rate * g for p, rate, g in zip(point.dense, rates, grads, strict=True)], None
        update = self.problem.rule.update

        def one(params: Params, grads: Params, state: Any) -> tuple[Params, Any]:
            return update(params, grads, state, self.problem.learned, step)

        fast, state = over_rows(one, self._by_name(point.dense), self._by_name(grads), point.state)
        return [bundle.packed(fast) for bundle in self.plan.dense], state

    def _rule_state(self, dense: Sequence[Tensor]) -> Any:
        return over_rows(self.problem.rule.init, self._by_name(dense)) if dense else None

    def _by_name(self, dense: Sequence[Tensor]) -> Params:
        found: Params = {}
        for bundle, flat in zip(self.plan.dense, dense, strict=True):
            found.update(bundle.unpacked(flat))
        return found

    def score(self, point: Point) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``."""
        with torch.set_grad_enabled(self.order is not GradientOrder.NONE):
            return self._evaluate(point, self.batch.query, self.batch.query_noise, None, {}, self.batch.support)[0]

    def fast_weights(self, point: Point) -> Params:
        """The fast weights, each of shape ``(tasks, *parameter)``, factors multiplied out."""
        fast = self._by_name(point.dense)
        for name, weight in self._weights.items():
            update = sum(a.mT @ h for a, h in point.factors.get(name, ()))
            fast[name] = (weight + update).expand(len(self.batch), *weight.shape)
        return {name: fast[name] for name in self.problem.adapted}

    def _evaluate(
        self,
        point: Point,
        data: Data,
        noise: Sequence[Tensor],
        probes: Sequence[Tensor] | None,
        products: Mapping[LeafProduct, Tensor],
        support: Data | None = None,
    ) -> tuple[Tensor, list[Tensor], dict[LeafProduct, Tensor]]:
        factors = {
            name: (torch.cat([a for a, _ in pairs], 1), torch.cat([h for _, h in pairs], 1))
            for name, pairs in point.factors.items()
        }
        constrained: Params = {}
        for bundle, flat in zip(self.plan.dense, point.dense, strict=True):
            constrained.update(bundle.constrained(flat))

        def one(
            dense: Params, constrained: Params, factors: Any, probes: Any, noise: Any, sets: Any, products: Any
        ) -> tuple[Tensor, list[Tensor], dict[LeafProduct, Tensor]]:
            fast = {**self.problem.leaves, **self._placeholders, **dense}
            ids = {id(value) for value in (*self._placeholders.values(), *dense.values())}
            given = iter(sets)
            one_data = data.on(given)
            arguments = nest.tensors(one_data.args)
            mode = BatchMode(noise, ids, self._weights, self._placeholders, factors or {}, probes, arguments, products)
            one_support = support and support.on(given)
            loss = self.problem.program.batched(fast, one_data, mode, constrained, one_support)
            if support is None and tuple(mode.calls) != self.plan.support_calls:
                raise StalePlanError(f"{len(mode.calls)} calls of linear layers differ from the plan's")
            return loss, mode.inputs, mode.products

        sets = [*data.tensors(), *(support.tensors() if support else ())]
        given = (self._by_name(point.dense), constrained, factors, probes, list(noise), sets, dict(products))
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
