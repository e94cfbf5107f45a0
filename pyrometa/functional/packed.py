"""Packed sequences by plain indexing, which vmap can batch; torch's own functions have no batching rule."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrometa.errors import UnsupportedProgramError
from pyrometa.functional.kept import is_of_all


def lengths_of(batch_sizes: Tensor, device: torch.device | None = None) -> Tensor:
    """The lengths of the sequences, longest first, from the number of sequences at each time."""
    _refuse_own(batch_sizes)
    return (batch_sizes[:, None] > torch.arange(int(batch_sizes[0]))).sum(0).to(device)


def padded(data: Tensor, lengths: Tensor) -> Tensor:
    """Packed data as ``(time, rows, ...)``; past the end of a sequence stands what is finite and means nothing."""
    counts = _present(lengths).sum(1)
    first = counts.cumsum(0) - counts
    return data[(first[:, None] + torch.arange(len(lengths), device=lengths.device)).clamp(max=len(data) - 1)]


def packed(data: Tensor, lengths: Tensor) -> Tensor:
    """Data of shape ``(time, rows, ...)``, packed."""
    return data.flatten(0, 1)[_present(lengths).flatten().nonzero()[:, 0]]


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
    _refuse_own(lengths)
    data = input.transpose(0, 1) if batch_first else input
    batch_sizes = _present(lengths).sum(1)
    return packed(data[: len(batch_sizes)], lengths.to(input.device)), batch_sizes


def pad_packed_sequence(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    """As ``torch._pad_packed_sequence``."""
    lengths = lengths_of(batch_sizes)
    present = _present(lengths).to(data.device)
    full = padded(data, lengths.to(data.device))
    full = torch.where(present.view(*present.shape, *(1,) * (full.dim() - 2)), full, padding_value)
    missing = total_length - len(full)
    if missing:
        full = torch.cat([full, full.new_full((missing, *full.shape[1:]), padding_value)])
    return (full.transpose(0, 1) if batch_first else full), lengths


def _present(lengths: Tensor) -> Tensor:
    """Whether each sequence goes on at each time, shape ``(time, rows)``."""
    return torch.arange(int(lengths.max()), device=lengths.device)[:, None] < lengths


def _refuse_own(lengths: Tensor) -> None:
    if is_of_all(lengths):
        raise UnsupportedProgramError(
            "each task packs sequences of its own lengths, which side by side would have other shapes: leave the "
            "sequences padded and mask what is past their ends, or give lengths that all tasks share as kwargs="
        )
