"""A part of a longer function, recorded once and replayed wherever it comes in it, also under autograd."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyrometa import generators
from pyrometa.recording.compiled import compiled_graph
from pyrometa.recording.cuda_graphs import captured
from pyrometa.recording.held import held
from pyrometa.recording.recordable import Graph
from pyrometa.recording.simplify import simplified
from pyrometa.recording.split import Halves, split
from pyrometa.recording.tracing import Traced, Tracing


@dataclass(frozen=True, eq=False)
class Part:
    """The tensor operations of a function, and of its vector-Jacobian product where that is asked for.

    Attributes:
        forward: from those tensors that are read to the results, and then what ``back`` needs of them.
        back: from that and the cotangents of some results to the products; None where nothing is differentiated.
        read: positions of the tensors that are read.
        results: how many results there are.
        attached: positions of the results that are differentiated.
        products: of each product, the position among the tensors that are read.
        counts: how many operations there are, and how many there were before they were simplified.
        seconds: how long it took to record, and to compile; None for the latter where it was not compiled.
    """

    forward: Graph
    back: Graph | None
    read: tuple[int, ...]
    results: int
    attached: tuple[int, ...]
    products: tuple[int, ...]
    counts: tuple[int, int]
    seconds: tuple[float, float | None]

    @property
    def bytes(self) -> int:
        """How much memory it holds, about."""
        return held(self.counts[0], *(graph for graph in (self.forward, self.back) if graph))

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the function makes of tensors of the same shapes."""
        given = [tensors[i].contiguous() for i in self.read]
        if self.back is not None and torch.is_grad_enabled():
            found: Sequence[Tensor] = _Replayed.apply(self, *given)
            return found
        with torch.no_grad():
            return self.forward(*(value.detach() for value in given))[: self.results]


class _Replayed(Function):
    @staticmethod
    def forward(ctx: Any, part: Part, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = part.forward(*(value.detach() for value in tensors))  # compiled for tensors that are on no graph
        ctx.part = part
        ctx.save_for_backward(*made[part.results :])
        found = tuple(value.detach() for value in made[: part.results])  # what is kept stays on none either
        ctx.mark_non_differentiable(*(found[i] for i in range(part.results) if i not in part.attached))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        part = ctx.part
        products = part.back(*ctx.saved_tensors, *(cotangents[i].contiguous() for i in part.attached))
        found: list[Tensor | None] = [None] * (1 + len(part.read))
        for i, product in zip(part.products, products, strict=True):
            found[1 + i] = product
        return tuple(found)


def record_part(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    tensors: Sequence[Tensor],
    on_graph: Sequence[bool],
    by: Sequence[int],
    parameters: Mapping[str, Tensor],
    *,
    compiled: bool,
) -> Part:
    """Run a function and write down its tensor operations, drawing nothing from the global generator.

    Args:
        function: what to record.
        tensors: what to run it on.
        on_graph: of each tensor, whether the function is to meet it as a leaf of autograd's graph.
        by: positions of those leaves that a product is wanted for; none to record the function alone.
        parameters: tensors by name that change from one replay to the next; the function may read them as inputs only.
        compiled: whether to compile the operations by inductor.

    Raises:
        UnsupportedProgramError: a tensor that the function reads shares memory with a parameter, or it writes to one.
    """
    started = time.perf_counter()
    inputs = [value.detach().clone(memory_format=torch.contiguous_format) for value in tensors]
    joint = _joint(function, inputs, on_graph, by, parameters)
    operations, results = len(joint.traced.graph.nodes), joint.results
    halves = split(simplified(joint.traced, [*inputs, *joint.cotangents]), len(inputs), results)
    done = time.perf_counter()
    read = [inputs[i] for i in halves.read]
    forward, back = _run(halves, read, joint.cotangents, results, compiled=compiled)
    left = len(halves.forward.graph.nodes) + len(halves.back.graph.nodes)
    return Part(
        captured(forward, halves.forward, read),
        captured(back, halves.back, joint.cotangents) if joint.attached else None,
        halves.read,
        results,
        joint.attached,
        tuple(halves.read.index(i) for i in joint.found),
        (left, operations),
        (done - started, time.perf_counter() - done if compiled else None),
    )


@dataclass(frozen=True)
class _Joint:
    """A function and its products in one graph, as it was written down.

    Attributes:
        traced: from the function's tensors and the cotangents to its results and the products.
        cotangents: that it was run on.
        results: how many results there are.
        attached: positions of the results that are differentiated.
        found: of each product, the position among the function's tensors.
    """

    traced: Traced
    cotangents: Sequence[Tensor]
    results: int
    attached: tuple[int, ...]
    found: Sequence[int]


def _joint(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    on_graph: Sequence[bool],
    by: Sequence[int],
    parameters: Mapping[str, Tensor],
) -> _Joint:
    """Run a function, and then back, which shows what there is to run back from."""
    tracing = Tracing(inputs, parameters)
    with generators.forked(), torch.enable_grad():
        with tracing:
            leaves = [x.detach().requires_grad_(leaf) for x, leaf in zip(inputs, on_graph, strict=True)]
            made = function(leaves)
        attached = tuple(i for i, value in enumerate(made) if value.requires_grad and by)
        along = [torch.ones_like(made[i], memory_format=torch.contiguous_format).detach() for i in attached]
        tracing.read(along)
        with tracing:
            products = _products([made[i] for i in attached], [leaves[i] for i in by], along)
    found = {i: product for i, product in zip(by, products, strict=True) if product is not None}
    return _Joint(tracing.traced([*made, *found.values()]), along, len(made), attached, list(found))


def _products(results: Sequence[Tensor], by: Sequence[Tensor], along: Sequence[Tensor]) -> Sequence[Tensor | None]:
    return torch.autograd.grad(results, by, along, allow_unused=True) if results else [None] * len(by)


def _run(
    halves: Halves, inputs: Sequence[Tensor], cotangents: Sequence[Tensor], results: int, *, compiled: bool
) -> tuple[Graph, Graph]:
    """What runs the halves: they themselves, or compiled."""
    if not compiled:
        return halves.forward.forward, halves.back.forward
    forward = compiled_graph(halves.forward, inputs)
    with torch.no_grad():
        kept = forward(*inputs)[results:]
    return forward, compiled_graph(halves.back, [*kept, *cotangents]) if cotangents else halves.back.forward
