"""Packed sequences by plain indexing, which vmap can batch; torch's own functions have no batching rule.

Where each task has lengths of its own, side by side they would pack to other shapes. There the data stay padded, with
NaN past the ends, so that a program that reads what torch would not have packed can't pass for right; ``batch_sizes``
holds one number, the sequences, and carries the lengths along.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import is_of_all


def lengths_of(batch_sizes: Tensor, device: torch.device) -> Tensor:
    """The lengths of the sequences, longest first."""
    own = _own_lengths(batch_sizes)
    if own is not None:
        return own
    return (batch_sizes[:, None] > torch.arange(int(batch_sizes[0]))).sum(0).to(device)


def padded(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """Packed data as ``(time, rows, ...)``; past the end of a sequence stand finite numbers that mean nothing."""
    lengths = lengths_of(batch_sizes, data.device)
    if _own_lengths(batch_sizes) is not None:
        whole = data.unflatten(0, (-1, len(lengths)))
        return _filled(whole, lengths, 0.0)
    counts = _present(lengths, len(batch_sizes)).sum(1)
    first = counts.cumsum(0) - counts
    return data[(first[:, None] + torch.arange(len(lengths), device=data.device)).clamp(max=len(data) - 1)]


def packed(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """Data of shape ``(time, rows, ...)``, packed."""
    lengths = lengths_of(batch_sizes, data.device)
    if _own_lengths(batch_sizes) is not None:
        return _filled(data, lengths, math.nan).flatten(0, 1)
    return data.flatten(0, 1)[_present(lengths, len(data)).flatten().nonzero()[:, 0]]


def turned(data: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence of ``(time, rows, ...)`` from its end to its beginning."""
    if lengths is None:
        return data.flip(0)
    back = lengths - 1 - torch.arange(len(data), device=lengths.device)[:, None]
    return data[back.clamp(min=0), torch.arange(len(lengths), device=lengths.device)]


def at_end(states: Tensor, lengths: Tensor | None) -> Tensor:
    """The last of each sequence's states, of shape ``(directions, time, rows, units)``."""
    if lengths is None:
        return states[:, -1]
    return states[:, lengths - 1, torch.arange(len(lengths), device=lengths.device)]


def pack_padded_sequence(input: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
    """As ``torch._pack_padded_sequence``."""
    data = input.transpose(0, 1) if batch_first else input
    if is_of_all(lengths):
        batch_sizes = torch.tensor([len(lengths)])
        batch_sizes.lengths = lengths.to(data.device)  # type: ignore[attr-defined]
    else:
        batch_sizes = _present(lengths, int(lengths.max())).sum(1)
        data = data[: len(batch_sizes)]
    return packed(data, batch_sizes), batch_sizes


def pad_packed_sequence(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """As ``torch._pad_packed_sequence``.

    Raises:
        UnsupportedProgramError: the tasks have lengths of their own and no length is given.
    """
    lengths = lengths_of(batch_sizes, data.device)
    full = _filled(padded(data, batch_sizes), lengths, padding_value)
    if _own_lengths(batch_sizes) is not None and total_length < len(full):
        raise UnsupportedProgramError(
            "each task pads its sequences to the longest of its own, which side by side would be other shapes: call "
            "pad_packed_sequence with total_length=x.shape[1], or of what is padded else"
        )
    missing = total_length - len(full)
    if missing:
        full = torch.cat([full, full.new_full((missing, *full.shape[1:]), padding_value)])
    return (full.transpose(0, 1) if batch_first else full), lengths


def _own_lengths(batch_sizes: Tensor) -> Tensor | None:
    return getattr(batch_sizes, "lengths", None)


def _filled(data: Tensor, lengths: Tensor, value: float) -> Tensor:
    """The data with a value past the ends."""
    present = _present(lengths, len(data))
    return torch.where(present.view(*present.shape, *(1,) * (data.dim() - 2)), data, value)


def _present(lengths: Tensor, steps: int) -> Tensor:
    """Whether each sequence goes on at each time, shape ``(time, rows)``."""
    return torch.arange(steps, device=lengths.device)[:, None] < lengths
