"""GRU, LSTM and RNN layer by layer.

torch computes all layers in one call, and draws the dropout between them inside. Here that dropout is a draw that is
seen, and under vmap, where torch's own call has no batching rule, each layer is computed by formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrometa.rewrites.packed_sequences import at_end, lengths_of, packed, padded, turned
from pyrometa.rewrites.recurrences import GRU, LSTM, RNN_RELU, RNN_TANH, Cell, State, recurrence

Weights = Sequence[Tensor]
Dropped = Callable[[Tensor, float], Tensor]

_CELLS: dict[Any, Cell] = {torch.gru: GRU, torch.lstm: LSTM, torch.rnn_tanh: RNN_TANH, torch.rnn_relu: RNN_RELU}

RECURRENT = _CELLS.keys()
"""Torch's functions of whole networks."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network, in both directions if there are two.

    Attributes:
        function: torch's own, of the whole network.
        data: the input, ``(time, rows, features)``, or packed ``(sum of the lengths, features)``.
        batch_sizes: of packed data; None for others.
        start: the state's parts, each ``(directions, rows, units)``.
        weights: of each direction end to end.
        has_biases: whether there are biases among them.
        training: whether the network is in training, which torch's own function asks for.
        bidirectional: whether there are two directions.
    """

    function: Any
    data: Tensor
    batch_sizes: Tensor | None
    start: State
    weights: Weights
    has_biases: bool
    training: bool
    bidirectional: bool


def recurrent(
    func: Any, args: Any, dropped: Dropped, layer: Callable[[Layer], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What one of torch's recurrent functions returns.

    Args:
        func: one of :data:`RECURRENT`.
        args: its arguments.
        dropped: dropout of a tensor with a probability.
        layer: computes a layer: its output, and the parts of the state after the last step.
    """
    if isinstance(args[3], bool):  # torch's form for padded data; in that for packed data the weights are fourth
        data, start, weights, has_biases, layers, p, training, bidirectional, batch_first = args
        batch_sizes = None
    else:
        data, batch_sizes, start, weights, has_biases, layers, p, training, bidirectional = args
        batch_first = False
    data = data.transpose(0, 1) if batch_first else data
    starts = [part.chunk(layers) for part in (start if isinstance(start, list | tuple) else (start,))]
    each = len(weights) // layers
    ends = []
    for i in range(layers):
        of_layer = weights[i * each : (i + 1) * each]
        parts = tuple(part[i] for part in starts)
        data, *end = layer(Layer(func, data, batch_sizes, parts, of_layer, has_biases, training, bidirectional))
        ends.append(end)
        if training and p > 0 and i < layers - 1:
            data = dropped(data, p)
    output = data.transpose(0, 1) if batch_first else data
    return (output, *(torch.cat(part) for part in zip(*ends, strict=True)))


def by_torch(layer: Layer) -> tuple[Tensor, ...]:
    """A layer by torch's own function."""
    start = layer.start if layer.function is torch.lstm else layer.start[0]
    sizes = () if layer.batch_sizes is None else (layer.batch_sizes,)
    last = (False,) if layer.batch_sizes is None else ()
    options = (layer.has_biases, 1, 0.0, layer.training, layer.bidirectional)
    return tuple(layer.function(layer.data, *sizes, start, layer.weights, *options, *last))


def by_formula(layer: Layer) -> tuple[Tensor, ...]:
    """A layer by plain matrix products, which vmap can batch."""
    sizes, data, lengths = layer.batch_sizes, layer.data, None
    if sizes is not None:
        data, lengths = padded(data, sizes), lengths_of(sizes, data.device)
    count = 2 if layer.bidirectional else 1
    each = len(layer.weights) // count
    ways = [_Way.of(layer, layer.weights[i * each : (i + 1) * each]) for i in range(count)]
    states = _run(layer, ways, [_turned_back(way.of_input(data), lengths, i) for i, way in enumerate(ways)])
    output = torch.cat([turned(h, lengths) if i else h for i, h in enumerate(states[0])], -1)
    ends = tuple(at_end(part, lengths) for part in states)
    return (output if sizes is None else packed(output, sizes), *ends)


def _turned_back(given: Tensor, lengths: Tensor | None, way: int) -> Tensor:
    return turned(given, lengths) if way else given


def _run(layer: Layer, ways: Sequence[_Way], given: Sequence[Tensor]) -> State:
    """The parts of the state at all times, each ``(directions, time, rows, units)``."""
    weight, gates, start = _stacked([way.recurrent.T for way in ways]), _stacked(given), layer.start
    cell = _CELLS[layer.function]
    if ways[0].projection is None:
        return recurrence(cell, weight, start, gates)
    # The state is what is yet to be projected; that to start with is projected already.
    projection = _stacked([way.projection.T for way in ways if way.projection is not None])
    gates = torch.cat([gates[:, :1] + (start[0] @ weight)[:, None], gates[:, 1:]], 1)
    h, c = recurrence(cell, projection @ weight, (torch.zeros_like(start[1]), start[1]), gates)
    return (h.flatten(1, 2) @ projection).unflatten(1, h.shape[1:3]), c


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(parts)) if len(parts) > 1 else parts[0][None]


@dataclass(frozen=True)
class _Way:
    """The weights of one direction, for the cell's gates."""

    given: Tensor
    bias: Tensor | None
    recurrent: Tensor
    projection: Tensor | None

    @classmethod
    def of(cls, layer: Layer, weights: Weights) -> _Way:
        given, recurrent, *more = weights
        biases, projection = (more[:2], more[2:]) if layer.has_biases else ((), more)
        bias = biases[0] + biases[1] if biases else None
        if layer.function is torch.gru:
            given, bias = _with_besides(given, biases)
        return cls(given, bias, recurrent, projection[0] if projection else None)

    def of_input(self, data: Tensor) -> Tensor:
        """What the input gives to the gates, at all times in one product."""
        product = data.flatten(0, 1) @ self.given.T
        return (product if self.bias is None else product + self.bias).unflatten(0, data.shape[:2])


def _with_besides(given: Tensor, biases: Weights) -> tuple[Tensor, Tensor | None]:
    """Four blocks in place of three: the input gives nothing to the state's part of the new value but a bias."""
    r, z, n = given.chunk(3)
    given = torch.cat([r, z, torch.zeros_like(n), n])
    if not biases:
        return given, None
    (r, z, n), (r_h, z_h, n_h) = (bias.chunk(3) for bias in biases)
    return given, torch.cat([r + r_h, z + z_h, n_h, n])
