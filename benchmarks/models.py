"""The Pyro programs of the workloads."""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn


class ImageModel(nn.Module):
    """``z ~ Normal(0, I)``, ``x ~ Bernoulli(decoder(z))`` for each image."""

    def __init__(self, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.decoder, self.latent = decoder, latent

    def forward(self, x: Tensor) -> None:
        """Images ``(N, *image)``."""
        with pyro.plate("data", x.shape[0]):
            loc = x.new_zeros(x.shape[0], self.latent)
            z = pyro.sample("z", dist.Normal(loc, torch.ones_like(loc)).to_event(1))
            pyro.sample("x", self.decoder(z), obs=x)


class ImageGuide(nn.Module):
    """``z ~ Normal(*encoder(x))`` for each image."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> None:
        """Images ``(N, *image)``."""
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class BayesianMLP(PyroModule):
    """A network 1-width-width-1 with ReLU, each weight ``Normal(0, 1)``; ``y ~ Normal(network(x), 0.1)``."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        sizes = (1, width, width, 1)
        for i, (inputs, outputs) in enumerate(pairwise(sizes)):
            setattr(self, f"layer{i}", PyroModule[nn.Linear](inputs, outputs))
        self.put_priors(torch.zeros((), dtype=dtype))

    def put_priors(self, zero: Tensor) -> None:
        """Give each weight its prior, where a zero is and of its type: ``Module.to`` does not move distributions."""
        standard = dist.Normal(zero, torch.ones_like(zero))
        for layer in (self.layer0, self.layer1, self.layer2):
            shape = [layer.out_features, layer.in_features]
            layer.weight = PyroSample(standard.expand(shape).to_event(2))
            layer.bias = PyroSample(standard.expand(shape[:1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> None:
        """``x`` of shape ``(N, 1)``, ``y`` of shape ``(N,)``."""
        h = torch.relu(self.layer1(torch.relu(self.layer0(x))))
        mean = self.layer2(h).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    def guide(self) -> AutoNormal:
        """A Normal of every weight, scale 0.01, around draws that keep the activations' size."""
        return AutoNormal(self, init_loc_fn=_scaled_by_inputs, init_scale=0.01)


def _scaled_by_inputs(site: dict) -> Tensor:
    return site["fn"].sample() / site["fn"].event_shape[-1] ** 0.5
