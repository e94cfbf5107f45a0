"""The Pyro programs that the benchmarks of algorithms adapt."""

import math
from itertools import accumulate, pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import torch
import torch.nn.functional as F
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

HALF_LOG_PI = 0.5 * math.log(math.pi)


def network(width: int = 40) -> nn.Sequential:
    """The network of Finn et al. (2017): 1-40-40-1 with ReLU."""
    return nn.Sequential(nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


class Regression(nn.Module):
    """A network as the mean of a Normal with variance 1/2.

    Divided by the number of rows, its negative log likelihood is the mean squared error plus half of log pi, and their
    gradients are the same: an inner rate means what it means in the papers.
    """

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.net = network(width)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The model."""
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(self.net(x), 0.5**0.5).to_event(1), obs=y)


def no_latents(*data: Any) -> None:
    """The guide of a model that has nothing to infer."""


class BayesianRegression(PyroModule):
    """The same network with a Normal over all its weights, in one site, and a Normal likelihood of known scale.

    The prior's locations and scales are parameters: learned in the outer loop, they make it amortised Bayesian
    meta-learning (Ravi, Beatson 2019).
    """

    def __init__(self, width: int = 40, noise: float = 0.3, prior_scale: float = 0.1) -> None:
        super().__init__()
        start = network(width)
        self.noise = noise
        self.shapes = [p.shape for p in start.parameters()]
        self.prior_loc = nn.Parameter(nn.utils.parameters_to_vector(start.parameters()).detach())
        self.first_loc = self.prior_loc.detach().clone()
        self.prior_log_scale = nn.Parameter(torch.full_like(self.prior_loc, math.log(prior_scale)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The model."""
        prior = dist.Normal(self.prior_loc, self.prior_log_scale.exp())
        mean = self.mean(pyro.sample("weights", prior.to_event(1)), x)
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(mean, self.noise).to_event(1), obs=y)

    def mean(self, weights: Tensor, x: Tensor) -> Tensor:
        """The network's output on ``x`` of shape ``(rows, 1)`` for weights of shape ``(..., parameters)``."""
        ends = [0, *accumulate(shape.numel() for shape in self.shapes)]
        parts = [
            weights[..., a:b].unflatten(-1, shape) for (a, b), shape in zip(pairwise(ends), self.shapes, strict=True)
        ]
        for weight, bias in zip(parts[::2], parts[1::2], strict=True):
            x = x @ weight.mT + bias.unsqueeze(-2)
            x = x if bias is parts[-1] else F.relu(x)
        return x

    def guide(self, scale: float = 0.02) -> AutoNormal:
        """A diagonal Normal that starts at the prior's locations."""
        return AutoNormal(self, init_loc_fn=self.start, init_scale=scale)

    def start(self, site: dict[str, Any]) -> Tensor:
        """Where a guide starts: the prior's first locations."""
        return self.first_loc.clone()


class GroupRegression(PyroModule):
    """A hierarchical linear regression: coefficients of a group around those of the population, which are learned."""

    def __init__(self, features: int, noise: float) -> None:
        super().__init__()
        self.noise = noise
        self.loc = nn.Parameter(torch.zeros(features))
        self.log_scale = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The model."""
        weights = pyro.sample("weights", dist.Normal(self.loc, self.log_scale.exp()).to_event(1))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(x @ weights, self.noise), obs=y)


def expected_nll(model: Any, guide: Any, *data: Any) -> Tensor:
    """Minus the expected log likelihood of the observed data under the guide, by one draw.

    A query ELBO would count the KL of a task's latents a second time.
    """
    latents = poutine.trace(guide).get_trace(*data)
    trace = poutine.trace(poutine.replay(model, trace=latents)).get_trace(*data)
    return -trace.log_prob_sum(lambda name, site: site["is_observed"])
