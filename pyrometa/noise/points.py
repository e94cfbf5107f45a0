"""The points that an ELBO's particles take their noise from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pyrometa.errors import UnsupportedProgramError
from pyrometa.noise.draws import Draw, Tape
from pyrometa.noise.options import PointKind
from pyrometa.noise.sobol import MOST_DIMENSIONS, scrambled_sobol


@dataclass(frozen=True)
class Column:
    """The same draw in all particles.

    Attributes:
        draws: its places on the tape: one for each particle, or a single one that all particles are in.
        dim: the dimension of particles in that one; None where each particle has a draw of its own.
    """

    draws: tuple[int, ...]
    dim: int | None = None

    def of_one_particle(self, tape: Tape) -> Draw:
        """What one particle draws."""
        draw = tape[self.draws[0]]
        shape = tuple(size for dim, size in enumerate(draw.shape) if dim != self.dim)
        return Draw(draw.kind, shape, draw.dtype, draw.device)

    def on_tape(self, values: Tensor) -> dict[int, Tensor]:
        """Values of shape ``(tasks, steps, particles, *one)`` as the tape's draws, by their places."""
        if self.dim is None:
            return dict(zip(self.draws, values.unbind(2), strict=True))
        return {self.draws[0]: values.movedim(2, 2 + self.dim)}


@dataclass(frozen=True)
class Points:
    """How the draws of a tape hang together.

    Attributes:
        kind: of the points.
        particles: P.
        columns: the draws that are taken from a point; all others are independent.
    """

    kind: PointKind = "random"
    particles: int = 1
    columns: tuple[Column, ...] = ()

    def sample(self, tape: Tape, tasks: int, steps: int) -> list[Tensor]:
        """Noise from the global generator, one tensor a draw, of shape ``(tasks, steps, *draw.shape)``."""
        ones = [column.of_one_particle(tape) for column in self.columns]
        drawn: dict[int, Tensor] = {}
        for column, values in zip(self.columns, self._values(ones, tasks, steps), strict=True):
            drawn.update(column.on_tape(values))
        return [drawn[i] if i in drawn else draw.sample(tasks, steps) for i, draw in enumerate(tape)]

    def _values(self, ones: list[Draw], tasks: int, steps: int) -> list[Tensor]:
        return _VALUES[self.kind](ones, (tasks, steps, self.particles)) if ones else []


def sobol_points(tape: Tape, count: int) -> list[Tensor]:
    """Noise of several evaluations from one set of scrambled Sobol points; random, where that has no room for it.

    Returns:
        One tensor a draw, of shape ``(count, *draw.shape)``.
    """
    ones = [draw for draw in tape if draw.kind != "seed"]
    if sum(math.prod(draw.shape) for draw in ones) > MOST_DIMENSIONS:
        return [draw.sample(count) for draw in tape]
    taken = iter(_sobol(ones, (1, 1, count)) if ones else [])
    return [draw.sample(count) if draw.kind == "seed" else next(taken)[0, 0] for draw in tape]


def _antithetic(ones: list[Draw], leading: tuple[int, int, int]) -> list[Tensor]:
    """Pairs of a draw and its mirror image, half the particles apart."""
    tasks, steps, particles = leading
    halves = [draw.sample(tasks, steps, particles // 2) for draw in ones]
    return [torch.cat([half, _mirrored(half, draw)], 2) for half, draw in zip(halves, ones, strict=True)]


def _mirrored(noise: Tensor, draw: Draw) -> Tensor:
    return -noise if draw.kind == "normal" else _below_one(1 - noise)


def _sobol(ones: list[Draw], leading: tuple[int, int, int]) -> list[Tensor]:
    """One set of points for each task and step, of which each draw has some dimensions."""
    tasks, steps, particles = leading
    sizes = [math.prod(draw.shape) for draw in ones]
    if sum(sizes) > MOST_DIMENSIONS:
        raise UnsupportedProgramError(
            f"a particle draws {sum(sizes)} numbers, and Sobol points have at most {MOST_DIMENSIONS} dimensions: "
            "give noise=Noise(points='antithetic')"
        )
    points = scrambled_sobol(particles, sum(sizes), tasks, steps).split(sizes, -1)
    return [_as_drawn(part.reshape(*leading, *draw.shape), draw) for part, draw in zip(points, ones, strict=True)]


def _as_drawn(points: Tensor, draw: Draw) -> Tensor:
    """Uniform numbers in double precision as a draw's noise."""
    if draw.kind == "normal":
        return torch.special.ndtri(points).to(draw.device, draw.dtype)
    return _below_one(points.to(draw.device, draw.dtype))


def _below_one(uniform: Tensor) -> Tensor:
    """One is what a uniform draw is never, and what rounding may make of one."""
    return uniform.clamp(max=1 - torch.finfo(uniform.dtype).eps / 2)


_VALUES: Mapping[PointKind, Callable[[list[Draw], tuple[int, int, int]], list[Tensor]]] = {
    "antithetic": _antithetic,
    "sobol": _sobol,
}
