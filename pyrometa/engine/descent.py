"""A step of gradient descent, on fast weights as they are held while tasks run side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.engine.bundles import Bundle
from pyrometa.engine.low_rank import Call, Factors
from pyrometa.engine.problem import Problem
from pyrometa.inner import GradientDescent, GradientOrder


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

    def moved(self, bundle: Bundle, flat: Tensor, slope: Tensor) -> Tensor:
        """Dense parameters after the step.

        Args:
            bundle: the parameters, held end to end.
            flat: their values, shape ``(tasks, size)``.
            slope: their gradients, shape ``(tasks, size)``.
        """
        return flat - self._rates(bundle) * slope

    def added(
        self,
        factors: Mapping[str, tuple[Factors, ...]],
        calls: Sequence[Call],
        deltas: Sequence[Tensor],
        inputs: Sequence[Tensor],
        order: GradientOrder,
    ) -> Mapping[str, tuple[Factors, ...]]:
        """The factors of low-rank weights after the step: each call of a layer adds a pair to its weight's.

        Args:
            factors: those before, by weight.
            calls: of the layers.
            deltas: for each call, the gradient by its output, shape ``(tasks, *rows, out)``.
            inputs: of the calls, each of shape ``(tasks, *rows, in)``.
            order: how much of the step is differentiated through.
        """
        found = dict(factors)
        for call, delta, x in zip(calls, deltas, inputs, strict=True):
            if order is not GradientOrder.SECOND:
                x = x.detach()
            a = (-self._rate(call.name) * delta).flatten(1, -2)
            if order is GradientOrder.NONE:
                a = a.detach()
            found[call.name] = _with_pair(found.get(call.name, ()), a, x.flatten(1, -2))
        return found

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


def _with_pair(pairs: tuple[Factors, ...], a: Tensor, h: Tensor) -> tuple[Factors, ...]:
    """The pairs with one more; if its ``H`` is there already, such as the support set itself, only ``A`` is added."""
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
