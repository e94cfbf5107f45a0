"""The noise of several evaluations as it was drawn, taken apart only where it is asked for one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from pyrometa.types import StepNoise


class DrawnSteps(Sequence[StepNoise]):
    """The noise of several evaluations: for each, one tensor a draw of shape ``(tasks, *draw.shape)``.

    Attributes:
        drawn: one tensor a draw, of shape ``(tasks, steps, *draw.shape)``.
        drawn_steps: how many evaluations were drawn for.
        repeats: how many times over these evaluations are meant.
    """

    def __init__(self, drawn: Sequence[Tensor], drawn_steps: int, repeats: int = 1) -> None:
        self.drawn, self.drawn_steps, self.repeats = tuple(drawn), drawn_steps, repeats

    def __len__(self) -> int:
        return self.drawn_steps * self.repeats

    @overload
    def __getitem__(self, step: int) -> StepNoise: ...
    @overload
    def __getitem__(self, step: slice) -> tuple[StepNoise, ...]: ...
    def __getitem__(self, step: int | slice) -> StepNoise | tuple[StepNoise, ...]:
        """The draws of one evaluation, or of some."""
        if isinstance(step, slice):
            return tuple(self[k] for k in range(*step.indices(len(self))))
        if not -len(self) <= step < len(self):
            raise IndexError(f"evaluation {step} of {len(self)}")
        return tuple([draw.select(1, step % self.drawn_steps) for draw in self.drawn])

    def repeated(self, times: int) -> DrawnSteps:
        """The same evaluations so many times over."""
        return DrawnSteps(self.drawn, self.drawn_steps, self.repeats * times)

    def packed(self) -> list[Tensor]:
        """The draws of each evaluation end to end, as :func:`packed` makes them of its own, all in one go."""
        if not (len(self) and self.drawn):
            return []
        rows = [draw.reshape(*draw.shape[:2], -1).transpose(0, 1) for draw in self.drawn]
        columns = [torch.cat([rows[i] for i in alike], 2).unbind(0) for alike in noise_and_seeds(self.drawn)]
        return [part for step in zip(*columns, strict=True) for part in step] * self.repeats


def as_drawn(noise: Sequence[StepNoise]) -> DrawnSteps:
    """The noise of several evaluations in that form, whatever form it has."""
    if isinstance(noise, DrawnSteps):
        return noise
    return DrawnSteps([torch.stack(draws, 1) for draws in zip(*noise, strict=True)], len(noise))


def packed(draws: StepNoise) -> list[Tensor]:
    """The draws of one evaluation end to end, shape ``(tasks, size)``, and the seeds of streams likewise.

    Otherwise each replay of a program with dozens of sites would read dozens of small inputs.
    """
    return [
        torch.cat([draws[i].flatten(1) if draws[i].dim() > 1 else draws[i][:, None] for i in alike], 1)
        for alike in noise_and_seeds(draws)
    ]


def packed_steps(noise: Sequence[StepNoise]) -> list[Tensor]:
    """:func:`packed` of several evaluations, one after the other."""
    return noise.packed() if isinstance(noise, DrawnSteps) else [part for draws in noise for part in packed(draws)]


def noise_and_seeds(draws: Sequence[Tensor]) -> list[list[int]]:
    """Positions of the floating-point noise among some draws, and of the integer seeds, where there are any."""
    floating = [i for i, draw in enumerate(draws) if draw.is_floating_point()]
    others = [i for i, draw in enumerate(draws) if not draw.is_floating_point()]
    return [alike for alike in (floating, others) if alike]
