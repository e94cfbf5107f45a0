r"""Recurrences, differentiable to any order, of which only the steps themselves run one after the other.

A cell acts on each unit by itself. A new value is :math:`c_t = \phi(c_{t-1}, y_t)` with the gates
:math:`y_t = x_t + h_{t-1} W`; the output :math:`h_t` is :math:`c_t` itself, or of an LSTM a function of it and the
last gate. Once all states are known, the derivatives of all steps follow at once: :math:`a_t` by the value before,
:math:`k_t` by the gates, and :math:`m_t` of an LSTM's output by its value, diagonal all. The gradient of a loss is
then a linear recurrence back in time,

.. math:: \lambda^c_t = g^c_t + a_{t+1} \lambda^c_{t+1} + m_t \lambda^h_t, \qquad
    \lambda^h_t = g^h_t + (k_{t+1} \lambda_{t+1}) W^T

and the gradient of that one is its transpose, forward in time. No step builds a graph, and what is summed over time,
as the gradient of :math:`W`, is one matrix product: step by step each would add a matrix of that size for each task.

Shapes: states are ``(batch, time, rows, units)``, gates ``(batch, time, rows, gates * units)`` and :math:`W`
``(batch, units, gates * units)``. A cell may read more than the gates that :math:`W` feeds, as a GRU what the
input gives to the new value: it stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

State = tuple[Tensor, ...]
"""``(h,)``, or of an LSTM ``(h, c)``."""

_through_sigmoid = torch.ops.aten.sigmoid_backward
_through_tanh = torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class Jacobian:
    """The derivatives of all steps.

    Attributes:
        carried: of the new value by the one before; None for zero.
        gates: of the new value by each gate; of an LSTM's output by the last.
        output: of an LSTM's output by its value; None where they are the same.
        besides: of the new value by what stands behind the gates; None where nothing does.
    """

    carried: Tensor | None
    gates: Tensor
    output: Tensor | None = None
    besides: Tensor | None = None


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence.

    Attributes:
        step: from a state, the gates and what stands behind them to the next state.
        jacobian: from the states before and after each step and the gates with what stands behind them.
    """

    step: Callable[[State, Tensor, Tensor], State]
    jacobian: Callable[[State, State, Tensor], Jacobian]


def recurrence(cell: Cell, weight: Tensor, start: State, gates: Tensor) -> State:
    """All states after each step.

    Args:
        cell: what to step by.
        weight: ``W``.
        start: the parts of the state before the first step, each ``(batch, rows, units)``.
        gates: what the input gives to the gates at each time, and what else the cell reads behind it.

    Returns:
        The parts of the state, each ``(batch, time, rows, units)``.
    """
    return _Recurrence.apply(cell, weight, gates, *start)[:-1]


def _split(gates: Tensor, units: int) -> tuple[Tensor, ...]:
    return gates.unflatten(-1, (-1, units)).unbind(-2)


def _gru_step(state: State, gates: Tensor, besides: Tensor) -> State:
    (h,) = state
    r, z = torch.sigmoid(gates[..., : 2 * h.shape[-1]]).chunk(2, -1)
    n = torch.tanh(torch.addcmul(besides, r, gates[..., 2 * h.shape[-1] :]))
    return (torch.lerp(n, h, z),)


def _gru_jacobian(before: State, after: State, gates: Tensor) -> Jacobian:
    (h,) = before
    r, z, recurrent, besides = _split(gates, h.shape[-1])
    r, z = torch.sigmoid(r), torch.sigmoid(z)
    n = torch.tanh(torch.addcmul(besides, r, recurrent))
    by_n = _through_tanh(1 - z, n)
    k = torch.cat([_through_sigmoid(by_n * recurrent, r), _through_sigmoid(h - n, z), by_n * r], -1)
    return Jacobian(z, k, besides=by_n)


def _lstm_step(state: State, gates: Tensor, besides: Tensor) -> State:
    size = state[1].shape[-1]
    i, f = torch.sigmoid(gates[..., : 2 * size]).chunk(2, -1)
    g, o = torch.tanh(gates[..., 2 * size : 3 * size]), torch.sigmoid(gates[..., 3 * size :])
    c = torch.addcmul(f * state[1], i, g)
    return o * torch.tanh(c), c


def _lstm_jacobian(before: State, after: State, gates: Tensor) -> Jacobian:
    c, tanh_c = before[1], torch.tanh(after[1])
    i, f, g, o = _split(gates, c.shape[-1])
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    k = [_through_sigmoid(g, i), _through_sigmoid(c, f), _through_tanh(i, g), _through_sigmoid(tanh_c, o)]
    return Jacobian(f, torch.cat(k, -1), _through_tanh(o, tanh_c))


def _tanh_step(state: State, gates: Tensor, besides: Tensor) -> State:
    return (torch.tanh(gates),)


def _tanh_jacobian(before: State, after: State, gates: Tensor) -> Jacobian:
    return Jacobian(None, 1 - after[0].square())


def _relu_step(state: State, gates: Tensor, besides: Tensor) -> State:
    return (torch.relu(gates),)


def _relu_jacobian(before: State, after: State, gates: Tensor) -> Jacobian:
    return Jacobian(None, (gates > 0).to(gates.dtype))


GRU = Cell(_gru_step, _gru_jacobian)
"""Gates: reset, update, and the state's part of the new value; the input's part is read besides."""

LSTM = Cell(_lstm_step, _lstm_jacobian)
"""Gates: input, forget, cell, output."""

RNN_TANH = Cell(_tanh_step, _tanh_jacobian)
RNN_RELU = Cell(_relu_step, _relu_jacobian)


class _Batched(Function):
    """A function of tensors with a leading batch dimension, to which vmap adds."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.set_materialize_grads(False)
        ctx.inputs = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.places = [i for i, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.save_for_backward(*(inputs[i] for i in ctx.places), *output)

    @classmethod
    def vmap(cls, info: Any, in_dims: Any, *args: Any) -> Any:
        def merged(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            leading = value.expand(info.batch_size, *value.shape) if dim is None else value.movedim(dim, 0)
            return leading.flatten(0, 1)

        found = cls.apply(*map(merged, args, in_dims))
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in found), (0,) * len(found)


def _saved(ctx: Any) -> tuple[list[Any], State]:
    """The inputs and the outputs of the forward pass."""
    inputs, tensors = list(ctx.inputs), ctx.saved_tensors
    for place, value in zip(ctx.places, tensors, strict=False):
        inputs[place] = value
    return inputs, tensors[len(ctx.places) :]


class _Recurrence(_Batched):
    """The states at all times, and last the gates."""

    @staticmethod
    def forward(cell: Cell, weight: Tensor, gates: Tensor, *start: Tensor) -> State:
        state, found, fed = start, [], weight.shape[-1]
        for given in gates.unbind(1):
            now, besides = torch.baddbmm(given[..., :fed], state[0], weight), given[..., fed:]
            state = cell.step(state, now, besides)
            found.append((*state, now))
        *states, now = _stacked(found)
        return (*states, _joined(now, gates[..., fed:]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        (cell, weight, _, *start), (*after, gates) = _saved(ctx)
        *of_states, of_gates = grads
        fed = weight.shape[-1]
        sources = [torch.zeros_like(s) if g is None else g for s, g in zip(after, of_states, strict=True)]
        if of_gates is not None:  # the gates are an output too: those at t + 1 depend on the state at t, through W
            through = _times(of_gates[:, 1:, :, :fed], weight.mT)
            sources[0] = sources[0] + torch.cat([through, torch.zeros_like(sources[0][:, :1])], 1)
        before = _before(after, start)
        j = cell.jacobian(before, tuple(after), gates)
        adjoint = _Linear.apply(True, weight, j.gates, j.carried, j.output, *sources)
        by_fed, by_besides = _weighed(j.gates, adjoint), None if j.besides is None else j.besides * adjoint[0]
        by_gates = by_fed if by_besides is None else _joined(by_fed, by_besides)
        if of_gates is not None:
            by_gates = by_gates + of_gates
            by_fed = by_gates[..., :fed]
        by_start = [by_fed[:, 0] @ weight.mT]
        if j.carried is not None:
            by_start.append(j.carried[:, 0] * adjoint[-1][:, 0])
        by_start = by_start if len(start) == 2 else [sum(by_start[1:], by_start[0])]
        return None, _over_time(before[0], by_fed), by_gates, *by_start


class _Linear(_Batched):
    """The recurrence of the derivatives: back in time from a loss's gradients, or its transpose forward in time."""

    @staticmethod
    def forward(
        back: bool, weight: Tensor, k: Tensor, carried: Tensor | None, output: Tensor | None, *sources: Tensor
    ) -> State:
        none = [None] * k.shape[1]
        a, m = (none if part is None else part.unbind(1) for part in (carried, output))
        return _stacked((_back if back else _ahead)(weight, k.unbind(1), a, m, [part.unbind(1) for part in sources]))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        (back, weight, k, carried, output, *_), found = _saved(ctx)
        sources = [torch.zeros_like(s) if g is None else g for s, g in zip(found, grads, strict=True)]
        other = _Linear.apply(not back, weight, k, carried, output, *sources)
        ahead, adjoint = (other, found) if back else (found, other)
        before = _before(ahead, [torch.zeros_like(part[:, 0]) for part in ahead])
        by_k = _weighed(_times(before[0], weight), adjoint)
        by_carried = None if carried is None else adjoint[-1] * before[-1]
        by_output = None if output is None else adjoint[0] * ahead[-1]
        by_weight = _over_time(before[0], _weighed(k, adjoint))
        return None, by_weight, by_k, by_carried, by_output, *other


def _back(weight: Tensor, k: Any, a: Any, m: Any, sources: Any) -> list[State]:
    found: list[State] = []
    transposed = weight.mT
    for t in range(len(k) - 1, -1, -1):
        now = [part[t] for part in sources]
        if found:
            now[0] = torch.baddbmm(now[0], _weighed(k[t + 1], found[-1]), transposed)
            if a[t + 1] is not None:
                now[-1] = torch.addcmul(now[-1], a[t + 1], found[-1][-1])
        if m[t] is not None:
            now[1] = torch.addcmul(now[1], m[t], now[0])
        found.append(tuple(now))
    return found[::-1]


def _ahead(weight: Tensor, k: Any, a: Any, m: Any, sources: Any) -> list[State]:
    found: list[State] = []
    for t in range(len(k)):
        now = [part[t] for part in sources]
        if found:
            by_gate = (k[t] * (found[-1][0] @ weight)).unflatten(-1, (-1, now[0].shape[-1]))
            if m[t] is not None:
                now[0] = now[0] + by_gate[..., -1, :]
                by_gate = by_gate[..., :-1, :]
            now[-1] = now[-1] + by_gate.sum(-2)
            if a[t] is not None:
                now[-1] = torch.addcmul(now[-1], a[t], found[-1][-1])
        if m[t] is not None:
            now[0] = torch.addcmul(now[0], m[t], now[1])
        found.append(tuple(now))
    return found


def _joined(gates: Tensor, besides: Tensor) -> Tensor:
    return torch.cat([gates, besides], -1) if besides.shape[-1] else gates


def _stacked(steps: Sequence[State]) -> State:
    return tuple(torch.stack(part, 1) for part in zip(*steps, strict=True))


def _before(states: Sequence[Tensor], start: Sequence[Tensor]) -> State:
    """The state before each step."""
    return tuple(torch.cat([s[:, None], part[:, :-1]], 1) for s, part in zip(start, states, strict=True))


def _times(h: Tensor, weight: Tensor) -> Tensor:
    return (h.flatten(1, 2) @ weight).unflatten(1, h.shape[1:3])


def _over_time(left: Tensor, right: Tensor) -> Tensor:
    """The sum over time and rows of outer products."""
    return left.flatten(1, 2).mT @ right.flatten(1, 2)


def _weighed(k: Tensor, state: Sequence[Tensor]) -> Tensor:
    """Each gate times what it acts on: the value, or of an LSTM's last gate the output."""
    value = state[-1].unsqueeze(-2)
    by_gate = k.unflatten(-1, (-1, value.shape[-1]))
    if len(state) == 1:
        return (by_gate * value).flatten(-2)
    return torch.cat([(by_gate[..., :-1, :] * value).flatten(-2), by_gate[..., -1, :] * state[0]], -1)
