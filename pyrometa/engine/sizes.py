"""How large tasks are: the rows of their sets, how many there are side by side, and the work that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.flop_counter import flop_registry

from pyrometa import generators
from pyrometa.engine.data_rows import count_rows
from pyrometa.internals import TorchDispatchMode, tree_leaves
from pyrometa.program.program import Program
from pyrometa.types import Data, TaskBatch

_PRODUCTS = 16
"""How many multiplications of a matrix product take as long as an element that an operation writes."""


@dataclass(frozen=True)
class Shape:
    """The size of tasks side by side.

    Attributes:
        tasks: how many they are.
        support: rows of each support set.
        query: rows of each query set.
    """

    tasks: int
    support: int
    query: int

    @property
    def sizes(self) -> tuple[int, int]:
        """The rows of both sets."""
        return self.support, self.query

    def holds(self, other: Shape) -> bool:
        """Whether tasks of the other size can be padded to this one."""
        return self.joined(other) == self

    def joined(self, other: Shape) -> Shape:
        """The least size that both can be padded to."""
        return Shape(*map(max, zip(_numbers(self), _numbers(other), strict=True)))

    def rounded(self) -> Shape:
        """Each number as the next power of two."""
        return Shape(*map(rounded, _numbers(self)))


def _numbers(shape: Shape) -> tuple[int, int, int]:
    return shape.tasks, shape.support, shape.query


def sizes_of(group: TaskBatch) -> tuple[int, int]:
    """How many rows the support and the query sets of tasks of one shape have.

    Raises:
        NotPaddableError: the first argument has no rows.
    """
    return count_rows(group.support.first), count_rows(group.query.first)


def rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


def fewest_of(count: int) -> int:
    """The smallest number that is rounded to this one."""
    return count // 2 + 1 if count > 2 else count


def work(program: Program, *sets: Data) -> float:
    """How much an operation has to do in the loss of one task, on average: elements to write, of the dearest set.

    It is counted in a run, so that it is the same on any machine; a replay takes about as long for an operation as for
    some thousands of elements.
    """
    with generators.forked():
        return max(_work(program, data) for data in sets)


def _work(program: Program, data: Data) -> float:
    with _Counting() as counting:
        program.loss({}, data)
    return counting.elements / max(1, counting.operations)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations, self.elements = 0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        made = func(*args, **kwargs or {})
        flops = flop_registry.get(func.overloadpacket)
        self.operations += 1
        self.elements += sum(value.numel() for value in tree_leaves(made) if isinstance(value, Tensor))
        if flops:
            self.elements += flops(*args, **kwargs or {}, out_val=made) / (2 * _PRODUCTS)
        return made
