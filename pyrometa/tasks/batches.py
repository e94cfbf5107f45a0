"""Meta-batches by their number: the same ones on any number of workers and processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from pyrometa.tasks.checks import integer, positive
from pyrometa.tasks.ragged import RaggedBatch

__all__ = ["Batches"]

Draw = Callable[[int, torch.Generator], Any]


class Batches(IterableDataset):
    """An endless series of meta-batches, the n-th of which depends on the seed and n alone.

    Made by a sampler's ``batches(batch_size)``. Under ``DataLoader(batches, batch_size=None, num_workers=w)`` worker i
    draws the meta-batches i, i + w, i + 2w, ..., so 0 and w workers give the same ones in the same order; so does
    every process of a distributed run, of which each takes its share of a meta-batch.

    Each iteration begins at ``start`` anew, with one exception: the first after :meth:`load_state_dict` goes on from
    there. torchdata's ``StatefulDataLoader`` saves and restores the position by these methods, in each worker.

    Within a series no generator is seeded alike twice (below 2^32 meta-batches).

    Example:
        >>> import torch
        >>> from itertools import islice
        >>> from torch.utils.data import DataLoader
        >>> from pyrometa.tasks import SinusoidTasks, TaskSampler
        >>> batches = TaskSampler(SinusoidTasks(), shots=5, queries=10, seed=0).batches(4)
        >>> for n, (support, query) in enumerate(islice(DataLoader(batches, batch_size=None), 3)):
        ...     assert torch.equal(support[0], batches.at(n).support[0])
        >>> resumed = TaskSampler(SinusoidTasks(), shots=5, queries=10, seed=0).batches(4, start=3)
        >>> torch.equal(next(iter(resumed)).support[0], batches.at(3).support[0])
        True
    """

    def __init__(self, draw: Draw, batch_size: int, *, seed: int, start: int = 0) -> None:
        self._draw = draw
        self._batch_size = positive("batch_size", batch_size)
        self._seed = seed
        self._start = _not_negative("start", start)
        self._drawn = self._resumed = 0

    def at(self, n: int) -> Any:
        """Draw the n-th meta-batch: a function of the step, for what asks for one.

        Args:
            n: its number, counted from 0 whatever ``start`` is.

        Returns:
            a :class:`MetaBatch` where tasks are of one size, a :class:`RaggedBatch` where they are not.

        Raises:
            TypeError: if ``n`` is not an integer.
            ValueError: if ``n`` is below 0.
        """
        generator = torch.Generator().manual_seed(_seed_of(self._seed, _not_negative("n", n)))
        drawn = self._draw(self._batch_size, generator)
        return RaggedBatch(*drawn) if isinstance(drawn, tuple) else drawn

    def __iter__(self) -> Iterator[Any]:
        self._drawn, self._resumed = self._resumed, 0
        worker = get_worker_info()
        first, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        return self._drawn_from(self._start + first, stride, self._drawn)

    def _drawn_from(self, first: int, stride: int, drawn: int) -> Iterator[Any]:
        for i in count(drawn):
            batch = self.at(first + i * stride)
            self._drawn = i + 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return where the latest iteration stands.

        Returns:
            ``{"seed": ..., "start": ..., "drawn": ...}``, three integers: how many were drawn since ``start``, and in a
            worker of a ``DataLoader`` how many of its own.
        """
        return {"seed": self._seed, "start": self._start, "drawn": self._drawn}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration go on from where :meth:`state_dict` was taken, with the same bits.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            ValueError: if ``state`` is not that of such a series.
        """
        if set(state) != {"seed", "start", "drawn"}:
            raise ValueError(f"not the state of Batches: expected 'seed', 'start' and 'drawn', got {sorted(state)}")
        self._seed, self._start = state["seed"], state["start"]
        self._drawn = self._resumed = state["drawn"]


def _seed_of(seed: int, n: int) -> int:
    """A seed for the n-th generator: all are distinct, as torch's CPU generator takes 32 bits of one.

    A Feistel network on two halves of 16 bits, keyed by the seed: a permutation of n below 2^32.
    """
    left, right = (n >> 16) & 0xFFFF, n & 0xFFFF
    for turn in range(4):
        word = hashlib.blake2b(f"{seed} {n >> 32} {turn} {right}".encode(), digest_size=2).digest()
        left, right = right, left ^ int.from_bytes(word, "little")
    return left << 16 | right


def _not_negative(name: str, value: int) -> int:
    if integer(name, value) < 0:
        raise ValueError(f"{name} must be at least 0, got {value}")
    return value
