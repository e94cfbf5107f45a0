"""A task's values end to end: a tensor by itself weighs half a kilobyte, whatever it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.types import Params


@dataclass(frozen=True)
class Layout:
    """How the values of some names lie end to end, those of one type and device in one tensor.

    Attributes:
        shapes: the shape of each by name, in order.
        alike: names of one type and device, for each tensor.
    """

    shapes: Mapping[str, torch.Size]
    alike: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, values: Mapping[str, Tensor]) -> Layout:
        """The layout of values like these."""
        alike: dict[object, list[str]] = {}
        for name, value in values.items():
            alike.setdefault((value.dtype, value.device), []).append(name)
        return cls({name: value.shape for name, value in values.items()}, tuple(map(tuple, alike.values())))

    def packed(self, values: Mapping[str, Tensor], tasks: int) -> list[tuple[Tensor, ...]]:
        """Values of shape ``(tasks, *value)`` end to end, those of each task in memory of their own."""
        flats = [torch.cat([values[name].detach().reshape(tasks, -1) for name in names], 1) for names in self.alike]
        return [tuple([flat[task].clone() for flat in flats]) for task in range(tasks)]

    def unpacked(self, flats: tuple[Tensor, ...]) -> Params:
        """Views of them by name."""
        found: Params = {}
        for names, flat in zip(self.alike, flats, strict=True):
            parts = flat.split([self.shapes[name].numel() for name in names])
            found.update((name, part.view(self.shapes[name])) for name, part in zip(names, parts, strict=True))
        return {name: found[name] for name in self.shapes}


@dataclass(frozen=True)
class TaskValues:
    """The values of one task.

    Attributes:
        layout: how they lie, which tasks of a batch share.
        flats: the values.
    """

    layout: Layout
    flats: tuple[Tensor, ...]

    def by_name(self) -> Params:
        """Views of them."""
        return self.layout.unpacked(self.flats)


def of_each_task(values: Mapping[str, Tensor], tasks: int) -> list[TaskValues]:
    """The values of each task, from tensors of shape ``(tasks, *value)``."""
    layout = Layout.of({name: value[0] for name, value in values.items()})
    return [TaskValues(layout, flats) for flats in layout.packed(values, tasks)]
