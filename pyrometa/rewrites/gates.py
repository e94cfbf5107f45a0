"""Values that a gradient does not pass at first, and that the gradient's own derivative does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor


class Gate:
    r"""A place in the graph that gradients do not pass until it is opened.

    With :math:`\bar z` a gated :math:`z(\phi)`, the gradient that is taken first is the partial one,

    .. math:: u(\phi) = \frac{\partial}{\partial \phi} s(\phi, \bar z) \Big|_{\bar z = z(\phi)}

    and, once the gate is open, the derivative of :math:`u` is the total one. ``Tensor.detach`` gives the first too, but
    then forgets :math:`\partial u / \partial \bar z \cdot dz / d\phi` in the second.
    """

    def __init__(self) -> None:
        self._open = False

    def open(self) -> None:
        """From now on let gradients pass."""
        self._open = True

    def held(self, value: Tensor) -> Tensor:
        """The value, behind the gate."""
        held: Tensor = _Held.apply(value, self)
        return held

    def passed(self, grad: Tensor) -> Tensor:
        """What of a gradient passes now."""
        return grad if self._open else torch.zeros_like(grad)


class _Held(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, gate: Gate) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Gate], output: Tensor) -> None:
        ctx.gate = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.gate.passed(grad), None


_GATE: ContextVar[Gate | None] = ContextVar("gate", default=None)


@contextmanager
def gated() -> Iterator[Gate]:
    """Within it, :func:`held` values are behind the gate that it gives."""
    gate = Gate()
    token = _GATE.set(gate)
    try:
        yield gate
    finally:
        _GATE.reset(token)


def held(value: Tensor) -> Tensor:
    """The value behind the gate of the evaluation; where nobody will open one, cut off from its graph."""
    gate = _GATE.get()
    return value.detach() if gate is None else gate.held(value)
