"""pyrometa: MetaSVI on the unchanged model and guide."""

from typing import Literal

import pyro
from torch import Tensor

import pyrometa as pm
from benchmarks.workloads import Workload, ZeroNoise


class MetaStep:
    """A MetaSVI with its data."""

    def __init__(self, workload: Workload, engine: pm.Engine) -> None:
        problem = workload.build()
        self._data = problem.support, problem.query
        self._meta = pm.MetaSVI(
            problem.model,
            problem.guide,
            pyro.optim.Adam({"lr": workload.outer_lr}),
            inner=pm.SGD(workload.inner_lr),
            steps=workload.steps,
            reduction="mean",
            engine=engine,
        )

    def step(self) -> None:
        """One meta-step."""
        self._meta.step(*self._data)

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On zero noise."""
        with ZeroNoise():
            loss, grads = self._meta.loss_and_grads(*self._data)
        return loss.item(), grads

    def plan(self) -> dict[str, str]:
        """How the engine holds each parameter."""
        return self._meta.plan(*self._data)


def build(workload: Workload, low_rank: bool | Literal["auto"] = "auto") -> MetaStep:
    """The contestant."""
    return MetaStep(workload, pm.Engine(low_rank=low_rank))
