"""The VAE that the results on MNIST share, and its guides: plain Pyro, one decoder and several ways to a posterior.

The network is that of Burda, Grosse and Salakhutdinov (2016), one stochastic layer: 784-200-200-50 and back, tanh.
"""

import functools

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

import pyrometa as pm
from pyrometa.guides import AmortizedGuide, Flow, Posterior, SemiAmortizedGuide
from pyrometa.models import VAE

KINDS = ("mean field", "flow", "semi-amortised", "meta-learned start")
REFINEMENTS = 5
MOMENTUM = 0.5


class Network(nn.Module):
    """A decoder and a guide for its latents.

    Args:
        kind: one of ``KINDS``: an encoder's normal; an encoder's flow; an encoder's normal, refined by five learned
            steps; one normal for all images, meta-learned together with the rates of five steps from it.
        hidden: width of the two layers each way.
        latent: latents of an image.
    """

    def __init__(self, kind: str, hidden: int = 200, latent: int = 50) -> None:
        super().__init__()
        self.kind, self.hidden, self.latent = kind, hidden, latent
        self.decoder = VAE(hidden=(hidden, hidden), latent=latent, activation=torch.tanh).decoder
        encoder = Nothing() if kind == "meta-learned start" else layers(hidden)
        family = functools.partial(inverse_autoregressive, width=hidden // 2) if kind == "flow" else "mean_field"
        guide = AmortizedGuide(self.model, encoder, family=family)
        self.guide = refined(guide) if kind in ("semi-amortised", "meta-learned start") else guide

    def model(self, x: Tensor) -> None:
        """Binary images ``(N, 784)`` given their latents; its parameters are the network's, not the store's."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent), 1.0).to_event(1))
            pyro.sample("x", self.decoder(z), obs=x)

    def elbo(self) -> ELBO:
        """The loss that it is trained by: the divergence from the prior in closed form where there is one."""
        return Trace_ELBO() if self.kind == "flow" else TraceMeanField_ELBO()

    def ready(self) -> "Network":
        """Make what the guide makes on first data."""
        with pyro.get_param_store().scope():
            self.guide(torch.zeros(2, 784))
        return self

    def take(self, other: "Network") -> None:
        """Go on from another's decoder and, where this one refines an encoder's proposals, from its encoder."""
        self.decoder.load_state_dict(other.decoder.state_dict())
        if self.kind == "semi-amortised":
            self.guide.guide.load_state_dict(other.guide.state_dict())


class Nothing(nn.Module):
    """An encoder that does not look at the image: the head's bias is a start for all of them."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros ``(N, 1)`` for images ``(N, 784)``."""
        return x.new_zeros(len(x), 1)


def layers(hidden: int) -> nn.Module:
    return nn.Sequential(nn.Linear(784, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())


def refined(guide: AmortizedGuide, rate: float = 3e-3, steps: int = REFINEMENTS) -> SemiAmortizedGuide:
    """Five steps with momentum on each image's own numbers, at learned rates."""
    return SemiAmortizedGuide(guide, steps, pm.Momentum(rate, momentum=MOMENTUM, learn="parameter"))


def inverse_autoregressive(dim: int, features: int, width: int = 100) -> Posterior:
    """Two affine inverse autoregressive steps (Kingma et al., 2016), then a mean and a scale, given the features."""
    checked = "validate_distributions_torch"
    with pyro.settings.context(**{checked: pyro.settings.get(checked)}):  # importing zuko would switch it off for all
        from zuko.distributions import DiagNormal
        from zuko.flows import Flow as ZukoFlow
        from zuko.flows import MaskedAutoregressiveTransform
        from zuko.flows.gaussianization import ElementWiseTransform
        from zuko.lazy import LazyInverse, UnconditionalDistribution

    forward = torch.arange(dim)
    steps = [ElementWiseTransform(dim, features, hidden_features=())]
    steps += [
        MaskedAutoregressiveTransform(dim, features, order=order, hidden_features=(width,))
        for order in (forward, forward.flip(0))
    ]
    base = UnconditionalDistribution(DiagNormal, torch.zeros(dim), torch.ones(dim), buffer=True)
    return Flow(ZukoFlow([LazyInverse(step) for step in steps], base), features)
