"""The generator that a sampler owns, and where it stands."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from pyrometa.tasks.batches import Batches
from pyrometa.tasks.checks import integer

__all__ = ["Seeded"]


class Seeded(ABC):
    """All randomness of a sampler: one generator of its own, seeded once, whose state can be saved."""

    def __init__(self, seed: int) -> None:
        self._seed = integer("seed", seed)
        self._generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the sampler stands.

        Returns:
            ``{"generator": state}``, the state of its generator, a tensor of bytes that ``torch.save`` and safetensors
            can store.
        """
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from where :meth:`state_dict` was taken: the draws that follow have the same bits.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            ValueError: if ``state`` is not a sampler's state.
        """
        if set(state) != {"generator"}:
            name = type(self).__name__
            raise ValueError(f"not the state of a {name}: expected the key 'generator', got {sorted(state)}")
        self._generator.set_state(state["generator"])

    def batches(self, batch_size: int, *, start: int = 0) -> Batches:
        """Return an endless series of meta-batches, each of which depends on the seed and its number alone.

        So any number of workers or processes draws the same ones, and a run goes on from any of them. They are other
        meta-batches than those of :meth:`sample`, whose state they neither read nor move.

        Args:
            batch_size: how many tasks a meta-batch.
            start: the number of the first one.

        Returns:
            Batches: to iterate over, or to give to a ``DataLoader``.

        Raises:
            TypeError: if a number is not an integer.
            ValueError: if ``batch_size`` is below 1, or ``start`` below 0.
        """
        return Batches(self._sample, batch_size, seed=self._seed, start=start)

    @abstractmethod
    def _sample(self, batch_size: int, generator: torch.Generator) -> Any:
        """Draw a meta-batch, with all randomness from the generator."""
