"""The generator that a sampler owns, and where it stands."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Seeded", "integer", "positive"]


class Seeded:
    """All randomness of a sampler: one generator of its own, seeded once, whose state can be saved."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(integer("seed", seed))

    def state_dict(self) -> dict[str, Tensor]:
        """Return where the sampler stands.

        Returns:
            ``{"generator": state}``, the state of its generator, which ``torch.save`` can store.
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


def integer(name: str, value: int) -> int:
    """Return ``value``, or raise TypeError unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    return value


def positive(name: str, value: int) -> int:
    """Return ``value``, or raise ValueError unless it is at least 1."""
    if integer(name, value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value
