"""How a point hangs together, apart from the numbers in its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrometa import nest


@dataclass(frozen=True)
class View:
    """A tensor that is in the memory of another one.

    Attributes:
        of: which of some tensors that is.
        size: as of ``Tensor.as_strided``.
        stride: the same.
        offset: the same.
    """

    of: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def found(cls, value: Tensor, tensors: Sequence[Tensor]) -> View | None:
        """The view of one of the tensors that a value is, off any graph."""
        if value.requires_grad or not value.numel():
            return None
        address = _address(value)
        same = (i for i, x in enumerate(tensors) if x.dtype == value.dtype and _address(x) == address)
        of = next(same, None)
        return None if of is None else cls(of, tuple(value.shape), value.stride(), int(value.storage_offset()))

    def __call__(self, tensors: Sequence[Tensor]) -> Tensor:
        """The view."""
        x = tensors[self.of]
        if (x.shape, x.stride(), x.storage_offset()) == (self.size, self.stride, self.offset):
            return x
        return x.as_strided(self.size, self.stride, self.offset)


@dataclass(frozen=True, eq=False)
class Form:
    """A point without numbers.

    Attributes:
        point: the point, of tensors without data.
        views: of each of its tensors, which view of the support set it is, such as the inputs of a first layer; None
            for one of its own.
        on_graph: of each tensor of its own, whether a gradient may be asked for by it.
    """

    point: Any
    views: tuple[View | None, ...]
    on_graph: tuple[bool, ...]

    @classmethod
    def of(cls, point: Any, support: Sequence[Tensor]) -> tuple[Form, list[Tensor]]:
        """A point's form, and the tensors of its own."""
        tensors = nest.tensors(point)
        views = tuple(View.found(value, support) for value in tensors)
        own = [value for value, view in zip(tensors, views, strict=True) if view is None]
        blank = nest.mapped(lambda value: torch.empty_like(value, device="meta", requires_grad=False), point)
        return cls(blank, views, tuple(value.requires_grad for value in own)), own

    @property
    def key(self) -> Any:
        """What two forms have to agree in that are one."""
        return nest.layout(self.point, lambda x: (x.shape, x.dtype)), self.views, self.on_graph

    def filled(self, own: Sequence[Tensor], support: Sequence[Tensor]) -> Any:
        """The point of these tensors."""
        given = iter(own)
        return nest.replaced(self.point, self._tensors(given, support))

    def _tensors(self, own: Iterator[Tensor], support: Sequence[Tensor]) -> Iterator[Tensor]:
        return (next(own) if view is None else view(support) for view in self.views)


def _address(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
