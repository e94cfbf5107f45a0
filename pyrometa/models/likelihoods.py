"""What a decoder's output says about an image: one distribution an image, pixels independent."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints

__all__ = ["LIKELIHOODS", "Bernoulli", "ContinuousBernoulli", "Gaussian"]


class _UnitBernoulli(dist.Bernoulli):
    """A Bernoulli that scores grey values too: by cross-entropy, in [0, 1] and nowhere else."""

    support = constraints.unit_interval


class Bernoulli(nn.Module):
    """``x ~ Bernoulli(sigmoid(output))``; draws are binary, grey values in [0, 1] are scored as well.

    A value outside [0, 1] is refused by the distribution's own validation when it is scored, so
    ``pyro.enable_validation(False)`` switches that check off with all others.
    """

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def forward(self, output: Tensor) -> dist.Distribution:
        """The distribution of images, from logits of shape ``(..., *event)``."""
        return _UnitBernoulli(logits=output).to_event(self.event_dim)


class ContinuousBernoulli(nn.Module):
    """``x ~ ContinuousBernoulli(sigmoid(output))``, a density on [0, 1] (Loaiza-Ganem & Cunningham, 2019)."""

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim

    def forward(self, output: Tensor) -> dist.Distribution:
        """The distribution of images, from logits of shape ``(..., *event)``."""
        return dist.ContinuousBernoulli(logits=output).to_event(self.event_dim)


class Gaussian(nn.Module):
    """``x ~ Normal(output, exp(log_scale))`` with one learned scale for all pixels, 1 at the start."""

    def __init__(self, event_dim: int) -> None:
        super().__init__()
        self.event_dim = event_dim
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor) -> dist.Distribution:
        """The distribution of images, from means of shape ``(..., *event)``."""
        return dist.Normal(output, self.log_scale.exp()).to_event(self.event_dim)


LIKELIHOODS: dict[str, Callable[[int], nn.Module]] = {
    "bernoulli": Bernoulli,
    "continuous_bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
}
