"""Which dimension of a task's data is its rows, so that tasks with fewer of them can be padded.

A program does not say which tensors hold a row a datum, so it is read off the tasks: those whose first size is, in
every set, that of the first tensor. A tensor that only happens to have that size in one set is told by the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor

from pyrometa import nest
from pyrometa.errors import UnsupportedProgramError
from pyrometa.program.program import Program
from pyrometa.types import Data

HaveRows: TypeAlias = tuple[bool, ...]
"""For each tensor of a set whether its first dimension is the set's rows."""


class NotPaddableError(UnsupportedProgramError):
    """The tasks can't be brought to one shape, or rows can't be left out of the loss; the message says why."""


def count_rows(data: Data) -> int:
    """The size of the first dimension of the first tensor.

    Raises:
        NotPaddableError: it has none.
    """
    first = data.tensors()[0]
    if first.dim() == 0:
        raise NotPaddableError("the first argument has no rows")
    return first.shape[0]


def row_plates(program: Program, tasks: Sequence[tuple[Data, Data]]) -> frozenset[str]:
    """Names of the plates whose size is the number of rows, in which rows can be masked.

    Raises:
        NotPaddableError: the rows do not differ, or there is no such plate.
    """
    sets = sorted((data for task in tasks for data in task), key=count_rows)
    fewest, most = sets[0], sets[-1]
    if count_rows(fewest) == count_rows(most):
        raise NotPaddableError("the tasks differ in more than their rows")
    plates = program.row_plates(fewest, most)
    if not plates:
        raise NotPaddableError("the program has no plate of the size of the data")
    return plates


def which_have_rows(tasks: Sequence[tuple[Data, Data]]) -> tuple[HaveRows, HaveRows]:
    """Which tensors of the support sets have rows, and which of the query sets.

    Raises:
        NotPaddableError: the sets differ in more than their rows.
    """
    support, query = map(_in_all, zip(*tasks, strict=True))
    if len(support) == len(query):  # both are arguments of one program
        support = query = tuple(s and q for s, q in zip(support, query, strict=True))
    return support, query


def _in_all(sets: Sequence[Data]) -> HaveRows:
    if len({nest.layout(data.args, Tensor.dim) for data in sets}) > 1:
        raise NotPaddableError("the tasks differ in what is not a tensor, or in ranks")
    counts = [count_rows(data) for data in sets]
    found = tuple(
        len({tensor.shape[1:] for tensor in column}) == 1
        and all(tensor.dim() and len(tensor) == count for tensor, count in zip(column, counts, strict=True))
        for column in zip(*(nest.tensors(data.args) for data in sets), strict=True)
    )
    if not found[0]:
        raise NotPaddableError("the first argument differs in more than its rows")
    return found
