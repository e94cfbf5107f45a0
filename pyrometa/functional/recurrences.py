r"""Recurrences, differentiable to any order, of which only the steps themselves run one after the other.

A cell acts on each unit by itself: :math:`s_t = \phi(s_{t-1}, x_t + h_{t-1} W)`, where :math:`h` is the first part of
the state :math:`s`. Once all states are known, the derivatives of all steps follow at once: :math:`A_t` by the state
and :math:`K_t` by the gates, diagonal both. The gradient of a loss is then a linear recurrence

.. math:: \lambda_{t-1} = g_{t-1} + A_t \lambda_t + (K_t \lambda_t) W^T

and the gradient of that one a linear recurrence forward in time. No step builds a graph, and what is summed over time,
as the gradient of :math:`W`, is one matrix product: step by step each would add a matrix of that size for each task.

Shapes: states are ``(batch, time, rows, units)``, gates ``(batch, time, rows, gates * units)`` and :math:`W`
``(batch, units, gates * units)``. What a cell reads besides, as the part of a GRU's new value that the input gives, is
``(batch, time, rows, units)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

State = tuple[Tensor, ...]
Blocks = list[Tensor | None]
Jacobian = tuple[Blocks, list[Tensor], Tensor | None]

_through_sigmoid = torch.ops.aten.sigmoid_backward
_through_tanh = torch.ops.aten.tanh_backward


@dataclass(frozen=True)
class Cell:
    """One step of a recurrence.

    Attributes:
        step: from a state, the gates and what is read besides to the next state.
        jacobian: from the state before, the state after, the gates and what is read besides to the blocks of ``A``, row
            by row and None where they are zero, the rows of ``K``, and the derivative by what is read besides.
    """

    step: Callable[[State, Tensor, Any], State]
    jacobian: Callable[[State, State, Tensor, Any], Jacobian]


def recurrence(cell: Cell, weight: Tensor, start: State, gates: Tensor, besides: Tensor | None = None) -> State:
    """All states after each step.

    Args:
        cell: what to step by.
        weight: ``W``.
        start: the parts of the state before the first step, each ``(batch, rows, units)``.
        gates: what the input gives to the gates at each time.
        besides: what else the cell reads at each time.

    Returns:
        The parts of the state, each ``(batch, time, rows, units)``.
    """
    return _Recurrence.apply(cell, weight, gates, besides, *start)


def _split(gates: Tensor, units: int) -> tuple[Tensor, ...]:
    return gates.unflatten(-1, (-1, units)).unbind(-2)


def _gru_step(state: State, gates: Tensor, besides: Any) -> State:
    (h,) = state
    r, z = torch.sigmoid(gates[..., : 2 * h.shape[-1]]).chunk(2, -1)
    n = torch.tanh(torch.addcmul(besides, r, gates[..., 2 * h.shape[-1] :]))
    return (torch.lerp(n, h, z),)


def _gru_jacobian(before: State, after: State, gates: Tensor, besides: Any) -> Jacobian:
    (h,) = before
    r, z, recurrent = _split(gates, h.shape[-1])
    r, z = torch.sigmoid(r), torch.sigmoid(z)
    n = torch.tanh(torch.addcmul(besides, r, recurrent))
    by_n = _through_tanh(1 - z, n)
    k = torch.cat([_through_sigmoid(by_n * recurrent, r), _through_sigmoid(h - n, z), by_n * r], -1)
    return [z], [k], by_n


def _lstm_step(state: State, gates: Tensor, besides: Any) -> State:
    c = state[1]
    i, f, o = torch.sigmoid(gates[..., : 3 * c.shape[-1]]).chunk(3, -1)
    c = torch.addcmul(f * c, i, torch.tanh(gates[..., 3 * c.shape[-1] :]))
    return o * torch.tanh(c), c


def _lstm_jacobian(before: State, after: State, gates: Tensor, besides: Any) -> Jacobian:
    c = before[1]
    i, f, o, g = _split(gates, c.shape[-1])
    i, f, o, g, tanh_c = torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o), torch.tanh(g), torch.tanh(after[1])
    by_c = _through_tanh(o, tanh_c)
    k_i, k_f, k_g = _through_sigmoid(g, i), _through_sigmoid(c, f), _through_tanh(i, g)
    k_h = torch.cat([by_c * k_i, by_c * k_f, _through_sigmoid(tanh_c, o), by_c * k_g], -1)
    return [None, by_c * f, None, f], [k_h, torch.cat([k_i, k_f, torch.zeros_like(c), k_g], -1)], None


def _tanh_step(state: State, gates: Tensor, besides: Any) -> State:
    return (torch.tanh(gates),)


def _tanh_jacobian(before: State, after: State, gates: Tensor, besides: Any) -> Jacobian:
    return [None], [1 - after[0].square()], None


def _relu_step(state: State, gates: Tensor, besides: Any) -> State:
    return (torch.relu(gates),)


def _relu_jacobian(before: State, after: State, gates: Tensor, besides: Any) -> Jacobian:
    return [None], [(gates > 0).to(gates.dtype)], None


GRU = Cell(_gru_step, _gru_jacobian)
"""Gates: reset, update, and the state's part of the new value; the input's part is read besides."""

LSTM = Cell(_lstm_step, _lstm_jacobian)
"""Gates: input, forget, output, cell; the state is ``(h, c)``."""

RNN_TANH = Cell(_tanh_step, _tanh_jacobian)
RNN_RELU = Cell(_relu_step, _relu_jacobian)


class _Batched(Function):
    """A function of tensors with a leading batch dimension, to which vmap adds."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
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
    @staticmethod
    def forward(cell: Cell, weight: Tensor, gates: Tensor, besides: Tensor | None, *start: Tensor) -> State:
        state, found = start, []
        read = [None] * gates.shape[1] if besides is None else besides.unbind(1)
        for given, also in zip(gates.unbind(1), read, strict=True):
            state = cell.step(state, torch.baddbmm(given, state[0], weight), also)
            found.append(state)
        return _stacked(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (cell, weight, gates, besides, *start), after = _saved(ctx)
        before = _before(after, start)
        a, k, by_besides = cell.jacobian(before, after, gates + _times(before[0], weight), besides)
        adjoint = _Linear.apply(True, weight, *grads, *a, *k)
        by_gates = _weighed(k, adjoint)
        by_start = _by_start(a, adjoint, by_gates[:, 0] @ weight.mT)
        by_besides = None if by_besides is None else by_besides * adjoint[0]
        return None, _over_time(before[0], by_gates), by_gates, by_besides, *by_start


def _by_start(a: Blocks, adjoint: State, by_product: Tensor) -> list[Tensor | None]:
    found: list[Tensor | None] = [by_product, *[None] * (len(adjoint) - 1)]
    for place, block in enumerate(a):
        if block is not None:
            row, column = divmod(place, len(adjoint))
            part, so_far = block[:, 0] * adjoint[row][:, 0], found[column]
            found[column] = part if so_far is None else so_far + part
    return found


class _Linear(_Batched):
    """The recurrence of the derivatives: back in time from a loss's gradients, or its transpose forward in time."""

    @staticmethod
    def forward(back: bool, weight: Tensor, *rest: Tensor | None) -> State:
        sources, a, k = _parts(rest)
        units = sources[0].shape[-1]
        return _stacked(
            (_back if back else _ahead)(
                weight,
                [part.unbind(1) for part in sources],
                [None if block is None else block.unbind(1) for block in a],
                [row.unflatten(-1, (-1, units)).unbind(1) for row in k],
            )
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (back, weight, *rest), found = _saved(ctx)
        _, a, k = _parts(rest)
        other = _Linear.apply(not back, weight, *grads, *a, *k)
        ahead, adjoint = (other, found) if back else (found, other)
        before = _before(ahead, [torch.zeros_like(part[:, 0]) for part in ahead])
        product = _times(before[0], weight)
        pairs = [(row, column) for row in adjoint for column in before]
        by_a = [None if block is None else row * column for block, (row, column) in zip(a, pairs, strict=True)]
        by_k = [_weighed([product], [part]) for part in adjoint]
        return None, _over_time(before[0], _weighed(k, adjoint)), *other, *by_a, *by_k


def _parts(rest: Sequence[Any]) -> tuple[Sequence[Tensor], Blocks, Sequence[Tensor]]:
    """For one part of the state a source, a block and a row; for two, two sources, four blocks and two rows."""
    count = 1 if len(rest) == 3 else 2
    return rest[:count], list(rest[count:-count]), rest[-count:]


def _back(weight: Tensor, sources: Any, a: Any, k: Any) -> list[State]:
    now, transposed = [part[-1] for part in sources], weight.mT
    found = [tuple(now)]
    for t in range(len(sources[0]) - 1, 0, -1):
        by_gates = k[0][t] * now[0].unsqueeze(-2)
        for row, part in zip(k[1:], now[1:], strict=True):
            by_gates = by_gates.addcmul(row[t], part.unsqueeze(-2))
        then = [part[t - 1] for part in sources]
        then[0] = torch.baddbmm(then[0], by_gates.flatten(-2), transposed)
        for place, block in enumerate(a):
            if block is not None:
                row, column = divmod(place, len(now))
                then[column] = then[column].addcmul(block[t], now[row])
        now = then
        found.append(tuple(now))
    return found[::-1]


def _ahead(weight: Tensor, sources: Any, a: Any, k: Any) -> list[State]:
    now = [part[0] for part in sources]
    found = [tuple(now)]
    for t in range(1, len(sources[0])):
        gates = (now[0] @ weight).unflatten(-1, (-1, now[0].shape[-1]))
        then = [part[t] + (row[t] * gates).sum(-2) for part, row in zip(sources, k, strict=True)]
        for place, block in enumerate(a):
            if block is not None:
                row, column = divmod(place, len(now))
                then[row] = then[row].addcmul(block[t], now[column])
        now = then
        found.append(tuple(now))
    return found


def _stacked(steps: Sequence[State]) -> State:
    return tuple(torch.stack(part, 1) for part in zip(*steps, strict=True))


def _before(states: State, start: Sequence[Tensor]) -> State:
    """The state before each step."""
    return tuple(torch.cat([s[:, None], part[:, :-1]], 1) for s, part in zip(start, states, strict=True))


def _times(h: Tensor, weight: Tensor) -> Tensor:
    return (h.flatten(1, 2) @ weight).unflatten(1, h.shape[1:3])


def _over_time(left: Tensor, right: Tensor) -> Tensor:
    """The sum over time and rows of outer products."""
    return left.flatten(1, 2).mT @ right.flatten(1, 2)


def _weighed(k: Sequence[Tensor], state: Sequence[Tensor]) -> Tensor:
    """For each gate the sum over the parts of the state."""
    products = [
        (row.unflatten(-1, (-1, part.shape[-1])) * part.unsqueeze(-2)).flatten(-2)
        for row, part in zip(k, state, strict=True)
    ]
    return products[0] if len(products) == 1 else products[0] + products[1]
