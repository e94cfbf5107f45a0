"""What is known of the values in a graph before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

LARGEST_CONSTANT = 2**20  # elements


@dataclass(frozen=True)
class Known:
    """What is known of the value of a node.

    Attributes:
        like: its value without data (on the meta device), or the value itself if it is not a tensor.
        device: where the value is.
        constant: the value itself, where it is the same at every run and not too large to keep.
    """

    like: Any
    device: torch.device | None = None
    constant: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape of the value."""
        return self.like.shape

    def agrees_with(self, other: Known) -> bool:
        """Whether one can stand for the other: equal shapes, dtypes and devices; strides may differ."""
        mine, theirs = self.like, other.like
        tensors = isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        return tensors and (mine.shape, mine.dtype, self.device) == (theirs.shape, theirs.dtype, other.device)

    def is_full_of(self, number: float) -> bool:
        """Whether it is a constant of which every element is this number."""
        return self.constant is not None and bool((self.constant == number).all())


KnownValues = Mapping[Node, Known]
"""What is known of each node of a graph that is being built."""


def known_of_tensor(value: Tensor, *, constant: bool) -> Known:
    """What is known of a tensor that is at hand."""
    like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return Known(like, value.device, value if constant and value.numel() <= LARGEST_CONSTANT else None)


def known_of_call(target: Any, args: Any, kwargs: Any, known: KnownValues, device: torch.device) -> Known:
    """What is known of an operation's result, by running it on the meta device, where tensors have no data."""
    given_args, given_kwargs = torch.fx.node.map_arg((args, kwargs), lambda node: known[node].like)
    if "device" in given_kwargs:
        given_kwargs = {**given_kwargs, "device": torch.device("meta")}
    return Known(target(*given_args, **given_kwargs), device)


def is_number(known: KnownValues, value: Any, number: float) -> bool:
    """Whether an argument is this number, or a constant full of it."""
    return known[value].is_full_of(number) if isinstance(value, Node) else value == number
