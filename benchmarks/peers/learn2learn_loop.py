"""learn2learn's MAML around the guide and Pyro's own ELBO, one task at a time."""

import torch
from learn2learn.algorithms import MAML
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

from benchmarks.peers import NOISE
from benchmarks.workloads import Data, FixedNoise, Workload, local_params


class MetaStep:
    """A loop over clones; gradients accumulate on the leaves."""

    def __init__(self, workload: Workload) -> None:
        self._problem, self._steps, self._rows = workload.build(), workload.steps, workload.rows
        self._maml = MAML(self._problem.guide, lr=workload.inner_lr)
        self._leaves = self._problem.parameters()
        self._optim = torch.optim.Adam(self._leaves.values(), workload.outer_lr)
        self._elbo = TraceMeanField_ELBO()

    def step(self) -> None:
        """One meta-step."""
        self._backward()
        self._optim.step()

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On fixed noise."""
        with FixedNoise(NOISE):
            loss = self._backward()
        return loss.item(), {name: leaf.grad.clone() for name, leaf in self._leaves.items()}

    def _backward(self) -> Tensor:
        self._optim.zero_grad()
        supports, queries = zip(*self._problem.support, strict=True), zip(*self._problem.query, strict=True)
        tasks = list(zip(supports, queries, strict=True))
        total = self._problem.support[0].new_zeros(())
        with local_params():
            for support, query in tasks:
                learner = self._maml.clone()
                for _ in range(self._steps):
                    learner.adapt(self._loss(learner, support))
                loss = self._loss(learner, query) / len(tasks)
                loss.backward()
                total += loss.detach()
        return total

    def _loss(self, guide: torch.nn.Module, data: Data) -> Tensor:
        return self._elbo.differentiable_loss(self._problem.model, guide, *data) / self._rows


def build(workload: Workload) -> MetaStep:
    """The contestant."""
    return MetaStep(workload)
