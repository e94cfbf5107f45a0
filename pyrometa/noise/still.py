"""A mode without noise, for what depends on no draw."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.draws import Draw

_MIDDLE = {"normal": 0.0, "uniform": 0.5, "seed": 0}
_ASKS_FOR_GRAD = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]


class StillNoise(BatchedNoise):
    """Answers each draw with the middle of its distribution, so that nothing is drawn; under ``vmap`` or not.

    Args:
        held: the parameters that the program holds; they count as requiring a gradient, which ``vmap`` hides.
    """

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__(())
        self._held = {id(value) for value in held}

    def fresh(self, draw: Draw) -> Tensor:
        """The same number wherever noise is asked for."""
        return torch.full(draw.shape, _MIDDLE[draw.kind], dtype=draw.dtype, device=draw.device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _ASKS_FOR_GRAD and id(args[0]) in self._held:
            return True
        return super().__torch_function__(func, types, args, kwargs)
