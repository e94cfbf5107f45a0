"""Adaptation of learned guides to new tasks, as each contestant's own user would write it."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import Tensor

import pyrometa as pm
from benchmarks.peers import Unavailable
from benchmarks.workloads import Data, Workload, local_params, named


class Adapting(Protocol):
    """One way to fit a guide to each of many support sets."""

    def adapt(self, tasks: int) -> list[Any]:
        """Guides of the workload's first tasks."""

    def parameters(self, guide: Any) -> dict[str, Tensor]:
        """A guide's adapted, unconstrained parameters by ``Problem.parameters``' names."""


class Together:
    """pyrometa: ``MetaSVI.adapt_many``."""

    def __init__(self, workload: Workload, engine: pm.Engine) -> None:
        problem = workload.build()
        self._support = problem.support
        self._meta = pm.MetaSVI(
            problem.model,
            problem.guide,
            pyro.optim.Adam({"lr": workload.outer_lr}),
            inner=pm.SGD(workload.inner_lr),
            steps=workload.steps,
            reduction="mean",
            engine=engine,
        )

    def adapt(self, tasks: int) -> list[Any]:
        """Guides that own their values."""
        with local_params():
            return self._meta.adapt_many(tuple(part[:tasks] for part in self._support))

    def parameters(self, guide: Any) -> dict[str, Tensor]:
        """By pyrometa's own names."""
        return guide.adapted.by_name()

    def recordings(self) -> list[str]:
        """What was recorded, and how long it took."""
        return self._meta.recordings()


class OneByOne(ABC):
    """A loop over tasks around Pyro's own ELBO."""

    def __init__(self, workload: Workload) -> None:
        self._problem, self._workload = workload.build(), workload
        self._problem.model.requires_grad_(False)
        self._elbo = TraceMeanField_ELBO()

    def adapt(self, tasks: int) -> list[Any]:
        """One guide after the other."""
        supports = list(zip(*(part[:tasks] for part in self._problem.support), strict=True))
        with local_params():
            return [self._adapted(support) for support in supports]

    def parameters(self, guide: Any) -> dict[str, Tensor]:
        """Those of the module."""
        return {named("guide", name): value for name, value in guide.named_parameters()}

    @abstractmethod
    def _adapted(self, support: Data) -> Any:
        """The guide of one task."""

    def _loss(self, guide: torch.nn.Module, support: Data) -> Tensor:
        return self._elbo.differentiable_loss(self._problem.model, guide, *support) / self._workload.rows


class Clones(OneByOne):
    """learn2learn: a clone of the guide for each task, first order."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        try:
            from learn2learn.algorithms import MAML
        except ModuleNotFoundError as error:
            raise Unavailable("not installed") from error
        self._maml = MAML(self._problem.guide, lr=workload.inner_lr, first_order=True)

    def _adapted(self, support: Data) -> Any:
        learner = self._maml.clone()
        for _ in range(self._workload.steps):
            learner.adapt(self._loss(learner, support))
        return learner.module


class PlainSVI(OneByOne):
    """SVI without meta-learning: a copy of the guide for each task, and torch's SGD.

    From an untrained start it needs hundreds or thousands of steps; here it does as many as the others, which says what
    one of them costs.
    """

    def _adapted(self, support: Data) -> Any:
        guide = copy.deepcopy(self._problem.guide)
        optim = torch.optim.SGD(guide.parameters(), self._workload.inner_lr)
        for _ in range(self._workload.steps):
            optim.zero_grad()
            self._loss(guide, support).backward()
            optim.step()
        return guide


ADAPTING: dict[str, Callable[[Workload, int], Adapting]] = {
    "pyrometa": lambda workload, chunk: Together(workload, pm.Engine(record=True, chunk_size=chunk)),
    "pyrometa, not recorded": lambda workload, chunk: Together(workload, pm.Engine(chunk_size=chunk, record=False)),
    "learn2learn loop": lambda workload, chunk: Clones(workload),
    "plain SVI": lambda workload, chunk: PlainSVI(workload),
}
"""Builders by name, from a workload and the tasks to hold in memory at a time; they raise Unavailable as others do."""
