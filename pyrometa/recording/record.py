"""A function of tensors, recorded once as tensor operations and replayed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import (
    TorchDispatchMode,
    TreeSpec,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    make_fx,
    tree_flatten,
    tree_leaves,
    tree_unflatten,
)
from pyrometa.recording.recordable import Recordable
from pyrometa.recording.simplify import simplified

TensorFunction = Callable[[Sequence[Tensor]], Any]
"""From tensors to tensors, in tuples, lists and dictionaries."""


@dataclass(frozen=True)
class Recording:
    """The tensor operations of a function.

    Attributes:
        operations: takes the function's tensors, and returns the tensors of its result as a flat list.
        result: the nest of tuples, lists and dictionaries that the result is.
        counts: how many operations there are, and how many there were before they were simplified.
        seconds: how long it took to record, and to compile; None for the latter where it was not compiled.
    """

    operations: Callable[..., Sequence[Tensor]]
    result: TreeSpec
    counts: tuple[int, int]
    seconds: tuple[float, float | None]

    def of(self, function: Recordable) -> Any:
        """What another function makes of its tensors that is the same but for these."""
        return self.replay(function.tensors())

    def replay(self, tensors: Sequence[Tensor]) -> Any:
        """What the function makes of tensors of the same shapes."""
        with torch.no_grad():
            return tree_unflatten(list(self.operations(*tensors)), self.result)

    def __str__(self) -> str:
        return told(self.counts, self.seconds)


def told(counts: tuple[int, int], seconds: tuple[float, float | None]) -> str:
    """How many operations were recorded, of how many, and how long it took."""
    recorded, compiled = seconds
    operations = f"{counts[0]} operations of {counts[1]}, recorded in {recorded:.1f} s"
    return operations if compiled is None else f"{operations}, compiled in {compiled:.1f} s"


def record(
    function: TensorFunction, tensors: Sequence[Tensor], parameters: Mapping[str, Tensor], *, compiled: bool
) -> Recording:
    """Run a function once and write down its tensor operations, drawing nothing from the global generator.

    Args:
        function: what to record.
        tensors: what to run it on.
        parameters: tensors by name that change from one replay to the next; the function may read them as inputs only.
        compiled: whether to compile the operations by inductor.

    Raises:
        UnsupportedProgramError: a tensor that the function reads shares memory with a parameter.
    """
    started = time.perf_counter()
    inputs = [value.clone() for value in tensors]  # so that they share no memory with the parameters
    traced, result = trace(function, inputs, parameters)
    count = len(traced.graph.nodes)
    graph = simplified(traced, inputs)
    del traced
    gc.collect()  # frees all tensors of the run, which the traced graph's nodes hold in cycles
    done = time.perf_counter()
    operations = compiled_graph(graph, inputs) if compiled else graph
    seconds = (done - started, time.perf_counter() - done if compiled else None)
    return Recording(operations, result, (len(graph.graph.nodes), count), seconds)


def trace(
    function: TensorFunction, inputs: Sequence[Tensor], parameters: Mapping[str, Tensor]
) -> tuple[GraphModule, TreeSpec]:
    """The operations of a function, not yet simplified, and the nest that its result is."""
    results: list[TreeSpec] = []

    def operations(*given: Tensor) -> list[Tensor]:
        with _NoAliases(parameters):
            flat, result = tree_flatten(function(given))
        results.append(result)
        return flat

    with torch.random.fork_rng(), torch.enable_grad():
        return make_fx(operations)(*inputs), results[-1]


class _NoAliases(TorchDispatchMode):
    """What is not an input is the same at every replay, so it must not share memory with a parameter."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names: dict[int | None, str] = {
            value.untyped_storage().data_ptr(): name for name, value in parameters.items() if value.numel()
        }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            address = _address(value) if isinstance(value, Tensor) else None
            if address in self._names:
                name = self._names[address]
                raise UnsupportedProgramError(f"the program reads a tensor that shares memory with {name!r}: clone it")
        return func(*args, **kwargs or {})


def _address(value: Tensor) -> int | None:
    """Where the memory of a tensor is, under the wrappers of vmap; None for one that has none, as the sparse."""
    while is_functorch_wrapped_tensor(value):
        value = get_unwrapped(value)
    try:
        return value.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):
        return None


def compiled_graph(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    """A graph as inductor makes it, compiled here and now for inputs like these."""
    run = torch.compile(graph, fullgraph=True, dynamic=False)
    with torch.random.fork_rng(), torch.no_grad():
        run(*inputs)
    return run
