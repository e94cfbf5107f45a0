"""pyrometa: MetaSVI on the unchanged model and guide."""

from typing import Any
from unittest import mock

import pyro
from torch import Tensor

import pyrometa as pm
from benchmarks.peers import NOISE, Unavailable
from benchmarks.workloads import FixedNoise, Workload, local_params
from pyrometa.recording import going_over

_RUNS = 60
"""More than it takes the default engine to go over to recorded and then, if it waits for no replays, compiled steps."""


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
        with local_params():
            self._meta.step(*self._data)

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On fixed noise."""
        with local_params(), FixedNoise(NOISE):
            loss, grads = self._meta.loss_and_grads(*self._data)
        return loss.item(), grads

    def plan(self) -> dict[str, str]:
        """How the engine holds each parameter."""
        with local_params():
            return self._meta.plan(*self._data)

    def recordings(self) -> list[str]:
        """What was recorded, and how long it took."""
        return self._meta.recordings()

    def engine_report(self) -> str:
        """What runs how."""
        return str(self._meta.engine_report())


def build(workload: Workload, **options: Any) -> MetaStep:
    """The contestant, with the options of its engine."""
    return MetaStep(workload, pm.Engine(**options))


def gone_over(workload: Workload) -> MetaStep:
    """The default engine when it runs compiled steps, which it is made to go over to without the replays before.

    Raises:
        Unavailable: it does not, with what it says of that.
    """
    contestant = MetaStep(workload, pm.Engine())
    with mock.patch.multiple(going_over, _REPLAYS=1, _REPLAYS_OF_ONE=0):
        for _ in range(_RUNS):
            contestant.step()
    told = contestant.engine_report()
    if ": compiled" not in told:
        raise Unavailable(told)
    return contestant
