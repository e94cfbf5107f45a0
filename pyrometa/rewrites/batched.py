"""What ``torch.func.vmap`` forbids, warns of or gets wrong, in words that it can batch.

Whoever meets another function without a batching rule, or with a slow one, adds a row to :data:`BATCHED`: from the
function to one that takes its arguments and that vmap can do. While tasks run side by side the mode in force looks
there first. Only what needs more than a call's own arguments stands elsewhere: draws in ``noise/`` (and with them whole
recurrent networks, which drop between layers), linear layers on factors in ``engine/low_rank.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa import internals
from pyrometa.rewrites.convolutions import CONVOLUTIONS
from pyrometa.rewrites.packed_sequences import pack_padded_sequence, pad_packed_sequence
from pyrometa.rewrites.recurrent_cells import CELLS


def _clamp_in_place(target: Tensor, *limits: Any, **named: Any) -> Tensor:
    return target.copy_(target.clone().clamp(*limits, **named))


def _scatter_in_place(target: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return target.copy_(target.clone().scatter(*args, **kwargs))


def _cross_entropy(*args: Any, **kwargs: Any) -> Tensor:
    """The same in three operations; under vmap torch's own falls apart into a dozen."""
    if _is_elementwise(*args, **kwargs):
        x, target = args
        return F.softplus(x, threshold=40.0) - x * target
    return F.binary_cross_entropy_with_logits(*args, **kwargs)


def _is_elementwise(*args: Any, reduction: str = "mean", **options: Any) -> bool:
    return len(args) == 2 and reduction == "none" and all(value is None for value in options.values())


def _unasked(mask: Tensor) -> bool:
    """A distribution's check of values, on which vmap can't branch; the trial against the loop makes it."""
    return True


BATCHED: dict[Any, Callable[..., Any]] = {
    torch.Tensor.data.__get__: torch.Tensor.detach,  # type: ignore[attr-defined]
    torch.Tensor.clamp_: _clamp_in_place,
    torch.Tensor.scatter_: _scatter_in_place,
    F.binary_cross_entropy_with_logits: _cross_entropy,
    internals.is_all_true: _unasked,
    internals.pack_padded_sequence: pack_padded_sequence,
    internals.pad_packed_sequence: pad_packed_sequence,
    **CELLS,
    **CONVOLUTIONS,
}
"""By function of torch, as distributions, Pyro and programs call them, what is called in its place."""
