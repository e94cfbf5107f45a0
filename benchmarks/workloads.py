"""The workloads: a Pyro model and guide with a meta-batch, built anew from one seed for each contestant."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.models import BayesianMLP, ImageGuide, ImageModel
from pyrometa.models import VAE, ConvVAE

Data = tuple[Tensor, ...]


@dataclass(frozen=True)
class Workload:
    """Second-order MAML of a guide, on the mean loss over a task's data.

    Attributes:
        kind: ``"A"``, a dense VAE 784-width-latent; ``"B"``, AutoNormal over a Bayesian network 1-width-width-1 on
            sinusoids; ``"C"``, a convolutional VAE.
        tasks: B, the size of the meta-batch.
        rows: N, the support data and the query data of a task.
        steps: K, the inner steps.
        width: units of the hidden layers of A and B.
        channels: channels of the convolutions of C.
        latent: latent variables of an image.
        inner_lr: rate of the inner steps.
        outer_lr: rate of Adam.
        dtype: of networks and data.
        device: where they are.
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
    device: str = "cpu"

    def build(self) -> "Problem":
        """The same networks and data each time; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            problem = self._regression() if self.kind == "B" else self._images()
        return problem if self.device == "cpu" else problem.on(self.device)

    def quick(self) -> "Workload":
        """A tiny one of the kind, to try a benchmark."""
        return replace(self, tasks=min(self.tasks, 3), rows=4, steps=2, width=16, channels=(2, 4), latent=3)

    def described(self) -> dict[str, Any]:
        """The fields, for a result file."""
        return {**vars(self), "dtype": str(self.dtype).removeprefix("torch.")}

    def _images(self) -> "Problem":
        vae: Any = ConvVAE(channels=self.channels, latent=self.latent)
        image: tuple[int, ...] = (1, 28, 28)
        if self.kind == "A":
            vae, image = VAE(hidden=self.width, latent=self.latent), (784,)
        support, query = (torch.rand(2, self.tasks, self.rows, *image) < 0.3).to(self.dtype)
        vae = vae.to(self.dtype)
        return Problem(ImageGuide(vae.encoder), ImageModel(vae.decoder, self.latent), (support,), (query,))

    def _regression(self) -> "Problem":
        amplitude, phase = 0.1 + 4.9 * torch.rand(self.tasks, 1), math.pi * torch.rand(self.tasks, 1)
        x = 10 * torch.rand(2, self.tasks, self.rows) - 5
        y = amplitude * torch.sin(x - phase) + 0.1 * torch.randn_like(x)
        support, query = (
            (inputs.unsqueeze(-1), outputs) for inputs, outputs in zip(x.to(self.dtype), y.to(self.dtype), strict=True)
        )
        with local_params():
            model = BayesianMLP(self.width, self.dtype)
            guide = model.guide()
            guide(*(x[0] for x in support))  # sets its parameters up
        return Problem(guide, model, support, query)


def workload(kind: str, tasks: int) -> Workload:
    """Workload A, B or C at its full size."""
    if kind == "B":
        return Workload("B", tasks=tasks, width=40, inner_lr=1e-6)
    return Workload(kind, tasks=tasks)


def local_params() -> AbstractContextManager[None]:
    """A PyroModule's parameters as its own, not the param store's: clones and functional calls then reach them.

    Under Pyro's default they are ignored without a word, and AutoNormal does not adapt at all. pyrometa does not need
    it, but runs under it as the others do, so that contestants in one process do not share what the store holds.
    """
    return pyro.settings.context(module_local_params=True)


@dataclass(frozen=True)
class Problem:
    """Guide and model, and data: their arguments, each of shape ``(tasks, rows, ...)``."""

    guide: nn.Module
    model: nn.Module
    support: Data
    query: Data

    def on(self, device: str) -> "Problem":
        """The problem on another device, with the same numbers."""
        model, guide = self.model.to(device), self.guide.to(device)
        if isinstance(model, BayesianMLP):
            model.put_priors(torch.zeros((), dtype=self.support[1].dtype, device=device))
        support, query = (tuple(part.to(device) for part in data) for data in (self.support, self.query))
        return Problem(guide, model, support, query)

    def parameters(self) -> dict[str, Tensor]:
        """The leaves by the names that contestants' gradients go by."""
        sides = {"guide": self.guide, "model": self.model}
        return {named(side, name): p for side, module in sides.items() for name, p in module.named_parameters()}


def named(side: str, name: str) -> str:
    """A parameter's name in results; a PyroParam's is that of its unconstrained value."""
    return f"{side}.{name.removesuffix('_unconstrained')}"


class FixedNoise(TorchFunctionMode):
    """Standard normal draws are all of one value, so that contestants that draw in different orders can be compared."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer the draws that a Normal can be built on."""
        if func is torch.Tensor.normal_:
            return args[0].fill_(self._value)
        if func is torch.randn_like:
            return torch.full_like(*args, self._value, **(kwargs or {}))
        if func is torch.randn:
            return torch.full(args[0] if isinstance(args[0], tuple) else args, self._value, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
