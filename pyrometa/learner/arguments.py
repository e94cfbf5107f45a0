"""What MetaSVI's data arguments mean, and whether they can be used.

A tuple is the model's positional arguments; a tensor, dictionary, dataclass or named tuple is the single one. Each
tensor in them has a leading task dimension. A list is always tasks, each as the model takes it.
"""

from __future__ import annotations

import cmath
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.inner import all_finite
from pyrometa.types import Data

Argument = Any
"""A tensor, a nest of tensors, a tuple of the model's arguments, or a list of tasks."""

OneTask = Any
"""One task as the model takes it: its single argument, or the tuple of its positional arguments."""

Kwargs = Mapping[str, Any] | None
"""Keyword arguments of the model and the guide, shared by all tasks and not batched."""

Ranks = tuple[dict[str, int], ...]
"""For each positional argument, the rank of each tensor in it by its place, ``""`` for the argument itself."""


_LIST = "a list is tasks: if it holds the model's arguments, as a DataLoader's batch does, use a tuple, tuple(batch)"


class GivenTasks(Sequence[Data]):
    """The tasks of an argument, each as the model takes it.

    Attributes:
        stacked: all of them with a leading task dimension, where they were given so.
    """

    def __init__(self, count: int, stacked: Data | None, rows: Sequence[Data] = ()) -> None:
        self.stacked = stacked
        self._count, self._rows = count, rows

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, task: int) -> Data: ...
    @overload
    def __getitem__(self, task: slice) -> list[Data]: ...
    def __getitem__(self, task: int | slice) -> Data | list[Data]:
        """One task, or some of them."""
        if isinstance(task, slice):
            return [self[i] for i in range(*task.indices(self._count))]
        if not -self._count <= task < self._count:
            raise IndexError(f"task {task} of {self._count}")
        if self.stacked is None:
            return self._rows[task]
        return self.stacked[task] if task else self.stacked.first


def read_tasks(name: str, given: Argument, kwargs: Kwargs = None) -> GivenTasks:
    """The tasks of a ``support`` or ``query`` argument.

    Args:
        name: what the argument is called, for errors.
        given: a tensor, nest or tuple with a leading task dimension, or a list of tasks.
        kwargs: keyword arguments that all tasks share.

    Raises:
        TypeError: anything else than tensors, nests, tuples and lists.
        ValueError: no tasks, no data, differing task counts, NaN or infinite values, a list of what can't be tasks of
            one kind; the message says where.
    """
    if isinstance(given, list):
        if not given:
            raise ValueError(f"{name} is an empty list: give at least one task")
        tasks = _listed(name, given, _shared(kwargs))
        _check_alike(name, tasks)
        return GivenTasks(len(tasks), None, tasks)
    args = arguments(name, given)
    labelled = _labelled(name, args)
    count = _task_count(name, labelled)
    finite = all_finite([arg for _, arg in labelled])
    for label, arg in labelled:
        if not finite:
            _check_values(label, arg, per_task=True)
        _check_rows(label, arg, arg.shape[1:])
    return GivenTasks(count, Data(args, _shared(kwargs)))


def _listed(name: str, given: Sequence[OneTask], shared: Mapping[str, Any]) -> list[Data]:
    """The tasks of a list, whose values are looked at one by one only if something is not finite in one of them."""
    found: dict[Any, list[Tensor]] = {}
    tasks = []
    for i, task in enumerate(given):
        args = arguments(f"{name}[{i}]", task)
        for label, arg in _labelled(f"{name}[{i}]", args):
            _check_rows(label, arg, arg.shape)
            found.setdefault((arg.dtype, arg.device), []).append(arg.detach().reshape(-1))
        tasks.append(Data(args, shared))
    if not all(_is_finite(torch.cat(values)) for values in found.values()):
        for i, task in enumerate(tasks):
            for label, arg in _labelled(f"{name}[{i}]", task.args):
                _check_values(label, arg, per_task=False)
    return tasks


def by_shape(support: GivenTasks, query: GivenTasks) -> Iterator[tuple[tuple[int, ...], Data, Data]]:
    """Tasks of one shape together.

    Yields:
        Their positions, and their support and query sets with a leading task dimension.
    """
    if support.stacked is not None and query.stacked is not None:
        yield tuple(range(len(support))), support.stacked, query.stacked
        return
    groups: dict[Hashable, list[int]] = {}
    for i, (s, q) in enumerate(zip(support, query, strict=True)):
        groups.setdefault((_shape(s), _shape(q)), []).append(i)
    for positions in groups.values():
        yield tuple(positions), _stacked([support[i] for i in positions]), _stacked([query[i] for i in positions])


def _shape(task: Data) -> Hashable:
    return nest.layout(task.args, lambda x: (x.shape, x.dtype, x.device))


def _stacked(tasks: Sequence[Data]) -> Data:
    return Data(nest.joined(torch.stack, [task.args for task in tasks]), tasks[0].kwargs)


def one_task(name: str, given: OneTask, kwargs: Kwargs = None) -> Data:
    """One task as the model takes it: its single argument, or the tuple of its positional arguments.

    Raises:
        TypeError: anything else.
        ValueError: no data, NaN or infinite values.
    """
    args = arguments(name, given)
    for label, arg in _labelled(name, args):
        _check_rows(label, arg, arg.shape)
        _check_values(label, arg, per_task=False)
    return Data(args, _shared(kwargs))


def read_pairs(
    read: Callable[[str, Argument, Kwargs], GivenTasks], support: Argument, query: Argument | None, kwargs: Kwargs
) -> tuple[GivenTasks, GivenTasks]:
    """The support and query sets of a meta-batch; without a ``query`` the support sets are both.

    Raises:
        TypeError: as of ``read``.
        ValueError: as of ``read`` and of :func:`check_pairs`.
    """
    supports = read("support", support, kwargs)
    queries = supports if query is None else read("query", query, kwargs)
    check_pairs(supports, queries)
    return supports, queries


def check_pairs(support: Sequence[Data], query: Sequence[Data]) -> None:
    """Refuse support and query sets that do not belong together.

    Raises:
        ValueError: differing task counts, argument counts or ranks.
    """
    if len(support) != len(query):
        raise ValueError(f"support has {len(support)} tasks and query has {len(query)}: give as many of both")
    check_ranks("query", query[0], ranks(support[0]), "support")


def check_ranks(name: str, task: Data, expected: Ranks, where: str) -> None:
    """Refuse a task whose arguments have other ranks than expected.

    Raises:
        ValueError: naming the argument, both ranks and the cure.
    """
    got = ranks(task)
    if len(got) != len(expected):
        raise ValueError(f"{name} has {len(got)} arguments and {where} has {len(expected)}: give the same arguments")
    for i, (found, wanted) in enumerate(zip(got, expected, strict=True)):
        if found != wanted:
            place = next(place for place in {**wanted, **found} if found.get(place) != wanted.get(place))
            label = f"{name if len(got) == 1 else f'{name}[{i}]'}{place}"
            raise ValueError(
                f"{label} has {_rank(found.get(place))} a task where {where} has {_rank(wanted.get(place))}: one task "
                "is what the model takes, and a meta-batch has one leading task dimension more"
            )


def ranks(task: Data) -> Ranks:
    """Rank of each tensor of a task."""
    return tuple({place: tensor.dim() for place, tensor in nest.labelled("", arg)} for arg in task.args)


def _rank(rank: int | None) -> str:
    return "no tensor" if rank is None else f"{rank} dimension{'' if rank == 1 else 's'}"


def arguments(name: str, given: Any) -> tuple[Any, ...]:
    """The model's positional arguments; errors as of :func:`read_tasks`."""
    if hasattr(given, "support") and hasattr(given, "query"):
        raise TypeError(f"{name} is a {type(given).__name__} of support and query: unpack it, meta.step(*task)")
    several = isinstance(given, tuple) and not nest.is_named(given)
    args = given if several else (given,)
    if isinstance(given, list) or not (several or nest.is_nest(given)):
        raise TypeError(
            f"{name} must be a tensor, a dictionary or dataclass of tensors, a tuple of the model's arguments or a "
            f"list of tasks, got {type(given).__name__}"
        )
    if not nest.tensors(args):
        held = "it holds the model's positional arguments" if several else "it is the model's single argument"
        raise ValueError(f"{name} is a {type(given).__name__} without a tensor: {held}")
    return args


def _shared(kwargs: Kwargs) -> Mapping[str, Any]:
    if kwargs and not isinstance(kwargs, Mapping):
        raise TypeError(f"kwargs must be a dictionary of keyword arguments by name, got {type(kwargs).__name__}")
    for label, value in nest.labelled("kwargs", kwargs or {}):
        _check_values(label, value, per_task=False)
    return kwargs or {}


def _labelled(name: str, args: tuple[Any, ...]) -> list[tuple[str, Tensor]]:
    return list(nest.labelled(name, args[0] if len(args) == 1 else args))


def _task_count(name: str, labelled: Sequence[tuple[str, Tensor]]) -> int:
    counts = {}
    for label, arg in labelled:
        if arg.dim() == 0:
            raise ValueError(f"{label} is a scalar: it needs a leading task dimension")
        counts[label] = arg.shape[0]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{label}: {count}" for label, count in counts.items())
        raise ValueError(f"the arguments differ in their leading task dimension ({listed})")
    count = next(iter(counts.values()))
    if count == 0:
        raise ValueError(f"{name} holds no tasks: its leading task dimension is 0")
    return count


def _check_rows(label: str, arg: Tensor, of_one: torch.Size) -> None:
    """Refuse a tensor that has no rows; rows of no columns are data, as of a model without covariates."""
    if of_one[:1] == (0,):
        raise ValueError(f"{label} is empty: shape {tuple(arg.shape)} holds no data")


def _is_finite(arg: Tensor) -> bool:
    """Whether its sum is finite, and so each of its values; where it is not, that says nothing."""
    return not (arg.is_floating_point() or arg.is_complex()) or cmath.isfinite(arg.sum().item())


def _check_values(label: str, arg: Tensor, *, per_task: bool) -> None:
    if _is_finite(arg):
        return
    if torch.isfinite(arg).all():
        return
    where = ""
    if per_task:
        bad = (~torch.isfinite(arg)).flatten(1).any(1) if arg.dim() > 1 else ~torch.isfinite(arg)
        where = f" in task {int(bad.nonzero()[0])}"
    raise ValueError(f"{label} holds NaN or infinite values{where}: clean them, or mask them in the model")


def _check_alike(name: str, tasks: Sequence[Data]) -> None:
    """Refuse a list of what can't be tasks of one kind, such as the ``[x, y]`` of a DataLoader."""
    expected, kind = ranks(tasks[0]), _kind(tasks[0])
    for i, task in enumerate(tasks[1:], start=1):
        label, first = f"{name}[{i}]", f"{name}[0]"
        try:
            check_ranks(label, task, expected, first)
        except ValueError as error:
            raise ValueError(f"{error}; {_LIST}") from None
        if _kind(task) is not kind:
            raise ValueError(f"{label} and {first} are not both of floating point: give all tasks one dtype; {_LIST}")


def _kind(task: Data) -> bool | None:
    """Whether a task that is a single tensor is of floating point; None for other tasks."""
    (arg, *more) = task.args
    return arg.is_floating_point() if isinstance(arg, Tensor) and not more else None
