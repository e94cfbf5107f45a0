"""The low-rank step for this one network in plain torch, without Pyro: what the engine's overhead is measured by.

A task's weight of a linear layer after some steps is ``W + sum_k A_k^T H_k``, with ``H_k`` the layer's inputs in step
``k`` and ``A_k`` the gradients at its outputs times the negative rate; the bias moves by ``sum_k A_k``'s rows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers import NOISE, Unavailable
from benchmarks.workloads import FixedNoise, Workload

LAYERS = ("hidden", "loc", "log_scale")
Factors = dict[str, list[tuple[Tensor, Tensor]]]


class MetaStep:
    """All tasks in one batch dimension, factors in place of per-task weights."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._problem = workload, workload.build()
        self._leaves = self._problem.parameters()
        self._optim = torch.optim.Adam(self._leaves.values(), workload.outer_lr)

    def step(self) -> None:
        """One meta-step."""
        self._optim.zero_grad()
        self._meta_loss().backward()
        self._optim.step()

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On fixed noise."""
        with FixedNoise(NOISE):
            loss = self._meta_loss()
        return loss.item(), dict(zip(self._leaves, torch.autograd.grad(loss, self._leaves.values()), strict=True))

    def _meta_loss(self) -> Tensor:
        factors: Factors = {name: [] for name in LAYERS}
        for _ in range(self._workload.steps):
            pass_ = _Pass(self._problem.guide.encoder, factors, probing=True)
            loss = self._losses(pass_, self._problem.support[0]).sum()
            deltas = torch.autograd.grad(loss, [pass_.probes[name] for name in LAYERS], create_graph=True)
            for name, delta in zip(LAYERS, deltas, strict=True):
                factors[name].append((-self._workload.inner_lr * delta, pass_.inputs[name]))
        return self._losses(_Pass(self._problem.guide.encoder, factors), self._problem.query[0]).mean()

    def _losses(self, encoder: "_Pass", x: Tensor) -> Tensor:
        decoder = self._problem.model.decoder
        h = torch.relu(encoder.layer("hidden", x))
        loc, log_scale = encoder.layer("loc", h), encoder.layer("log_scale", h)
        z = loc + log_scale.exp() * torch.randn_like(loc)
        logits = decoder.output(torch.relu(decoder.hidden(z)))
        reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2))
        kl = (0.5 * (loc**2 + (2 * log_scale).exp()) - log_scale - 0.5).sum((1, 2))
        return (reconstruction + kl) / self._workload.rows


class _Pass:
    """One run of the encoder on the tasks' weights; with ``probing`` it leaves probes and inputs of each layer."""

    def __init__(self, encoder: torch.nn.Module, factors: Factors, probing: bool = False) -> None:
        self._encoder, self._probing = encoder, probing
        self._factors = {n: [torch.cat(part, 1) for part in zip(*pairs, strict=True)] for n, pairs in factors.items()}
        self.probes: dict[str, Tensor] = {}
        self.inputs: dict[str, Tensor] = {}

    def layer(self, name: str, x: Tensor) -> Tensor:
        """A linear layer of shape ``(tasks, rows, in)`` to ``(tasks, rows, out)``."""
        y = getattr(self._encoder, name)(x)
        if self._factors[name]:
            a, h = self._factors[name]
            y = y + torch.bmm(torch.bmm(x, h.mT) + 1.0, a)  # + 1: the bias
        if self._probing:
            self.inputs[name], self.probes[name] = x, torch.zeros_like(y, requires_grad=True)
            y = y + self.probes[name]
        return y


def build(workload: Workload) -> MetaStep:
    """The contestant, for the dense network only."""
    if workload.kind != "A":
        raise Unavailable("written for another network")
    return MetaStep(workload)
