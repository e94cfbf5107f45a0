"""A work on tasks of one shape, recorded once as tensor operations and replayed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten

from pyrometa import nest
from pyrometa.engine.batch import BatchPath, side_by_side
from pyrometa.engine.plan import Plan
from pyrometa.engine.problem import Problem, Work
from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import get_unwrapped, is_functorch_wrapped_tensor
from pyrometa.recording.simplify import simplified
from pyrometa.rewrites.packing import unpack
from pyrometa.types import Data, TaskBatch


@dataclass(frozen=True)
class Recording:
    """The tensor operations of a work.

    Attributes:
        run: from inputs to results.
        result: how the results hang together.
        operations: how many there are, and how many there were before they were simplified.
        seconds: that it took to record, and to compile.
    """

    run: Callable[..., Sequence[Tensor]]
    result: TreeSpec
    operations: tuple[int, int]
    seconds: tuple[float, float | None]

    def replay(self, problem: Problem, batch: TaskBatch) -> Any:
        """What the work makes of a batch of the same shape."""
        with torch.no_grad():
            return tree_unflatten(list(self.run(*_inputs(problem, batch))), self.result)

    def __str__(self) -> str:
        recorded, compiled = self.seconds
        told = f"{self.operations[0]} operations of {self.operations[1]}, recorded in {recorded:.1f} s"
        return told if compiled is None else f"{told}, compiled in {compiled:.1f} s"


def record(problem: Problem, batch: TaskBatch, work: Work, plan: Plan, *, compiled: bool) -> Recording:
    """Run a work once and write down its tensor operations, drawing nothing from the global generator.

    Args:
        problem: what to adapt, and how.
        batch: tasks of the shape to record for.
        work: what to do with them.
        plan: how parameters are held.
        compiled: whether to compile the operations by inductor.

    Raises:
        UnsupportedProgramError: a tensor that the program reads shares memory with a parameter.
    """
    started = time.perf_counter()
    recorded, inputs, result = traced(problem, batch, work, plan)
    count = len(recorded.graph.nodes)
    graph = simplified(recorded, inputs)
    del recorded
    gc.collect()  # of all tensors of the run, which the graph's nodes hold in cycles
    done = time.perf_counter()
    run = _compiled(graph, inputs) if compiled else graph
    seconds = (done - started, time.perf_counter() - done if compiled else None)
    return Recording(run, result, (len(graph.graph.nodes), count), seconds)


def traced(problem: Problem, batch: TaskBatch, work: Work, plan: Plan) -> tuple[GraphModule, list[Tensor], TreeSpec]:
    """The tensor operations of a work as they come, what they were recorded on, and how their results hang together."""
    inputs = [value.clone() for value in _inputs(problem, batch)]  # which share no memory with the parameters
    spec: list[TreeSpec] = []

    def operations(*given: Tensor) -> list[Tensor]:
        rebuilt = _rebuilt(problem, batch, given)
        with _NoAliases(problem.leaves):
            result = side_by_side(
                work, BatchPath(*rebuilt, work.order, plan, work.unrolled_steps, check_finite=False), thorough=True
            )
        flat, found = tree_flatten(result)
        spec[:] = [found]
        return flat

    with torch.random.fork_rng(), torch.enable_grad():
        recorded = make_fx(operations)(*inputs)
    return recorded, inputs, spec[0]


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


def _compiled(graph: torch.fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Sequence[Tensor]]:
    run = torch.compile(graph, fullgraph=True, dynamic=False)
    with torch.random.fork_rng(), torch.no_grad():
        run(*inputs)
    return run


def _inputs(problem: Problem, batch: TaskBatch) -> list[Tensor]:
    """All tensors that differ from one replay to the next, in the layout in memory that views are recorded for."""
    own = [*problem.leaves.values(), *problem.learned.values(), *_tensors(batch.support), *_tensors(batch.query)]
    noise = [packed for draws in (*batch.support_noise, batch.query_noise) for packed in _packed(draws)]
    return [*(value.detach().contiguous() for value in own), *noise]


def _rebuilt(problem: Problem, batch: TaskBatch, inputs: Sequence[Tensor]) -> tuple[Problem, TaskBatch]:
    """The same problem and batch on other tensors."""
    given = iter(inputs)
    leaves, learned = (
        {name: next(given).detach().requires_grad_(value.requires_grad) for name, value in values.items()}
        for values in (problem.leaves, problem.learned)
    )
    support, query = (_replaced(data, given) for data in (batch.support, batch.query))
    *ahead, last = (_unpacked(given, draws) for draws in (*batch.support_noise, batch.query_noise))
    return (
        replace(problem, leaves=leaves, learned=learned),
        replace(batch, support=support, query=query, support_noise=tuple(ahead), query_noise=last),
    )


def _tensors(data: Data) -> list[Tensor]:
    return [*data.tensors(), *nest.tensors(data.kwargs)]


def _replaced(data: Data, given: Iterator[Tensor]) -> Data:
    moved = data.on(given)
    return replace(moved, kwargs=nest.replaced(data.kwargs, given))


def _packed(draws: Sequence[Tensor]) -> list[Tensor]:
    """The draws of one evaluation end to end, shape ``(tasks, size)``, and the seeds of streams likewise."""
    return [
        torch.cat([draws[i].flatten(1) if draws[i].dim() > 1 else draws[i][:, None] for i in alike], 1)
        for alike in _noise_and_seeds(draws)
    ]


def _unpacked(given: Iterator[Tensor], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    found: dict[int, Tensor] = {}
    for alike in _noise_and_seeds(like):
        parts = unpack(next(given), [like[i][0].numel() for i in alike])
        found.update((i, part.view(like[i].shape).to(like[i].dtype)) for i, part in zip(alike, parts, strict=True))
    return tuple(found[i] for i in range(len(like)))


def _noise_and_seeds(draws: Sequence[Tensor]) -> list[list[int]]:
    """Positions of floating-point numbers and of integers, where there are any."""
    floating = [i for i, draw in enumerate(draws) if draw.is_floating_point()]
    others = [i for i, draw in enumerate(draws) if not draw.is_floating_point()]
    return [alike for alike in (floating, others) if alike]
