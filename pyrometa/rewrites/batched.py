"""What ``torch.func.vmap`` forbids, warns of or gets wrong, in words that it can batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyrometa.rewrites.packed_sequences import pack_padded_sequence, pad_packed_sequence
from pyrometa.rewrites.recurrent_cells import CELLS


def _clamp_in_place(target: Tensor, *limits: Any, **named: Any) -> Tensor:
    return target.copy_(target.clone().clamp(*limits, **named))


def _scatter_in_place(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return target.copy_(target.clone().scatter(*args, **kwargs))


BATCHED: dict[Any, Callable[..., Any]] = {
    torch.Tensor.data.__get__: torch.Tensor.detach,  # type: ignore[attr-defined]
    torch.Tensor.clamp_: _clamp_in_place,
    torch.Tensor.scatter_: _scatter_in_place,
    torch._pack_padded_sequence: pack_padded_sequence,
    torch._pad_packed_sequence: pad_packed_sequence,
    **CELLS,
}
"""What distributions and Pyro do that vmap forbids, warns of or gets wrong, in other words."""
