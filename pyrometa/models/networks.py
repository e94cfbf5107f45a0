"""The encoders and decoders of the VAEs; any leading dimensions, no normalisation, no buffers."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import pyro.distributions as dist
from torch import Tensor, nn

__all__ = ["Activation", "ConvDecoder", "ConvEncoder", "DenseDecoder", "DenseEncoder"]

Activation = Callable[[Tensor], Tensor]


class _Activated(nn.Module):
    """An activation as a module, to stand between layers."""

    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Elementwise."""
        return self.activation(x)


def _layers(sizes: Sequence[int], activation: Activation) -> nn.Module:
    """Linear layers with activations between them, not after the last; a single one is itself."""
    first, *others = (nn.Linear(*pair) for pair in pairwise(sizes))
    if not others:
        return first
    return nn.Sequential(first, *(part for layer in others for part in (_Activated(activation), layer)))


class DenseEncoder(nn.Module):
    """Images ``(..., data_size)`` to the posterior's ``loc`` and ``scale``, both ``(..., latent)``."""

    def __init__(self, data_size: int, hidden: Sequence[int], latent: int, activation: Activation) -> None:
        super().__init__()
        self.hidden = _layers([data_size, *hidden], activation)
        self.loc = nn.Linear(hidden[-1], latent)
        self.log_scale = nn.Linear(hidden[-1], latent)
        self.activation = activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden layers, two heads; ``scale = exp(log_scale)``."""
        h = self.activation(self.hidden(x))
        return self.loc(h), self.log_scale(h).exp()


class DenseDecoder(nn.Module):
    """Latents ``(..., latent)`` to a distribution of images with event shape ``(data_size,)``."""

    def __init__(
        self, latent: int, hidden: Sequence[int], data_size: int, activation: Activation, likelihood: nn.Module
    ) -> None:
        super().__init__()
        self.hidden = _layers([latent, *hidden], activation)
        self.output = nn.Linear(hidden[-1], data_size)
        self.activation = activation
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> dist.Distribution:
        """The hidden layers, then the likelihood."""
        return self.likelihood(self.output(self.activation(self.hidden(z))))


class ConvEncoder(nn.Module):
    """Images ``(..., 1, 28, 28)`` to the posterior's ``loc`` and ``scale``, both ``(..., latent)``."""

    def __init__(self, channels: tuple[int, int], latent: int, activation: Activation) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels[0], kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels[0], channels[1], kernel_size=4, stride=2, padding=1)
        self.loc = nn.Linear(channels[1] * 7 * 7, latent)
        self.log_scale = nn.Linear(channels[1] * 7 * 7, latent)
        self.activation = activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """28 to 14 to 7 pixels a side, two heads; ``scale = exp(log_scale)``."""
        h = self.activation(self.conv1(x.reshape(-1, 1, 28, 28)))
        h = self.activation(self.conv2(h))
        h = h.reshape(*x.shape[:-3], self.loc.in_features)
        return self.loc(h), self.log_scale(h).exp()


class ConvDecoder(nn.Module):
    """Latents ``(..., latent)`` to a distribution of images with event shape ``(1, 28, 28)``."""

    def __init__(self, latent: int, channels: tuple[int, int], activation: Activation, likelihood: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.Linear(latent, channels[1] * 7 * 7)
        self.conv1 = nn.ConvTranspose2d(channels[1], channels[0], kernel_size=4, stride=2, padding=1)
        self.conv2 = nn.ConvTranspose2d(channels[0], 1, kernel_size=4, stride=2, padding=1)
        self.activation = activation
        self.likelihood = likelihood

    def forward(self, z: Tensor) -> dist.Distribution:
        """7 to 14 to 28 pixels a side, then the likelihood."""
        h = self.activation(self.hidden(z))
        h = self.activation(self.conv1(h.reshape(-1, self.conv1.in_channels, 7, 7)))
        output: Tensor = self.conv2(h)
        return self.likelihood(output.reshape(*z.shape[:-1], 1, 28, 28))
