"""The contestants: one file each, each as its own user would write the meta-step."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Protocol

from torch import Tensor

from benchmarks.workloads import Workload

NOISE = 0.5
"""The value of all standard normal draws where results are compared."""


class Contestant(Protocol):
    """One way to do a meta-step."""

    def step(self) -> None:
        """Forward, meta-gradient and Adam step on the workload's meta-batch, with fresh noise."""

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """Mean query loss and meta-gradient on fixed noise, by ``Problem.parameters``' names; nothing is changed."""


class Unavailable(Exception):
    """Why a contestant takes no part."""


OURS = "pyrometa"


def _build(module: str, workload: Workload, **options: object) -> Contestant:
    try:
        return import_module(f"benchmarks.peers.{module}").build(workload, **options)
    except ModuleNotFoundError as error:
        raise Unavailable("not installed") from error


CONTESTANTS: dict[str, Callable[[Workload], Contestant]] = {
    OURS: partial(_build, "pyrometa_svi", record=True),
    "pyrometa, not recorded": partial(_build, "pyrometa_svi", record=False),
    "learn2learn loop": partial(_build, "learn2learn_loop"),
    "torch.func vmap": partial(_build, "torch_func"),
    "NumPyro, jit(vmap)": partial(_build, "numpyro_jit"),
    "by hand": partial(_build, "by_hand"),
}
"""Builders by name; each raises Unavailable where it can't take part."""


def _gone_over(workload: Workload) -> Contestant:
    made: Contestant = import_module("benchmarks.peers.pyrometa_svi").gone_over(workload)
    return made


GONE_OVER: dict[str, Callable[[Workload], Contestant]] = {"pyrometa, gone over": _gone_over}
"""The default engine when it has gone over to compiled steps, which takes a C++ compiler and up to a minute."""
