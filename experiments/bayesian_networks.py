"""The networks of the Bayesian methods, and the guides that are written for them.

Each is a regression of ``y`` on ``x``, both of shape (rows, 1), with its output as the site ``mean`` or as a method.
"""

from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints
from torch.func import grad

WIDTHS = (1, 40, 40, 1)


class BayesianNetwork(PyroModule):
    """Normal weights, whose means and scales are learned across tasks and have priors of their own."""

    def __init__(self, tasks: int, scale: float = 0.1):
        super().__init__()
        self.tasks = tasks  # in the training set: each brings its share of the priors' priors
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)
        self.layers = PyroModule[nn.ModuleList]([Layer(*sizes, scale) for sizes in pairwise(WIDTHS)])

    def forward(self, x, y=None):
        """Observe the network's outputs."""
        pyro.factor("hyperprior", sum(layer.log_hyperprior() for layer in self.layers) / self.tasks)
        h = x[:, None]
        for layer in self.layers[:-1]:
            h = layer(h).tanh()
        observe(self.layers[-1](h)[..., 0, 0], self.noise, y)


class Layer(PyroModule):
    """Weights and bias of a layer, side by side in one site."""

    def __init__(self, fan_in: int, fan_out: int, scale: float):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(fan_out, fan_in + 1) * fan_in**-0.5)
        self.scale = PyroParam(torch.full((fan_out, fan_in + 1), scale), constraint=constraints.positive)
        self.weight = PyroSample(lambda self: dist.Normal(self.loc, self.scale).to_event(2))

    def forward(self, h):
        """Apply the sampled weights."""
        weight = self.weight  # of shape (out, in + 1), or (samples, 1, out, in + 1)
        return h @ weight[..., :-1].mT + weight[..., None, :, -1]

    def log_hyperprior(self):
        """Log density of the prior's own parameters, as in the paper."""
        return dist.Normal(0, 1).log_prob(self.loc).sum() + dist.Gamma(1, 0.1).log_prob(self.scale**-2).sum()


def observe(mean: Tensor, noise: Tensor, y: Tensor | None) -> None:
    with pyro.plate("data", mean.shape[-1]):
        pyro.deterministic("mean", mean)
        pyro.sample("y", dist.Normal(mean, noise), obs=None if y is None else y[:, 0])


class NormalWeights(PyroModule):
    """Independent normals that start as the network's priors, for an analytic KL divergence from them."""

    def __init__(self, network: BayesianNetwork):
        super().__init__()
        for i, layer in enumerate(network.layers):
            setattr(self, f"loc{i}", nn.Parameter(layer.loc.detach().clone()))
            setattr(self, f"scale{i}", PyroParam(layer.scale.detach().clone(), constraint=constraints.positive))

    def forward(self, x, y=None):
        """Sample the weights of every layer."""
        for i in range(len(WIDTHS) - 1):
            normal = dist.Normal(getattr(self, f"loc{i}"), getattr(self, f"scale{i}"))
            pyro.sample(f"layers.{i}.weight", normal.to_event(2))


class Platipus(PyroModule):
    """A distribution of starting points: one is drawn for each task, and moves from there by ``shift``.

    In training it is drawn near where the query set pulls it, and is held to the distribution that the support
    set gives, from which it is drawn at test.
    """

    def __init__(self):
        super().__init__()
        shapes = [(fan_out, fan_in + 1) for fan_in, fan_out in pairwise(WIDTHS)]
        start = torch.cat([torch.randn(shape).flatten() * (shape[1] - 1) ** -0.5 for shape in shapes])
        self.shapes, self.size = shapes, len(start)
        self.loc, self.shift = nn.Parameter(start), nn.Parameter(torch.zeros_like(start))
        for name, value in (("prior", 0.1), ("posterior", 0.05)):
            setattr(self, f"{name}_scale", PyroParam(torch.full_like(start, value), constraint=constraints.positive))
            setattr(self, f"{name}_rate", PyroParam(torch.tensor(1e-4), constraint=constraints.positive))
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def network(self, weights: Tensor, x: Tensor) -> Tensor:
        """The network with all its weights in one vector."""
        *hidden, last = (
            part.view(shape)
            for part, shape in zip(weights.split([a * b for a, b in self.shapes]), self.shapes, strict=True)
        )
        for weight in hidden:
            x = (x @ weight[:, :-1].T + weight[:, -1]).tanh()
        return (x @ last[:, :-1].T + last[:, -1])[:, 0]

    def pulled(self, name: str, x: Tensor, y: Tensor) -> dist.Normal:
        """Around the mean after one gradient step on some data."""

        def misfit(weights: Tensor) -> Tensor:
            return -dist.Normal(self.network(weights, x), self.noise).log_prob(y[:, 0]).sum()

        loc = self.loc - getattr(self, f"{name}_rate") * grad(misfit)(self.loc)
        return dist.Normal(loc, getattr(self, f"{name}_scale"))

    def model(self, x, y, support_x, support_y, query_x, query_y, draw, train=True):
        """The start from what the support set gives, and the data from where it has moved to."""
        start = pyro.sample("start", self.pulled("prior", support_x, support_y).to_event(1))
        observe(self.network(start + self.shift, x), self.noise, y)

    def guide(self, x, y, support_x, support_y, query_x, query_y, draw, train=True):
        """The start at the given noise."""
        by = ("posterior", query_x, query_y) if train else ("prior", support_x, support_y)
        normal = self.pulled(*by)
        start = normal.loc + normal.scale * draw
        pyro.sample("start", dist.Delta(start, normal.log_prob(start).sum(), event_dim=1))


class Features(nn.Module):
    """A perceptron of several inputs side by side."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
        )

    def forward(self, *inputs):
        """Read the columns of all inputs."""
        return self.layers(torch.cat(inputs, -1))


class Head(PyroModule):
    """Features that all tasks share, and a linear head of each task."""

    def __init__(self, features: int = 40):
        super().__init__()
        self.features, self.size = Features(1, 40, features), features
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x, y=None):
        """Observe the head's outputs."""
        head = pyro.sample("head", dist.Normal(x.new_zeros(self.size), 1.0).to_event(1))
        observe((self.features(x) * head).sum(-1), self.noise, y)


class Decoder(PyroModule):
    """A function of the input and of one latent of the task."""

    def __init__(self, latent: int = 32):
        super().__init__()
        self.decoder, self.latent = Features(1 + latent, 64, 1), latent
        self.noise = PyroParam(torch.tensor(0.5), constraint=constraints.positive)

    def forward(self, x, y=None):
        """Observe the decoder's outputs."""
        z = pyro.sample("z", dist.Normal(x.new_zeros(self.latent), 1.0).to_event(1))
        shape = torch.broadcast_shapes(z.shape[:-1], (len(x),))
        observe(self.decoder(x.expand(*shape, 1), z.expand(*shape, self.latent))[..., 0], self.noise, y)
