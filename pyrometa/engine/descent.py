"""A step of gradient descent, on fast weights as they are held while tasks run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrometa.engine.bundles import Bundle
from pyrometa.engine.low_rank import Call, Pairs
from pyrometa.engine.pairs import Slots, detached, rows_of, scaled, total
from pyrometa.engine.problem import Problem
from pyrometa.inner import GradientDescent, GradientOrder, MomentumDescent


@dataclass(frozen=True)
class Velocity:
    """What momentum keeps of the gradients so far, in the form of the fast weights; empty without momentum.

    Attributes:
        dense: of parameters of one kind end to end, ``(tasks, size)`` for each kind of the plan.
        factors: of the weights of linear layers, pairs as theirs.
    """

    dense: tuple[Tensor, ...] = ()
    factors: Mapping[str, Pairs] = field(default_factory=dict)


@dataclass(frozen=True)
class DescentStep:
    """One inner step by a rule's rates.

    Attributes:
        rule: the rule whose rates they are.
        problem: the problem that the rule belongs to.
        step: which inner step, from 0.
    """

    rule: GradientDescent
    problem: Problem
    step: int

    def moved(
        self, bundles: Sequence[Bundle], dense: Sequence[Tensor], slopes: Sequence[Tensor], velocity: Velocity
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Dense parameters after the step, and their velocities.

        Args:
            bundles: the parameters, held end to end.
            dense: their values, each of shape ``(tasks, size)``.
            slopes: their gradients, each of shape ``(tasks, size)``.
            velocity: before the step.
        """
        velocities = self._velocities(slopes, velocity.dense)
        along = self._along(slopes, velocities)
        held = zip(bundles, dense, along, strict=True)
        return tuple(flat - self._rates(bundle) * slope for bundle, flat, slope in held), velocities

    def _velocities(self, slopes: Sequence[Tensor], before: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if not isinstance(self.rule, MomentumDescent):
            return ()
        if not before:
            return tuple(slopes)
        return tuple(self.rule.momentum * v + slope for v, slope in zip(before, slopes, strict=True))

    def _along(self, slopes: Sequence[Tensor], velocities: Sequence[Tensor]) -> Sequence[Tensor]:
        if not isinstance(self.rule, MomentumDescent):
            return slopes
        if not self.rule.nesterov:
            return velocities
        return [slope + self.rule.momentum * v for slope, v in zip(slopes, velocities, strict=True)]

    def added(
        self, factors: Mapping[str, Pairs], slopes: Mapping[str, Pairs], velocity: Velocity, order: GradientOrder
    ) -> tuple[Mapping[str, Pairs], Mapping[str, Pairs]]:
        """The factors of low-rank weights after the step, and of their velocities.

        Args:
            factors: those before, by weight.
            slopes: the factors of the gradients, by weight.
            velocity: before the step.
            order: how much of the step is differentiated through.
        """
        found, velocities = dict(factors), dict(velocity.factors)
        for name, slope in slopes.items():
            along = slope
            if isinstance(self.rule, MomentumDescent):
                decay = self.rule.momentum
                velocities[name] = along = total(scaled(velocities.get(name, ()), decay), slope, self.step)
                if self.rule.nesterov:
                    along = total(scaled(along, decay), slope, self.step)
            moved = scaled(along, -self._rate(name))
            moved = detached(moved) if order is GradientOrder.NONE else moved
            found[name] = total(found.get(name, ()), moved, self.step)
        return found, velocities

    def _rates(self, bundle: Bundle) -> float | Tensor:
        """The rates of a bundle: one for all of it, shape ``()``, or one for each element, shape ``(size,)``."""
        if self.rule.one_rate_for == "all":
            return self._rate(bundle.names[0])
        rates = {
            name: self._tensor(name).expand(shape) for name, shape in zip(bundle.names, bundle.shapes, strict=True)
        }
        return bundle.packed(rates)

    def _tensor(self, name: str) -> Tensor:
        leaf = self.problem.leaves[name]
        return torch.as_tensor(self._rate(name), dtype=leaf.dtype, device=leaf.device)

    def _rate(self, name: str) -> float | Tensor:
        return self.rule.rate(name, self.problem.learned, self.step)


def slope_factors(
    calls: Sequence[Call],
    deltas: Sequence[Tensor],
    inputs: Sequence[Tensor],
    order: GradientOrder,
    *,
    in_slots: bool,
) -> dict[str, Pairs]:
    """The gradients of low-rank weights as factors, by weight: a pair for each call of its layer.

    Args:
        calls: of the layers.
        deltas: for each call, the gradient by its output, shape ``(tasks, *rows, out)``.
        inputs: of the calls, each of shape ``(tasks, *rows, in)``.
        order: how much of the step is differentiated through.
        in_slots: whether rows that are others at each step have slots in the factors.
    """
    found: dict[str, Pairs] = {}
    new: dict[str, Pairs] = {}
    for call, delta, x in zip(calls, deltas, inputs, strict=True):
        h = x if order is GradientOrder.SECOND else x.detach()
        into = new if in_slots and not call.on_data else found
        into[call.name] = (*into.get(call.name, ()), (delta.flatten(1, -2), h.flatten(1, -2)))
    for name, pairs in new.items():
        found[name] = (rows_of(pairs), *found.get(name, ()))
    return found


def empty_slots(calls: Sequence[Call], weights: Mapping[str, Tensor], tasks: int, steps: int) -> dict[str, Pairs]:
    """Factors before the first step, with slots for those rows that are others at each step."""
    rows: dict[str, int] = {}
    for call in calls:
        if not call.on_data:
            rows[call.name] = rows.get(call.name, 0) + call.rank(steps)
    return {
        name: (Slots(*(weights[name].new_zeros(tasks, count, size) for size in weights[name].shape)),)
        for name, count in rows.items()
    }
