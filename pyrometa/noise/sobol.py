r"""Scrambled Sobol points, for many evaluations at once.

With :math:`x_p` the digits of a Sobol point in base two, a random lower triangular matrix :math:`L` with ones on its
diagonal and random digits :math:`c`, for each evaluation and dimension,

.. math:: u_p = L x_p + c \pmod 2

Each point alone is uniform, and the points stay a net (Matoušek 1998). Torch's engine does the same one set at a time,
which takes longer than a whole recorded meta-step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

MOST_DIMENSIONS = SobolEngine.MAXDIM

_DIGITS = 52  # half a unit in the next one keeps a double off both 0 and 1


def scrambled_sobol(count: int, dimensions: int, *leading: int) -> Tensor:
    """Points within the open unit cube on the CPU, each set scrambled by draws from its global generator.

    Args:
        count: points of a set.
        dimensions: of a point, at most :data:`MOST_DIMENSIONS`.
        leading: how many sets.

    Returns:
        Shape ``(*leading, count, dimensions)``, in double precision.
    """
    told_apart = (count - 1).bit_length()
    net = (SobolEngine(dimensions).draw(count, dtype=torch.float64) * 2**told_apart).long()
    points = torch.randint(1 << _DIGITS, (*leading, 1, dimensions), device="cpu")
    for place in range(told_apart):
        below = 1 << (_DIGITS - 1 - place)
        column = below + torch.randint(below, (*leading, 1, dimensions), device="cpu")
        points = points ^ column * (net >> (told_apart - 1 - place) & 1)
    return (points.double() + 0.5) / 2.0**_DIGITS
