"""learn2learn's ``Taskset`` as a source of tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrometa.tasks import TaskSampler

__all__ = ["taskset_sampler"]


def taskset_sampler(taskset: Any, *, shots: int, seed: int) -> TaskSampler:
    """Draw meta-batches from a ``learn2learn.data.Taskset``, reproducibly.

    Each of the taskset's ``(data, labels)`` is split by class, as ``learn2learn.data.partition_task`` does: ``shots``
    rows of each class are support, the rest query. Labels that are not integers are targets of a regression: the
    first ``shots`` rows are support.

    learn2learn draws tasks from Python's ``random``, and torchvision's transforms draw from torch: both are seeded for
    each task and put back. A taskset with ``num_tasks`` set keeps the rows of a task once they were drawn: here
    task ``i`` is drawn under seed ``i``, whichever comes first. Give a taskset that was not sampled before.

    With ``KShots(..., replacement=True)`` a task holds rows twice, and support and query may share them.

    Args:
        taskset: a ``Taskset`` whose transforms end with the data loaded (``LoadData``) and, for classification, the
            labels numbered anew (``RemapLabels``).
        shots: support rows a class.
        seed: seeds the sampler's generator, which chooses the tasks.

    Returns:
        TaskSampler: ``sample(tasks)`` gives ``(x, y), (query_x, query_y)`` with leading dimensions ``(tasks, rows)``.
        Rows of a classification run through the classes by turns: 0, 1, ..., 0, 1, ...

    Raises:
        TypeError: if ``taskset`` is no Taskset, its tasks are not ``(data, labels)`` tensors, or a number is not an
            integer.
        ValueError: if ``shots`` is below 1 or leaves no query, or classes differ in their number of rows.

    Example:
        >>> import torch
        >>> from learn2learn.data import MetaDataset, Taskset
        >>> from learn2learn.data.transforms import KShots, LoadData, NWays, RemapLabels
        >>> from pyrometa.interop.learn2learn_tasks import taskset_sampler
        >>> rows = torch.utils.data.TensorDataset(torch.rand(200, 64), torch.arange(200) // 20)
        >>> data = MetaDataset(rows)
        >>> transforms = [NWays(data, 5), KShots(data, 16), LoadData(data), RemapLabels(data)]
        >>> sampler = taskset_sampler(Taskset(data, transforms), shots=1, seed=0)
        >>> (x, y), (query_x, query_y) = sampler.sample(4)
        >>> x.shape, y.shape, query_x.shape
        (torch.Size([4, 5, 64]), torch.Size([4, 5]), torch.Size([4, 75, 64]))
    """
    if not (hasattr(taskset, "num_tasks") and hasattr(taskset, "__getitem__")):
        raise TypeError(f"taskset must be a learn2learn.data.Taskset, got {type(taskset).__name__}")
    if isinstance(shots, bool) or not isinstance(shots, int):
        raise TypeError(f"shots must be an integer, got {shots!r}")
    _, labels = _load(taskset, 0, 0)
    ways = _ways(labels)
    queries = len(labels) // ways - shots
    if shots < 1 or queries < 1:
        raise ValueError(
            f"shots must be at least 1 and leave a query row: got {shots} of the {len(labels) // ways} rows that a "
            "task has of each class (KShots sets k = shots + queries)"
        )
    return TaskSampler(_TasksetFamily(taskset), shots=ways * shots, queries=ways * queries, seed=seed)


@dataclass(frozen=True, eq=False)
class _TasksetFamily:
    """A taskset's tasks, chosen by the sampler's generator, with rows of the classes by turns."""

    taskset: Any

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kept = self.taskset.num_tasks
        made: dict[str, Any] = {"generator": generator, "device": generator.device}
        numbers = torch.randint(kept if kept > 0 else 2**62, (tasks,), **made).tolist()
        seeds = torch.randint(2**62, (tasks,), **made).tolist()
        dealt = [_dealt(*_load(self.taskset, number, seed), rows) for number, seed in zip(numbers, seeds, strict=True)]
        return torch.stack([x for x, _ in dealt]), torch.stack([y for _, y in dealt])


def _dealt(data: Tensor, labels: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """All rows of a task, the first of each class first, then the second of each, and so on."""
    if len(labels) != rows:
        raise ValueError(f"a task of {rows} rows is asked for, but the taskset gave one of {len(labels)}")
    order = torch.arange(rows)
    if (ways := _ways(labels)) > 1:
        order = labels.argsort(stable=True).reshape(ways, -1).T.flatten()
    return data[order], labels[order]


def _ways(labels: Tensor) -> int:
    """The number of classes, or 1 for the targets of a regression."""
    if labels.is_floating_point():
        return 1
    classes, counts = labels.unique(return_counts=True)
    if counts.min() != counts.max():
        listed = ", ".join(f"{label}: {count}" for label, count in zip(classes, counts, strict=True))
        raise ValueError(f"classes of a task differ in their number of rows ({listed}): use KShots")
    return len(classes)


def _load(taskset: Any, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Task ``number``, images transformed under ``seed``; a taskset that keeps no tasks has index 0 alone."""
    with _seeded(number, seed):
        task = taskset[number if taskset.num_tasks > 0 else 0]
    pair = isinstance(task, (tuple, list)) and len(task) == 2
    if not (pair and all(isinstance(part, Tensor) and part.ndim > 0 for part in task)):
        raise TypeError(
            f"a task must be (data, labels), two tensors, got {type(task).__name__}: do the transforms have LoadData?"
        )
    data, labels = task
    if len(data) != len(labels) or (not labels.is_floating_point() and labels.ndim != 1):
        raise ValueError(
            f"data {tuple(data.shape)} and labels {tuple(labels.shape)} of a task do not fit together: give each row "
            "one label"
        )
    return data, labels


@contextmanager
def _seeded(task: int, transforms: int) -> Iterator[None]:
    """Python's and torch's global generators from a seed each, put back afterwards."""
    state = random.getstate()
    with torch.random.fork_rng(devices=[]):
        random.seed(task)
        torch.default_generator.manual_seed(transforms)
        try:
            yield
        finally:
            random.setstate(state)
