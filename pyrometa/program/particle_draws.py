"""Which draws of a program each particle of an ELBO makes, and whether points suit them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy

from pyro.infer.elbo import ELBO

from pyrometa.errors import UnsupportedProgramError
from pyrometa.noise.draws import Tape
from pyrometa.noise.options import Noise, PointKind
from pyrometa.noise.points import Column, Points
from pyrometa.program.objectives import Objective


def checked_noise(noise: Noise | None, loss: ELBO | Objective | None, score: ELBO | Objective | None) -> Noise:
    """The noise that a user gave, or random noise.

    Raises:
        TypeError: for what is no noise.
        ValueError: for points that do not suit the loss or the score.
    """
    if noise is None:
        return Noise()
    if not isinstance(noise, Noise):
        raise TypeError(f"noise must be a pyrometa.Noise, got {type(noise).__name__}: give Noise(points='sobol'), say")
    _check_points(noise.points, loss, "loss")
    if score is not None:
        _check_points(noise.points, score, "score")
    return noise


def points_of(kind: PointKind, objective: ELBO | Objective, name: str, tape: Callable[[ELBO], Tape]) -> Points:
    """How the draws of one evaluation hang together.

    Args:
        kind: of the points.
        objective: the loss or the score; a score that is a function has independent draws.
        name: ``"loss"`` or ``"score"``.
        tape: the draws of one evaluation of an ELBO.

    Raises:
        UnsupportedProgramError: particles make other draws than each other.
        ValueError: for points that do not suit the objective.
    """
    _check_points(kind, objective, name)
    if kind == "random" or not isinstance(objective, ELBO):
        return Points()
    particles, together = objective.num_particles, objective.vectorize_particles
    if together:
        columns = _in_a_dimension(tape(objective), tape(_with_one_more(objective)), particles)
    else:
        columns = _one_after_another(tape(objective), particles)
    if columns is None:
        raise UnsupportedProgramError(
            f"noise=Noise(points={kind!r}) needs the same draws in every particle, and under "
            f"{type(objective).__name__}(num_particles={particles}, vectorize_particles={together}) this program "
            "makes others in some: give Noise(points='random')"
        )
    return Points(kind, particles, columns)


def _check_points(kind: PointKind, objective: ELBO | Objective | None, name: str) -> None:
    """Refuse points that an objective's particles can't be taken from; a score that is a function has random ones."""
    if kind == "random":
        return
    if objective is not None and not isinstance(objective, ELBO):
        if name == "score":
            return
        raise ValueError(
            f"noise=Noise(points={kind!r}) spreads the particles of an ELBO, and {name} is a function: give a Pyro "
            "ELBO with num_particles, or Noise(points='random')"
        )
    particles = 1 if objective is None else objective.num_particles
    divisor, wanted = {"antithetic": (2, "an even number"), "sobol": (1, "several, best a power of two")}[kind]
    if particles < 2 or particles % divisor:
        elbo = "TraceMeanField_ELBO" if objective is None else type(objective).__name__
        raise ValueError(
            f"noise=Noise(points={kind!r}) spreads the particles of an ELBO, and {name} has num_particles={particles}: "
            f"give {wanted}, as in {name}={elbo}(num_particles=8, vectorize_particles=True)"
        )


def _with_one_more(elbo: ELBO) -> ELBO:
    larger = copy(elbo)
    larger.num_particles += 1
    return larger


def _one_after_another(tape: Tape, particles: int) -> tuple[Column, ...] | None:
    """The draws of particles that are run in turn, of which each makes those of the first."""
    each = len(tape) // particles
    if tape != tape[:each] * particles:
        return None
    return tuple(Column(tuple(range(i, len(tape), each))) for i in range(each) if tape[i].kind != "seed")


def _in_a_dimension(tape: Tape, larger: Tape, particles: int) -> tuple[Column, ...] | None:
    """The draws of particles side by side, each in the dimension that grows with one particle more."""
    if len(tape) != len(larger):
        return None
    columns = []
    for i, (draw, more) in enumerate(zip(tape, larger, strict=True)):
        grown = [dim for dim, (few, many) in enumerate(zip(draw.shape, more.shape, strict=False)) if few != many]
        if len(draw.shape) != len(more.shape) or draw.kind != more.kind or len(grown) > 1:
            return None
        if any(draw.shape[dim] != particles for dim in grown):
            return None
        if grown and draw.kind != "seed":
            columns.append(Column((i,), grown[0]))
    return tuple(columns)
