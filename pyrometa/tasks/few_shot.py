"""N-way K-shot classification tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pyrometa.tasks.checks import positive
from pyrometa.tasks.sampler import TaskSampler

__all__ = ["FewShotTasks"]


@dataclass(frozen=True, eq=False)
class FewShotTasks:
    """N-way K-shot classification: a task is ``ways`` classes, numbered anew, and images of each.

    Each task draws distinct classes, numbers them 0 to ``ways - 1`` in random order, and draws distinct images of each.

    Args:
        images: of any shape a row, ``(n, ...)``; square in the last two dimensions for ``quarter_turns``.
        labels: their classes, int64, shape ``(n,)``.
        ways: classes a task.
        classes: the classes that may be drawn; all of them by default.
        quarter_turns: whether a class turned by 90, 180 or 270 degrees is another class (Santoro et al. 2016): four
            times as many, each task's images turned as their class is.

    Raises:
        TypeError: if the labels are not int64, or ``ways`` not an integer.
        ValueError: if shapes do not fit, a class has no image, or there are fewer classes than ``ways``.

    Reference:
        Santoro et al. (2016), Meta-Learning with Memory-Augmented Neural Networks, https://arxiv.org/abs/1605.06065

    Example:
        >>> import torch
        >>> from pyrometa.tasks import FewShotTasks, load_images
        >>> data = load_images("digits8x8")
        >>> tasks = FewShotTasks(data.train_x.flatten(1), data.train_y, ways=5, classes=range(7))
        >>> (x, y), (query_x, query_y) = tasks.sampler(shots=1, queries=15, seed=0).sample(4)
        >>> x.shape, y.shape, query_x.shape
        (torch.Size([4, 5, 64]), torch.Size([4, 5]), torch.Size([4, 75, 64]))
        >>> y[0]
        tensor([0, 1, 2, 3, 4])
    """

    images: Tensor
    labels: Tensor
    ways: int = 5
    classes: Sequence[int] | None = None
    quarter_turns: bool = False

    def __post_init__(self) -> None:
        _check_labelled(self.images, self.labels)
        positive("ways", self.ways)
        if self.quarter_turns and (self.images.ndim < 3 or self.images.shape[-1] != self.images.shape[-2]):
            raise ValueError(
                f"quarter_turns needs images of shape (n, ..., size, size), got {tuple(self.images.shape)}"
            )
        present = set(self.labels.tolist())
        if unknown := sorted(set(self.classes or ()) - present):
            raise ValueError(f"classes names {unknown[:5]}, of which there is no image")
        kinds = (4 if self.quarter_turns else 1) * len(present if self.classes is None else set(self.classes))
        if kinds < self.ways:
            raise ValueError(f"a task of {self.ways} ways needs as many classes: there are {kinds}")

    def sampler(self, *, shots: int, queries: int, seed: int) -> TaskSampler:
        """Return what draws the meta-batches; here, and only here, counts are *a class*.

        Args:
            shots: support images of each class of a task.
            queries: query images of each class of a task.
            seed: seeds the sampler's generator.

        Returns:
            TaskSampler: ``sample(tasks)`` gives ``(x, y), (query_x, query_y)``: ``x`` of shape
            ``(tasks, ways * shots, ...)``, ``y`` int64 of shape ``(tasks, ways * shots)``, running 0, 1, ..., ways - 1,
            0, 1, ...; the query's with ``queries`` for ``shots``.

        Raises:
            TypeError: if a count or the seed is not an integer.
            ValueError: if a count is below 1, or a class has fewer than ``shots + queries`` images.
        """
        wanted = positive("shots", shots) + positive("queries", queries)
        label, size = self._smallest
        if wanted > size:
            raise ValueError(f"{shots} shots and {queries} queries need {wanted} images of a class: {label} has {size}")
        return TaskSampler(_Dealt(self), shots=self.ways * shots, queries=self.ways * queries, seed=seed)

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        """Rows by class, padded, shape ``(classes, longest)``; and 1.0 where it is not padding."""
        kept = self.labels.unique() if self.classes is None else torch.tensor(sorted(set(self.classes)))
        by_class = [(self.labels == label).nonzero().squeeze(1) for label in kept]
        sizes = torch.tensor([len(rows) for rows in by_class])
        members = pad_sequence(by_class, batch_first=True)
        return members, (torch.arange(members.shape[1]) < sizes[:, None]).to(torch.float32)

    @property
    def _smallest(self) -> tuple[int, int]:
        """The class with the fewest images, and how many."""
        members, present = self._members
        sizes = present.sum(1).long()
        fewest = int(sizes.argmin())
        return int(self.labels[members[fewest, 0]]), int(sizes[fewest])


@dataclass(frozen=True, eq=False)
class _Dealt:
    """Rows dealt out class by class, row r of class r % ways: any multiple of ways is balanced."""

    tasks: FewShotTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        ways = self.tasks.ways
        if rows % ways:
            raise ValueError(f"{rows} rows are no multiple of {ways} ways: a class has a number within its task only")
        members, present = self.tasks._members
        turns = 4 if self.tasks.quarter_turns else 1
        likely = torch.ones(tasks, len(members) * turns, dtype=torch.float32)
        kinds = torch.multinomial(likely, ways, generator=generator)  # (tasks, ways)
        classes = kinds // turns
        chosen = torch.multinomial(present[classes].flatten(0, 1), rows // ways, generator=generator)
        chosen = members[classes].flatten(0, 1).gather(1, chosen)
        images = self.tasks.images[chosen.reshape(tasks, ways, -1).mT]  # (tasks, rows / ways, ways, ...)
        if turns > 1:
            images = _turn(images, (kinds % turns)[:, None].expand(images.shape[:3]))
        return images.flatten(1, 2), torch.arange(rows).remainder(ways).expand(tasks, rows).clone()


def _turn(images: Tensor, quarters: Tensor) -> Tensor:
    """Turn each image counter-clockwise by its number of quarters, one for each leading index of ``quarters``."""
    turned = images.clone()
    for quarter in (1, 2, 3):
        turned[quarters == quarter] = torch.rot90(images[quarters == quarter], quarter, dims=(-2, -1))
    return turned


def _check_labelled(images: Tensor, labels: Tensor) -> None:
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64, got {labels.dtype}")
    if images.ndim < 2 or labels.shape != images.shape[:1]:
        got = f"{tuple(images.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"images and labels must have shapes (n, ...) and (n,), got {got}")
