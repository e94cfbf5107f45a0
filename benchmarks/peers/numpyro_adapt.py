"""NumPyro: first-order adaptation to many tasks, ``vmap`` over tasks and the steps compiled by XLA."""

from typing import Any
from unittest import mock

import jax
import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.numpyro_jit import MetaStep, fixed, precision
from benchmarks.workloads import Workload


class Adapting(MetaStep):
    """A compiled function of the support data and a random key, called with some tasks at a time."""

    def __init__(self, workload: Workload, chunk: int) -> None:
        super().__init__(workload)
        self._chunk = chunk
        self._many = jax.jit(jax.vmap(self._adapted, (None, 0, 0)))

    def adapt(self, tasks: int) -> list[Any]:
        """The adapted parameters of some tasks at a time, on the device."""
        chunks = [slice(i, min(i + self._chunk, tasks)) for i in range(0, tasks, self._chunk)]
        with precision(self._workload.dtype):
            params, keys = self._optim.get_params(self._state), jax.random.split(self._key, tasks)
            return jax.block_until_ready(
                [self._many(params, tuple(part[some] for part in self._support), keys[some]) for some in chunks]
            )

    def _adapted(self, params: dict[str, jax.Array], support: tuple[jax.Array, ...], key: jax.Array) -> Any:
        phi = {name: p for name, p in params.items() if name.startswith("guide.")}
        theta = {name: p for name, p in params.items() if name.startswith("model.")}
        for noise in jax.random.split(key, self._workload.steps):
            grads = jax.grad(self._elbo_loss)(phi, theta, support, noise)
            phi = {name: p - self._workload.inner_lr * grads[name] for name, p in phi.items()}
        return phi

    def each(self, tasks: int) -> list[dict[str, Tensor]]:
        """Each task's adapted parameters by ``Problem.parameters``' names, on fixed noise."""
        with mock.patch("jax.random.normal", fixed):
            found = self.adapt(tasks)
        together = {name: np.concatenate([jax.device_get(part[name]) for part in found]) for name in found[0]}
        return [{name: torch.tensor(value[task]) for name, value in together.items()} for task in range(tasks)]


def build(workload: Workload, chunk: int) -> Adapting:
    """The contestant."""
    return Adapting(workload, chunk)
