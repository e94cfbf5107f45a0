"""Neural processes as Pyro programs: a latent of the task, its guide that reads the context, and a model of a target.

Both models are called ``model(x, y, context_x, context_y)`` with columns of one task, and have one latent site ``z``.
The guide of both is a ``SetEncoderGuide`` whose posterior is a point, so that what a target's output is given the
context has a density in closed form, as in a conditional neural process.
"""

import math
from collections.abc import Mapping

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from experiments.results.gp_draws import NOISE
from experiments.set_encoders import mlp
from pyrometa.guides import Posterior, SetEncoderGuide
from pyrometa.guides.set_attention import SetAttention

WAVES = 12  # sines and cosines of an input, of period 8 and its parts
BUMPS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)  # widths of the features of a distance


class Point(Posterior):
    """All mass in one point."""

    def __init__(self, dim: int, features: int) -> None:
        super().__init__()
        self.sizes = {"loc": dim}

    def forward(self, params: Mapping[str, Tensor]) -> TorchDistributionMixin:
        """A Delta at ``loc``, ``(*batch, dim)``."""
        return dist.Delta(params["loc"], event_dim=1)


class MeanProcess(nn.Module):
    """The guide pools rows of the context by their mean; the model knows the context by its latent alone."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.latent = hidden
        self.decoder = Decoder(hidden)
        rows = Rows(hidden)
        self.guide = SetEncoderGuide(self.model, rows, pooling=MeanSummary(rows.size, hidden), family=Point)

    def model(self, x: Tensor, y: Tensor, context_x: Tensor, context_y: Tensor) -> None:
        """Outputs ``y`` at ``x``, both ``(rows,)``."""
        z = task_latent(x, self.latent)
        observe(pyro.module("decoder", self.decoder)(z, x), y)


class Rows(nn.Module):
    """Features of each context point: products of its output and of waves at its input, and a network of them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        products = 4 * WAVES + 2
        self.network = mlp(products, hidden, hidden)
        self.size = products + hidden

    def forward(self, x: Tensor, y: Tensor, context_x: Tensor, context_y: Tensor) -> Tensor:
        """Shapes ``(rows,)`` to ``(rows, size)``."""
        at, output = waves(x), y[:, None]
        products = torch.cat([at, at * output, output, output.square()], -1)
        return torch.cat([3 * products, self.network(products)], -1)


class MeanSummary(nn.Module):
    """Pooling: a network of the rows' mean and of how many there are."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(features + 1, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.LayerNorm(hidden),
            nn.SiLU(),
        )

    def forward(self, rows: Tensor, mask: Tensor) -> Tensor:
        """Features of the rows where the mask is true."""
        count = mask.sum(-1, keepdim=True).to(rows)
        mean = torch.where(mask[..., None], rows, 0.0).sum(-2) / count
        return self.network(torch.cat([mean, count.log()], -1))


class Decoder(nn.Module):
    """Numbers of each target, from the products of features of its input and of the latent."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.at = mlp(2 * WAVES, hidden, hidden)
        self.first = nn.Sequential(nn.Linear(2 * hidden, hidden), nn.LayerNorm(hidden), nn.SiLU())
        self.last = mlp(hidden, hidden, 2)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Shapes ``(hidden,)`` and ``(rows,)`` to ``(rows, 2)``."""
        at = self.at(waves(x))
        return self.last(self.first(torch.cat([at * z, z.expand_as(at)], -1)))


class AttentiveProcess(nn.Module):
    """The guide pools rows by attention among them; targets attend to the context too, in several rounds.

    A target sees pairs, the output of a context point and how far away it is. It does not see a context point at its
    own input: what the model says of the context is what it says of each of its points given the others.
    """

    def __init__(self, hidden: int = 64, latent: int = 32, pair: int = 32, rounds: int = 3) -> None:
        super().__init__()
        self.latent = latent
        self.network = Attentive(hidden, latent, pair, rounds)
        self.guide = SetEncoderGuide(
            self.model, lambda x, y, *_: torch.stack([x, y], -1), pooling=SetAttention(2, hidden), family=Point
        )

    def model(self, x: Tensor, y: Tensor, context_x: Tensor, context_y: Tensor) -> None:
        """Outputs ``y`` at ``x``, both ``(rows,)``, given the context."""
        z = task_latent(x, self.latent)
        observe(pyro.module("network", self.network)(z, x, context_x, context_y), y)


class Attentive(nn.Module):
    """A state of each target, started by the latent, that attends to the context round by round."""

    def __init__(self, hidden: int, latent: int, pair: int, rounds: int) -> None:
        super().__init__()
        self.start = nn.Linear(latent, hidden)
        self.pairs = mlp(3 + 2 * len(BUMPS), pair, pair)
        self.rounds = nn.ModuleList([Round(hidden, pair) for _ in range(rounds)])
        self.last = mlp(hidden, hidden, 2)

    def forward(self, z: Tensor, x: Tensor, context_x: Tensor, context_y: Tensor) -> Tensor:
        """Numbers of each target, ``(targets, 2)``."""
        away = x[:, None] - context_x
        pairs = self.pairs(torch.cat([distances(away), context_y.expand_as(away)[..., None]], -1))
        state = self.start(z).expand(len(x), -1)
        for attend in self.rounds:
            state = attend(state, pairs, away == 0)
        return self.last(state)


class Round(nn.Module):
    """Attention of each target to its pairs with the context, which are keys and values."""

    def __init__(self, hidden: int, pair: int, heads: int = 4) -> None:
        super().__init__()
        self.ask, self.take = nn.Linear(hidden, heads * pair), nn.Linear(heads * pair, hidden)
        self.think = mlp(hidden, hidden, hidden)
        self.norms = nn.ModuleList([nn.LayerNorm(hidden), nn.LayerNorm(hidden)])
        self.heads = heads

    def forward(self, state: Tensor, pairs: Tensor, hidden: Tensor) -> Tensor:
        """States ``(targets, hidden)``; pairs ``(targets, context, pair)``, not seen where ``hidden``."""
        asked = self.ask(self.norms[0](state)).unflatten(-1, (self.heads, -1))
        scores = asked @ pairs.mT / pairs.shape[-1] ** 0.5
        scores = scores.masked_fill(hidden[:, None], torch.finfo(scores.dtype).min)
        state = state + self.take((scores.softmax(-1) @ pairs).flatten(-2))
        return state + self.think(self.norms[1](state))


def waves(x: Tensor) -> Tensor:
    """Features of inputs."""
    angles = math.pi / 4 * x[:, None] * torch.arange(1, WAVES + 1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def distances(away: Tensor) -> Tensor:
    """Features of signed distances: even and odd bumps of several widths."""
    scaled = away[..., None] / away.new_tensor(BUMPS)
    bumps = (-0.5 * scaled.square()).exp()
    return torch.cat([away[..., None], away[..., None].abs(), bumps, scaled * bumps], -1)


def task_latent(x: Tensor, size: int) -> Tensor:
    return pyro.sample("z", dist.Normal(x.new_zeros(size), 1.0).to_event(1))


def observe(numbers: Tensor, y: Tensor) -> None:
    """Normals from ``(rows, 2)`` numbers, none narrower than the noise."""
    loc, scale = numbers.unbind(-1)
    with pyro.plate("points", len(y)):
        pyro.sample("y", dist.Normal(loc, NOISE + F.softplus(scale)), obs=y)
