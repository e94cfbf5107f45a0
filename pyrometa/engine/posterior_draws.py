"""Draws from the guides of many tasks, side by side."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.engine.fallback import fall_back
from pyrometa.engine.options import Engine
from pyrometa.explain.reasons import told
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.points import sobol_points
from pyrometa.noise.replay import ReplayNoise
from pyrometa.noise.tapes import Tapes
from pyrometa.program.program import Program
from pyrometa.types import Data, Params
from pyrometa.types.latest import Latest

Values = dict[str, Tensor]
"""Values of the guide's latent sites by name."""

_KEPT = 512
"""How many shapes that were proved are remembered."""

TRIED = 2
"""Tasks and draws that are compared with the loop."""


class PosteriorDraws:
    """Draws of a program's guide, on the same quasi-random points for every task.

    Args:
        program: the program.
        options: how tasks are run.
    """

    def __init__(self, program: Program, options: Engine) -> None:
        self._program, self._options = program, options
        self._tapes = Tapes()
        self._together = options.vectorize is not False
        self._proved: Latest[Hashable, None] = Latest(_KEPT)

    def __call__(self, fast: Mapping[str, Tensor], support: Data, draws: int) -> Values:
        """Draw from the guides of tasks of one shape.

        Args:
            fast: adapted parameters, each of shape ``(tasks, *parameter)``.
            support: the tasks' support sets, with a leading task dimension.
            draws: how many a task.

        Returns:
            For each latent site values of shape ``(tasks, draws, *site)``.

        Warns:
            LoopWarning: the guide can't be run side by side.
        """
        layout = tuple((tuple(x.shape[1:]), x.dtype, x.device) for x in support.tensors())
        shape = layout, tuple(module.training for module in self._program.modules())
        points = self._points(shape, fast, support[0], draws)
        if self._together:
            try:
                if shape not in self._proved:
                    self._prove(fast, support, points)
                    self._proved[shape] = None
                return self._side_by_side(fast, support, points)
            except Exception as error:  # a guide is the user's own code, and vmap meets it with errors of any type
                check_interrupt(error)
                self._together = False
                fall_back(self._options, told(self._program, error), "drawn from one by one")
        return self._one_by_one(fast, support, points)

    def _points(self, shape: Hashable, fast: Mapping[str, Tensor], task: Data, draws: int) -> list[Tensor]:
        """The noise of all draws, one tensor for each that the guide makes, shape ``(draws, *draw)``."""
        params = {name: value[0] for name, value in fast.items()}
        tape = self._tapes.recorded(shape, lambda recorder: self._sampled(params, task, recorder))
        return sobol_points(tape, draws) or [torch.zeros(draws)]

    def _prove(self, fast: Mapping[str, Tensor], support: Data, points: Sequence[Tensor]) -> None:
        """Raise unless a few tasks and draws are side by side what they are one by one."""
        some = {name: value[:TRIED] for name, value in fast.items()}
        given = some, support[:TRIED], [point[:TRIED] for point in points]
        found, expected = self._side_by_side(*given), self._one_by_one(*given)
        for name, values in expected.items():
            tolerance = torch.finfo(values.dtype).eps ** 0.5 if values.is_floating_point() else 0.0
            if name not in found or not torch.allclose(found[name], values, tolerance, tolerance):
                raise ValueError(f"{name!r} is another side by side")

    def _side_by_side(self, fast: Mapping[str, Tensor], support: Data, points: Sequence[Tensor]) -> Values:
        def one(params: Params, tensors: Sequence[Tensor], noise: Sequence[Tensor]) -> Values:
            mode = BatchedNoise(noise).expecting(self._tapes.kinds)
            return self._sampled(params, support.on(iter(tensors)), mode)

        each_draw = vmap(one, (None, None, 0), randomness="different")
        each_task = vmap(each_draw, (0, 0, None), randomness="different")
        try:
            found: Values = each_task(dict(fast), support.tensors(), list(points))
            return found
        finally:
            self._program.mend_kept()

    def _one_by_one(self, fast: Mapping[str, Tensor], support: Data, points: Sequence[Tensor]) -> Values:
        each = []
        for task in range(len(support.tensors()[0])):
            params = {name: value[task] for name, value in fast.items()}
            modes = [ReplayNoise(noise).expecting(self._tapes.kinds) for noise in zip(*points, strict=True)]
            each.append(_stacked([self._sampled(params, support[task], mode) for mode in modes]))
        return _stacked(each)

    def _sampled(self, params: Params, task: Data, mode: AbstractContextManager[Any]) -> Values:
        """One draw, by parameters that seem to require gradients: of others ``pyro.module`` warns."""
        drawn: Values = vjp(lambda params: self._program.sampled(params, task, mode), params)[0]
        return drawn


def _stacked(values: Sequence[Values]) -> Values:
    return {name: torch.stack([one[name] for one in values]) for name in values[0]}
