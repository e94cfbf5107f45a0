"""The guide of a model that was read, with nothing learned yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import Tensor

from pyrometa.amortize.reading import Reading
from pyrometa.guides import SetEncoderGuide
from pyrometa.guides.laplace_encoder import LaplaceEncoder
from pyrometa.guides.log_joint import LogJoint
from pyrometa.guides.sites import Site, traced_alone

DRAWS = 256
SPARE = 4
"""Dimensions between the model's plates and the points, for plates that the guide is run in: an ELBO's particles."""

Row = tuple[Tensor, ...]


def make_guide(
    reading: Reading, example: Row, columns: Row, features: int, rounds: int
) -> tuple[SetEncoderGuide, LaplaceEncoder, bool]:
    """A guide whose heads hand on what its encoder proposes, the encoder, and whether the model broadcasts.

    Args:
        reading: the model.
        example: one task.
        columns: arguments of many tasks, rows of all of them together, to be standardised by.
        features: width of the networks.
        rounds: of the encoder.
    """
    latents = _prior(reading, example)
    broadcasts = _broadcasts(reading, example, latents[:2])
    center, width = latents.median(0).values, latents.std(0).clamp(min=1e-3)
    encoder = LaplaceEncoder(
        _log_joint(reading, broadcasts=broadcasts), _column_stats(columns), (center, width), features, rounds
    )
    guide = SetEncoderGuide(reading.model, encoder, pooling="mean")
    guide(*example)
    _hand_on(guide, reading.sites)
    return guide, encoder, broadcasts


def _log_joint(reading: Reading, *, broadcasts: bool) -> LogJoint:
    kind = TraceEnum_ELBO if reading.enumerates else Trace_ELBO
    elbo = kind(max_plate_nesting=reading.nesting + SPARE + 1)
    return LogJoint(reading.model, reading.sites, elbo, reading.plates, broadcasts=broadcasts)


def _prior(reading: Reading, example: Row) -> Tensor:
    """Unconstrained latents of the prior, ``(DRAWS, D)``."""
    draws = []
    for _ in range(DRAWS):
        nodes = traced_alone(reading.model, example, {}).nodes
        draws.append(torch.cat([site.transform.inv(nodes[site.name]["value"]).flatten() for site in reading.sites]))
    return torch.stack(draws)


def _column_stats(columns: Row) -> tuple[Tensor, Tensor]:
    """Median, and quartiles' distance as the standard deviation of a normal; the deviation where that is zero."""
    rows = torch.cat([column.reshape(len(column), -1).to(torch.get_default_dtype()) for column in columns], -1)
    low, center, high = rows.quantile(torch.tensor([0.25, 0.5, 0.75]).to(rows), dim=0)
    width = (high - low) / 1.35
    width = torch.where(width > 0, width, rows.std(0))
    return center, torch.where(width > 0, width, 1.0)


def _broadcasts(reading: Reading, example: Row, points: Tensor) -> bool:
    """Whether the model gives the same on two points in a plate as on one after the other."""
    mask = torch.ones(len(example[0]), dtype=torch.bool)
    one_by_one = _log_joint(reading, broadcasts=False)(points, mask, *example)
    try:
        together = _log_joint(reading, broadcasts=True)(points, mask, *example)
    except (RuntimeError, ValueError, IndexError):
        return False
    return bool(torch.allclose(together, one_by_one, rtol=1e-3))


@torch.no_grad()
def _hand_on(guide: SetEncoderGuide, sites: Sequence[Site]) -> None:
    """Let each head give its site's part of the proposal as it is."""
    size, first = sum(site.size for site in sites), 0
    for site in sites:
        head: Any = guide.amortized.heads[site.name.replace(".", "/")]
        eye = torch.eye(size)[first : first + site.size].to(head.weight)
        head.weight.copy_(torch.block_diag(eye, eye))
        head.bias.zero_()
        first += site.size
