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
class Fact:
    """What is known of a node.

    Attributes:
        like: its value without data (on the meta device), or the value itself if it is not a tensor.
        device: where the value is.
        constant: the value, where it is the same at every run.
    """

    like: Any
    device: torch.device | None = None
    constant: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """Of the value."""
        return self.like.shape

    def agrees_with(self, other: Fact) -> bool:
        """Whether one can stand for the other: equal shapes, dtypes and devices; strides may differ."""
        mine, theirs = self.like, other.like
        tensors = isinstance(mine, Tensor) and isinstance(theirs, Tensor)
        return tensors and (mine.shape, mine.dtype, self.device) == (theirs.shape, theirs.dtype, other.device)

    def is_full_of(self, number: float) -> bool:
        """Whether it is a constant of which every element is this number."""
        return self.constant is not None and bool((self.constant == number).all())


Facts = Mapping[Node, Fact]


def of_tensor(value: Tensor, *, constant: bool) -> Fact:
    """The facts of a tensor that is at hand."""
    like = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return Fact(like, value.device, value if constant and value.numel() <= LARGEST_CONSTANT else None)


def of_call(target: Any, args: Any, kwargs: Any, facts: Facts, device: torch.device) -> Fact:
    """The facts of an operation's result."""
    given_args, given_kwargs = torch.fx.node.map_arg((args, kwargs), lambda node: facts[node].like)
    if "device" in given_kwargs:
        given_kwargs = {**given_kwargs, "device": torch.device("meta")}
    return Fact(target(*given_args, **given_kwargs), device)


def is_number(facts: Facts, value: Any, number: float) -> bool:
    """Whether an argument is this number, or a constant full of it."""
    return facts[value].is_full_of(number) if isinstance(value, Node) else value == number
