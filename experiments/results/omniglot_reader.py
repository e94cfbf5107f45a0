"""A VAE whose guide reads ten drawings of a character first, and may then take steps: for ``omniglot_generation``.

A Neural Statistician (Edwards and Storkey, 2017, https://arxiv.org/abs/1606.02185) with the widths of the VAE that it
is compared with: a context c of the character beside the latent z of each drawing.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.distributions import kl_divergence

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, ComposedGuide, SetEncoderGuide
from pyrometa.models import VAE

Program = Callable[..., Any]


class Reader(nn.Module):
    """p(c) p(z | c) p(x | z, c), and its guide q(c | S) q(z | x, c)."""

    def __init__(self, pixels: int, hidden: int, context: int, latent: int) -> None:
        super().__init__()
        self.context = context
        self.prior = nn.Sequential(nn.Linear(context, hidden), nn.Tanh(), nn.Linear(hidden, 2 * latent))
        self.decoder = nn.Sequential(*hidden_layers(latent + context, hidden), nn.Linear(hidden, pixels))
        encoder, drawing = nn.Sequential(*hidden_layers(pixels, hidden)), DrawingEncoder(pixels, hidden, context)
        self.guide = ComposedGuide(
            context=SetEncoderGuide(self.model, encoder, pooling="mean", sites=["c"]),
            drawings=AmortizedGuide(self.model, drawing, sites=["z"], given=["c"]),
        )

    def model(self, x: Tensor) -> None:
        """A set of drawings ``x``, ``(drawings, pixels)``."""
        prior, decoder = pyro.module("prior", self.prior), pyro.module("decoder", self.decoder)
        c = pyro.sample("c", dist.Normal(x.new_zeros(self.context), 1.0).to_event(1))
        loc, log_scale = prior(c).chunk(2, -1)
        with pyro.plate("drawings", len(x)):
            z = pyro.sample("z", dist.Normal(loc.expand(len(x), -1), log_scale.exp()).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(beside(z, c))).to_event(1), obs=x)


class DrawingEncoder(nn.Module):
    """Features of each drawing, given the context."""

    def __init__(self, pixels: int, hidden: int, context: int) -> None:
        super().__init__()
        self.network = nn.Sequential(*hidden_layers(pixels + context, hidden))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Shapes ``(drawings, pixels)`` and ``(context,)`` to ``(drawings, features)``."""
        return self.network(beside(x, c))


def hidden_layers(inputs: int, hidden: int) -> tuple[nn.Module, ...]:
    return nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh()


def beside(rows: Tensor, c: Tensor) -> Tensor:
    return torch.cat([rows, c.expand(*rows.shape[:-1], -1)], -1)


def predictive_bound(model: Program, guide: Program, x: Tensor) -> Tensor:
    r"""An upper bound of the drawings' negative log predictive density given what was read, each by itself, summed.

    .. math:: -\log \int p(x \mid c) \, q(c \mid S) \, dc
        \le \mathbb E_{q(c \mid S)} \left[ \mathbb E_{q(z \mid x, c)} [-\log p(x \mid z, c)]
        + \text{KL}(q(z \mid x, c) \,\|\, p(z \mid c)) \right]

    The support set's term KL(q(c | S) || p(c)) is no part of it: q(c | S) is the distribution that is predicted by.
    """
    q = poutine.trace(guide).get_trace(x)
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace(x)
    p.compute_log_prob(lambda name, site: site["is_observed"])
    divergence: Tensor = kl_divergence(q.nodes["z"]["fn"], p.nodes["z"]["fn"])
    return divergence.sum() - p.nodes["x"]["log_prob"].sum()


RATES = {"guide.context.amortized.heads.c.bias": 0.05, "model.decoder.*": 1e-3}
"""Where learning begins the rates of what adapts: the bias that the context's posterior is read off by, the decoder."""


@torch.no_grad()
def begin_at(net: Reader, vae: VAE, x: Tensor) -> None:
    """Start a reader from a pooled VAE: what it does with a drawing is the same, and the context says nothing yet."""
    net.guide(x)  # the heads are made on first data
    pixels, latent = x.shape[-1], vae.latent
    set_encoder, drawing = net.guide.context.amortized.encoder.encoder, net.guide.drawings.encoder.network
    for network in (set_encoder, drawing):
        copy(vae.encoder.hidden[0], network[0], pixels)
        copy(vae.encoder.hidden[2], network[2])
    copy(vae.decoder.hidden[0], net.decoder[0], latent)
    copy(vae.decoder.hidden[2], net.decoder[2])
    copy(vae.decoder.output, net.decoder[4])
    copy(None, net.prior[2])
    head = net.guide.drawings.heads["z"]
    head.weight.copy_(torch.cat([vae.encoder.loc.weight, vae.encoder.log_scale.weight]))
    head.bias.copy_(torch.cat([vae.encoder.loc.bias, vae.encoder.log_scale.bias - NARROW]))
    net.guide.context.amortized.heads["c"].bias[net.context :] -= 2.0  # a context that is hardly drawn at random


NARROW = 0.5413
"""What a scale's logarithm is above the number that ``AmortizedGuide`` makes it from, where it is narrow."""


def copy(source: nn.Linear | None, target: nn.Linear, columns: int | None = None) -> None:
    """A layer's parameters into the first columns of another's; the others are zero."""
    target.weight.zero_()
    target.bias.zero_()
    if source is not None:
        target.weight[:, :columns] = source.weight
        target.bias.copy_(source.bias)


def meta_svi(net: Reader, steps: int, lr: float, engine: pm.Engine) -> pm.MetaSVI:
    """Reads a set, and takes steps with a learned rate for each layer and step."""
    return pm.MetaSVI(
        net.model,
        net.guide,
        pyro.optim.Adam({"lr": lr}),
        inner=pm.SGD(RATES, learn="layer_step", outer_lr=0.03),
        steps=steps,
        adapt=list(RATES),
        reduction="mean",
        score=predictive_bound,
        engine=engine,
    )
