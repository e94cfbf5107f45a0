"""Images of unseen tasks, as each start sees them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor

from pyrometa import MetaSVI
from pyrometa.demo.config import DemoConfig
from pyrometa.tasks import MetaBatch

__all__ = ["gained", "reconstructed"]

IMAGES = 3  # of each task


def reconstructed(
    starts: Mapping[str, MetaSVI], tasks: MetaBatch, chosen: Tensor, config: DemoConfig
) -> dict[str, Tensor]:
    """Query images of some tasks above their reconstructions.

    Args:
        starts: the pooled and the meta-learned start.
        tasks: the unseen tasks.
        chosen: which of them, indices of shape ``(n,)``.
        config: counts and rates.

    Returns:
        for each label of a row, images of shape ``(n, images, 28, 28)`` in [0, 1].
    """
    k = config.inner_steps
    rows = {"pooled VAE": ("pooled", 0), f"pooled, {k} steps": ("pooled", k)}
    rows |= {"meta-learned start": ("meta", 0), f"meta-learned, {k} steps": ("meta", k)}
    support, query = (cast("Tensor", data)[chosen] for data in tasks)
    images = {"unseen image": query[:, :IMAGES]}
    for label, (start, steps) in rows.items():
        images[label] = _decoded(starts[start], support, images["unseen image"], steps, config.seed)
    return {label: x.unflatten(-1, (28, 28)) for label, x in images.items()}


def gained(images: Tensor, before: Tensor, after: Tensor) -> Tensor:
    r"""What adaptation gains at each pixel of a reconstruction, in nats.

    .. math:: \log p(x \mid \text{after}) - \log p(x \mid \text{before})

    Args:
        images: binary pixels x.
        before: their probabilities of being white, of the same shape.
        after: the same after adaptation.
    """
    return _log_likelihood(images, after) - _log_likelihood(images, before)


def _log_likelihood(images: Tensor, probability: Tensor) -> Tensor:
    return -F.binary_cross_entropy(probability, images, reduction="none")


@torch.no_grad()
def _decoded(meta: MetaSVI, support: Tensor, images: Tensor, steps: int, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope():
        torch.manual_seed(seed)
        guides = meta.adapt_many(support, steps)
        return torch.stack([guide.reconstruct(x) for guide, x in zip(guides, images, strict=True)])
