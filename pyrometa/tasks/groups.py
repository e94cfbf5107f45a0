"""Tasks of any sizes, each one group of a table, and draws of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from pyrometa.tasks.checks import integer, positive
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.rows import row_count, take
from pyrometa.tasks.seeded import Seeded
from pyrometa.tasks.stored import StoredRows

__all__ = ["GroupSampler", "GroupedTasks"]

Lists = tuple[list[ModelTensors], list[ModelTensors]]

Support = float | Literal["all"]


@dataclass(frozen=True, eq=False)
class GroupedTasks:
    """Tasks of any sizes: one group of a table each.

    Made by :func:`group_tasks`, :func:`from_frame` or :func:`from_parquet`. ``len`` counts the groups.

    Attributes:
        rows: each group's rows as the model takes them, a tensor or a tuple of tensors, each ``(rows, ...)``; from a
            file they are read when they are indexed.
        names: each group's name, as it stands in the group column.
    """

    rows: Sequence[ModelTensors]
    names: tuple[Hashable, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> list[int]:
        """How many rows each group has; reads none."""
        return self.rows.sizes if isinstance(self.rows, StoredRows) else [row_count(rows) for rows in self.rows]

    def split(self, support: Support = 0.5, *, seed: int = 0) -> Lists:
        """Split every group's rows at random into support and query: a fixed set to evaluate on.

        Args:
            support: support rows a group if an integer, else their share of each group, within (0, 1) and rounded; at
                least one row goes to each side. ``"all"`` puts all rows on both.
            seed: the same seed gives the same rows.

        Returns:
            ``(support, query)``, two lists of tasks, as ``meta.evaluate(*tasks.split())`` takes them.

        Raises:
            TypeError: if ``support`` is not a number, or the seed not an integer.
            ValueError: if ``support`` is out of range, or a group is too small for it.

        Example:
            >>> import torch
            >>> from pyrometa.tasks import group_tasks
            >>> schools = group_tasks(torch.arange(9.0), list("aabbbcccc"), fractions=(1.0, 0.0, 0.0)).train
            >>> support, query = schools.split(0.5)
            >>> [(len(s), len(q)) for s, q in zip(support, query)]
            [(2, 2), (1, 1), (2, 1)]
        """
        _check_support(support, self)
        generator = torch.Generator().manual_seed(integer("seed", seed))
        return _split_all(self._read(range(len(self))), support, generator)

    def _read(self, groups: Sequence[int]) -> list[ModelTensors]:
        return self.rows.read(groups) if isinstance(self.rows, StoredRows) else [self.rows[i] for i in groups]


class GroupSampler(Seeded):
    """Draw meta-batches of groups, reproducibly: two lists of tasks of any sizes.

    Each draw takes distinct groups and splits each one's rows into support and query anew. All randomness comes
    from one generator of the sampler's own: the global generator is neither read nor moved. As sizes differ,
    meta-learn with ``MetaSVI(..., reduction="mean")``: one step size does not suit the summed losses of small and large
    groups. ``state_dict()`` and ``load_state_dict(state)`` are those of :class:`TaskSampler`.

    Args:
        tasks: the groups.
        support: support rows a group if an integer, else their share of each group, within (0, 1) and rounded; at
            least one row goes to each side. ``"all"`` puts all rows on both, as where a guide has parameters of its
            own for each row.
        seed: seeds the sampler's generator.

    Raises:
        TypeError: if ``support`` is not a number, or the seed not an integer.
        ValueError: if ``support`` is out of range, or a group is too small for it.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import GroupSampler, group_tasks
        >>> x, y, school = torch.randn(60, 3), torch.randn(60), torch.arange(60) % 7
        >>> splits = group_tasks((x, y), school, seed=0)
        >>> support, query = GroupSampler(splits.train, support=0.5, seed=0).sample(2)
        >>> [(x.shape, y.shape) for x, y in support]
        [(torch.Size([4, 3]), torch.Size([4])), (torch.Size([4, 3]), torch.Size([4]))]
    """

    def __init__(self, tasks: GroupedTasks, *, support: Support = 0.5, seed: int) -> None:
        _check_support(support, tasks)
        super().__init__(seed)
        self.tasks = tasks
        self.support = support

    def sample(self, batch_size: int) -> Lists:
        """Draw a meta-batch.

        Args:
            batch_size: how many groups, each another one.

        Returns:
            ``(support, query)``, two lists of tasks, as ``meta.step(*sampler.sample(16))`` takes them.

        Raises:
            TypeError: if ``batch_size`` is not an integer.
            ValueError: if it is below 1 or above the number of groups.
        """
        return self._sample(positive("batch_size", batch_size), self._generator)

    def _sample(self, batch_size: int, generator: torch.Generator) -> Lists:
        if batch_size > len(self.tasks):
            raise ValueError(f"batch_size {batch_size} asks for more groups than there are: {len(self.tasks)}")
        chosen = torch.randperm(len(self.tasks), generator=generator, device=generator.device)[:batch_size].tolist()
        return _split_all(self.tasks._read(chosen), self.support, generator)


def _split_all(groups: Sequence[ModelTensors], support: Support, generator: torch.Generator) -> Lists:
    supports, queries = [], []
    for data in groups:
        order = torch.randperm(row_count(data), generator=generator, device=generator.device)
        count = _support_rows(support, len(order))
        supports.append(take(data, order[:count]))
        queries.append(take(data, order[0 if support == "all" else count :]))
    return supports, queries


def _support_rows(support: Support, size: int) -> int:
    if support == "all":
        return size
    return support if isinstance(support, int) else min(max(round(support * size), 1), size - 1)


def _check_support(support: Support, tasks: GroupedTasks) -> None:
    if isinstance(support, str) and support == "all":
        return
    if isinstance(support, bool) or not isinstance(support, (int, float)):
        raise TypeError(f"support must be a number of rows, a share of them or 'all', got {support!r}")
    if isinstance(support, float) and not 0 < support < 1:
        raise ValueError(f"support as a share of the rows must lie within (0, 1), got {support}")
    if isinstance(support, int):
        positive("support", support)
        sizes = tasks.sizes
        if sizes and min(sizes) <= support:
            name = tasks.names[sizes.index(min(sizes))]
            raise ValueError(
                f"{support} support rows leave no query in group {name!r} of {min(sizes)} rows: "
                f"leave such groups out by minimum={support + 1}, or give a share"
            )
