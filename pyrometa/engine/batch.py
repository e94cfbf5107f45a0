"""Many tasks side by side, in one vectorised pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from pyrometa import nest
from pyrometa.engine.batch_mode import BatchMode
from pyrometa.engine.descent import DescentStep, Velocity, empty_slots, slope_factors
from pyrometa.engine.low_rank import (
    FactoredLayers,
    Factors,
    LeafProduct,
    Pairs,
    Placeholders,
    StalePlanError,
)
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, cut
from pyrometa.inner import GradientOrder, LossRule, MomentumDescent, Rule, one_step, over_rows
from pyrometa.inner.adaptation import Look
from pyrometa.rewrites.gates import Gate, gated
from pyrometa.types import Data, Params, StepNoise, TaskBatch


@dataclass(frozen=True)
class BatchPoint:
    """Fast weights of all tasks, with a leading task dimension, in the form that the plan chose.

    Attributes:
        dense: parameters of one kind end to end, ``(tasks, size)`` for each kind of the plan.
        factors: low-rank updates of the weights of linear layers, ``(A, H)`` of shapes ``(tasks, rank, out)`` and
            ``(tasks, rank, in)``, a pair for each set of rows.
        products: of the low-rank leaves with the support set, kept since they are the same at every step.
        state: the rule's state, or what the engine keeps of one that is gradient descent.
    """

    dense: tuple[Tensor, ...]
    factors: Mapping[str, Pairs]
    products: Mapping[LeafProduct, Tensor]
    state: Any


@dataclass(frozen=True)
class Seen:
    """What a step needs of the evaluation before it.

    Attributes:
        inputs: the input of each call of a low-rank layer.
        products: as in :class:`BatchPoint`.
        gate: what is open from the step on.
    """

    inputs: list[Tensor]
    products: dict[LeafProduct, Tensor]
    gate: Gate


class Fast(NamedTuple):
    """Fast weights as one evaluation takes them, of all tasks or of one.

    Attributes:
        factors: the update of each low-rank weight, one pair.
        constrained: what the program sees for some of the dense parameters.
        dense: the other parameters by name.
    """

    factors: Mapping[str, Factors]
    constrained: Params
    dense: Params


def side_by_side(function: Callable[[Any], Any], path: BatchPath, *, thorough: bool = False) -> Any:
    """Compute a function of the path of tasks side by side.

    A program may keep tensors of its last run. When the function has returned, these are mended: each is the last
    task's, not vmap's wrapper around all tasks'.
    """
    try:
        return function(path)
    finally:
        path.problem.program.mend_kept(thorough=thorough)


@dataclass
class BatchPath:
    """Tasks of one shape, each on its own fast weights, evaluated together by ``vmap``.

    Where factors are ``in_slots`` they have the size of those after the last step at all of them.
    """

    problem: Problem
    batch: TaskBatch
    order: GradientOrder
    plan: Plan
    unrolled_steps: int | None = None
    check_finite: bool = True
    in_slots: bool = False
    tasks: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        self.tasks = self.batch.index
        self._low_rank = Placeholders({n: cut(self.problem.leaves[n], self.order) for n in self.plan.low_rank})

    @property
    def rule(self) -> Rule:
        """The inner rule."""
        return self.problem.rule

    @property
    def learned(self) -> Params:
        """What it learns."""
        return self.problem.learned

    @property
    def batched(self) -> bool:
        """Many gradients at once."""
        return True

    @property
    def held(self) -> tuple[str, ...]:
        """The dense parameters by kind."""
        return tuple(name for bundle in self.plan.dense for name in bundle.names)

    def start(self) -> BatchPoint:
        """Every task at the leaves, which are shared and not copied."""
        start = self.problem.start(self.order)
        dense = tuple(bundle.packed(start).expand(len(self.batch), -1) for bundle in self.plan.dense)
        factors = self._empty_slots() if self.in_slots else {}
        if self.plan.descent is not None:
            state: Any = Velocity(factors=factors if isinstance(self.plan.descent, MomentumDescent) else {})
        elif isinstance(self.rule, LossRule) or not dense:
            state = None
        else:
            state = over_rows(self.rule.init, self._by_name(dense))
        return BatchPoint(dense, factors, {}, state)

    def _empty_slots(self) -> Mapping[str, Pairs]:
        return empty_slots(self.plan.support_calls, self._low_rank.weights, len(self.batch), self.problem.steps)

    def loss(self, point: BatchPoint, step: int) -> tuple[Tensor, Params, Seen]:
        """The support losses; what to differentiate them by, probes and dense fast weights; what :meth:`move` needs."""

        def one(fast: Fast, noise: StepNoise, support: Data, probes: Any, products: Any) -> Any:
            layers = FactoredLayers(self._low_rank, fast.factors, probes, nest.tensors(support.args), products)
            loss = self._evaluated(fast, noise, layers, support)
            if tuple(layers.calls) != self.plan.support_calls:
                raise StalePlanError(f"{len(layers.calls)} calls of linear layers differ from the plan's")
            return loss, layers.inputs, layers.products

        probes, noise = self._probes(), self.batch.support_noise[step]
        with gated() as gate:
            losses, inputs, products = _each_task(
                one, self._fast(point), list(noise), self.batch.support, list(probes.values()), dict(point.products)
            )
        dense = {", ".join(bundle.names): flat for bundle, flat in zip(self.plan.dense, point.dense, strict=True)}
        return losses, {**probes, **dense}, Seen(inputs, products, gate)

    def move(
        self, point: BatchPoint, grads: Mapping[str, Tensor], step: int, seen: Seen, order: GradientOrder
    ) -> BatchPoint:
        """One step of the rule; of gradient descent, on the factors of low-rank weights too."""
        seen.gate.open()
        found = list(grads.values())
        deltas, slopes = found[: len(seen.inputs)], found[len(seen.inputs) :]
        if self.plan.descent is None:
            dense, state = self._moved_by_rule(point, slopes, step)
            factors = point.factors
        else:
            descent = DescentStep(self.plan.descent, self.problem, step)
            dense, velocity = descent.moved(self.plan.dense, point.dense, slopes, point.state)
            gradients = slope_factors(self.plan.support_calls, deltas, seen.inputs, order, in_slots=self.in_slots)
            factors, velocities = descent.added(point.factors, gradients, point.state, order)
            state = Velocity(velocity, velocities)
        return BatchPoint(tuple(cut(flat, order) for flat in dense), factors, seen.products, state)

    @torch.no_grad()
    def losses_at(self, rows: Tensor, step: int) -> Tensor:
        """The support losses of candidates, all at once: each is a task beside the others."""

        def one(fast: Fast, noise: StepNoise, support: Data) -> Tensor:
            layers = FactoredLayers(self._low_rank, fast.factors, None, nest.tensors(support.args), {})
            return self._evaluated(fast, noise, layers, support)

        flats = rows.flatten(0, 1).split([bundle.size for bundle in self.plan.dense], 1)
        likes = [self.problem.leaves[bundle.names[0]] for bundle in self.plan.dense]
        dense = tuple(flat.to(like.dtype) for flat, like in zip(flats, likes, strict=True))
        support = self.batch.support
        support = support.on(iter([_repeated(value, len(rows)) for value in support.tensors()]))
        noise = [_repeated(draw, len(rows)) for draw in self.batch.support_noise[step]]
        losses: Tensor = _each_task(one, self._fast(BatchPoint(dense, {}, {}, None)), noise, support)
        return losses.view(rows.shape[:2])

    def moved_to(self, variables: Sequence[Tensor], order: GradientOrder) -> BatchPoint:
        """Fast weights held densely."""
        return BatchPoint(tuple(cut(flat, order) for flat in variables), {}, {}, None)

    def stepped(self, point: BatchPoint, step: int, order: GradientOrder, look: Look) -> BatchPoint:
        """The point after a step."""
        return one_step(self, point, step, order, look)

    def score(self, point: BatchPoint) -> Tensor:
        """The query objective of each task, shape ``(tasks,)``; 0 of one that does not count."""

        def one(fast: Fast, noise: StepNoise, query: Data, support: Data) -> Tensor:
            layers = FactoredLayers(self._low_rank, fast.factors, None, nest.tensors(query.args), {})
            return self._evaluated(fast, noise, layers, query, support)

        with torch.set_grad_enabled(self.order is not GradientOrder.NONE):
            losses: Tensor = _each_task(
                one, self._fast(point), list(self.batch.query_noise), self.batch.query, self.batch.support
            )
        return losses if self.batch.counted is None else torch.where(self.batch.counted, losses, 0.0)

    def fast_weights(self, point: BatchPoint) -> Params:
        """The fast weights, each of shape ``(tasks, *parameter)``, factors multiplied out.

        Those of a task that does not count are the leaves, as if it had not moved.
        """
        fast = self._by_name(point.dense)
        for name, weight in self._low_rank.weights.items():
            update = sum(a.mT @ h for a, h in point.factors.get(name, ()))
            fast[name] = (weight + update).expand(len(self.batch), *weight.shape)
        return {name: self._counted(fast[name], self.problem.leaves[name]) for name in self.problem.adapted}

    def _counted(self, fast: Tensor, leaf: Tensor) -> Tensor:
        counted = self.batch.counted
        return fast if counted is None else torch.where(counted.view(-1, *(1,) * leaf.dim()), fast, leaf)

    def _evaluated(
        self, fast: Fast, noise: StepNoise, layers: FactoredLayers, data: Data, support: Data | None = None
    ) -> Tensor:
        """One task's loss on its data, or with a support set its score."""
        placeholders = layers.placeholders.tensors
        mode = BatchMode(noise, (*placeholders.values(), *fast.dense.values()), layers)
        held = {**self.problem.leaves, **placeholders, **fast.dense}
        return self.problem.program.batched(held, data, mode, fast.constrained, support)

    def _fast(self, point: BatchPoint) -> Fast:
        factors = {
            name: (torch.cat([a for a, _ in pairs], 1), torch.cat([h for _, h in pairs], 1))
            for name, pairs in point.factors.items()
        }
        constrained: Params = {}
        for bundle, flat in zip(self.plan.dense, point.dense, strict=True):
            constrained.update(bundle.constrained(flat))
        return Fast(factors, constrained, self._by_name(point.dense))

    def _by_name(self, dense: Sequence[Tensor]) -> Params:
        found: Params = {}
        for bundle, flat in zip(self.plan.dense, dense, strict=True):
            found.update(bundle.unpacked(flat))
        return found

    def _probes(self) -> Params:
        """Zeros, each of the shape ``(tasks, *output)`` of a call of a low-rank layer."""
        found: Params = {}
        for i, call in enumerate(self.plan.support_calls):
            zeros = self._low_rank.weights[call.name].new_zeros(len(self.batch), *call.shape)
            found[f"{call.name} (call {i})"] = zeros.requires_grad_()
        return found

    def _moved_by_rule(self, point: BatchPoint, slopes: Sequence[Tensor], step: int) -> tuple[Sequence[Tensor], Any]:
        support = self.batch.support

        def one(params: Params, grads: Params, state: Any, share: list[Tensor]) -> tuple[Params, Any]:
            rule = self.problem.rule_on(support.on(iter(share)))
            return rule.update(params, grads, state, self.problem.learned, step)

        given = (self._by_name(point.dense), self._by_name(slopes), point.state, support.tensors())
        fast, state = over_rows(one, *given)
        return [bundle.packed(fast) for bundle in self.plan.dense], state


def _repeated(value: Tensor, times: int) -> Tensor:
    """All tasks' tensors, again and again: ``(tasks, *shape)`` to ``(times * tasks, *shape)``."""
    return value.expand(times, *value.shape).flatten(0, 1)


def _each_task(function: Callable[..., Any], *given: Any) -> Any:
    """Call a function for all tasks by ``vmap``, with each task's share of what is given; a share of data is data."""

    def one(*shares: Any) -> Any:
        pairs = zip(given, shares, strict=True)
        return function(*(value.on(iter(share)) if isinstance(value, Data) else share for value, share in pairs))

    tensors = [value.tensors() if isinstance(value, Data) else value for value in given]
    in_dims = tuple(0 if part else None for part in tensors)
    return vmap(one, in_dims, randomness="different")(*tensors)
