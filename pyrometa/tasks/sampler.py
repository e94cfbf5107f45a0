"""Seeded draws of meta-batches from a family of tasks."""

from __future__ import annotations

from typing import Protocol

import torch

from pyrometa.tasks.checks import positive
from pyrometa.tasks.meta_batch import MetaBatch, ModelTensors
from pyrometa.tasks.seeded import Seeded

__all__ = ["TaskFamily", "TaskSampler"]


class TaskFamily(Protocol):
    """A distribution over tasks: all that :class:`TaskSampler` needs of one."""

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> ModelTensors:
        """Draw tasks, and distinct rows of each.

        Args:
            tasks: how many tasks.
            rows: how many rows of each, no row twice within a task.
            generator: the only source of randomness.

        Returns:
            a tensor, or a tuple of tensors, each of shape ``(tasks, rows, ...)``.
        """
        ...


class TaskSampler(Seeded):
    """Draw meta-batches from a family of tasks, reproducibly.

    Each task has ``shots`` support rows and ``queries`` query rows, disjoint within the task. All randomness
    comes from one generator of the sampler's own: the same seed and the same calls give the same bits, and
    the global generator is neither read nor moved. For a fixed evaluation set call :meth:`sample` once.

    Args:
        family: where tasks come from, such as :class:`DigitTasks`.
        shots: support rows a task.
        queries: query rows a task.
        seed: seeds the sampler's generator.

    Raises:
        TypeError: if a count or the seed is not an integer.
        ValueError: if a count is below 1.

    Example:
        >>> from pyrometa.tasks import TaskSampler, digit_tasks, load_images
        >>> data = load_images("digits")
        >>> sampler = TaskSampler(digit_tasks(data.train_x, data.train_y).train, shots=10, queries=15, seed=0)
        >>> support, query = sampler.sample(4)
        >>> support.shape, query.shape
        (torch.Size([4, 10, 784]), torch.Size([4, 15, 784]))
        >>> sampler.pooled(128).shape
        torch.Size([128, 784])
    """

    def __init__(self, family: TaskFamily, *, shots: int, queries: int, seed: int) -> None:
        self.family = family
        self.shots = positive("shots", shots)
        self.queries = positive("queries", queries)
        super().__init__(seed)

    def sample(self, batch_size: int) -> MetaBatch:
        """Draw a meta-batch.

        Args:
            batch_size: how many tasks.

        Returns:
            MetaBatch: support of shape ``(batch_size, shots, ...)``, query ``(batch_size, queries, ...)``.

        Raises:
            TypeError: if ``batch_size`` is not an integer.
            ValueError: if it is below 1, or the family has not enough rows for a task.
        """
        return self._sample(positive("batch_size", batch_size), self._generator)

    def _sample(self, batch_size: int, generator: torch.Generator) -> MetaBatch:
        data = self._draw(batch_size, self.shots + self.queries, generator)
        if isinstance(data, tuple):
            support = tuple(rows[:, : self.shots] for rows in data)
            return MetaBatch(support, tuple(rows[:, self.shots :] for rows in data))
        return MetaBatch(data[:, : self.shots], data[:, self.shots :])

    def pooled(self, batch_size: int) -> ModelTensors:
        """Draw a plain minibatch from the same distribution: one row of each of ``batch_size`` tasks.

        This is what a pooled baseline trains on.

        Args:
            batch_size: how many rows.

        Returns:
            a tensor, or a tuple of tensors, each of shape ``(batch_size, ...)``.

        Raises:
            TypeError: if ``batch_size`` is not an integer.
            ValueError: if it is below 1.
        """
        data = self._draw(positive("batch_size", batch_size), 1, self._generator)
        return tuple(rows[:, 0] for rows in data) if isinstance(data, tuple) else data[:, 0]

    def _draw(self, tasks: int, rows: int, generator: torch.Generator) -> ModelTensors:
        data = self.family.draw(tasks, rows, generator)
        for tensor in data if isinstance(data, tuple) else (data,):
            if tensor.shape[:2] != (tasks, rows):
                raise ValueError(
                    f"{type(self.family).__name__}.draw({tasks}, {rows}, ...) returned shape {tuple(tensor.shape)}: "
                    "the leading dimensions must be the tasks and their rows"
                )
        return data
