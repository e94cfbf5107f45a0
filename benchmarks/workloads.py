"""The workloads: a Pyro model and guide with a meta-batch, built anew from one seed for each contestant."""

from dataclasses import dataclass, replace
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyrometa.models import VAE, ConvVAE


class Model(nn.Module):
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


class Guide(nn.Module):
    """``z ~ Normal(*encoder(x))`` for each image."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> None:
        """Images ``(N, *image)``."""
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@dataclass(frozen=True)
class Workload:
    """Second-order MAML of a VAE's guide, on the mean loss over a task's images.

    Attributes:
        kind: ``"A"``, a dense VAE 784-width-latent, or ``"C"``, a convolutional one.
        tasks: B, the size of the meta-batch.
        rows: N, the support images and the query images of a task.
        steps: K, the inner steps.
        width: units of the hidden layers of A.
        channels: channels of the convolutions of C.
        latent: latent variables of an image.
        inner_lr: rate of the inner steps.
        outer_lr: rate of Adam.
        dtype: of networks and data.
    """

    kind: str = "A"
    tasks: int = 16
    rows: int = 10
    steps: int = 5
    width: int = 200
    channels: tuple[int, int] = (32, 64)
    latent: int = 20
    inner_lr: float = 1e-3
    outer_lr: float = 1e-3
    dtype: torch.dtype = torch.float32

    def build(self) -> "Problem":
        """The same networks and data each time; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae, image = self._network()
            support, query = (torch.rand(2, self.tasks, self.rows, *image) < 0.3).float()
        vae = vae.to(self.dtype)
        return Problem(
            Guide(vae.encoder), Model(vae.decoder, self.latent), support.to(self.dtype), query.to(self.dtype)
        )

    def quick(self) -> "Workload":
        """A tiny one of the kind, to try a benchmark."""
        return replace(self, tasks=min(self.tasks, 3), rows=4, steps=2, width=16, channels=(2, 4), latent=3)

    def described(self) -> dict[str, Any]:
        """The fields, for a result file."""
        return {**vars(self), "dtype": str(self.dtype).removeprefix("torch.")}

    def _network(self) -> tuple[Any, tuple[int, ...]]:
        if self.kind == "C":
            return ConvVAE(channels=self.channels, latent=self.latent), (1, 28, 28)
        return VAE(hidden=self.width, latent=self.latent), (784,)


@dataclass(frozen=True)
class Problem:
    """Networks, and data of shape ``(tasks, rows, *image)``."""

    guide: Guide
    model: Model
    support: Tensor
    query: Tensor

    def parameters(self) -> dict[str, Tensor]:
        """The leaves by the names that contestants' gradients go by."""
        sides = {"guide": self.guide, "model": self.model}
        return {f"{side}.{name}": p for side, module in sides.items() for name, p in module.named_parameters()}


class ZeroNoise(TorchFunctionMode):
    """Standard normal draws are zero, so that contestants that draw in different orders can be compared."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer the draws that a Normal can be built on."""
        if func is torch.Tensor.normal_:
            return args[0].zero_()
        if func is torch.randn_like:
            return torch.zeros_like(*args, **(kwargs or {}))
        if func is torch.randn:
            return torch.zeros(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
