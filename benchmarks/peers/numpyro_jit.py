"""NumPyro: the same model and guide in JAX, ``vmap`` over tasks, the whole step with its Adam compiled by XLA."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpyro
import torch
from torch import Tensor

from benchmarks.peers import NOISE
from benchmarks.peers.numpyro_programs import Params, programs
from benchmarks.workloads import Workload

Data = tuple[jax.Array, ...]


class MetaStep:
    """A compiled function of (optimiser state, random key)."""

    def __init__(self, workload: Workload) -> None:
        problem = replace(workload, device="cpu").build()  # JAX has a device of its own choice
        self._workload = workload
        self._optim = numpyro.optim.Adam(workload.outer_lr)
        with precision(workload.dtype):
            self._support, self._query = (
                tuple(jnp.asarray(part.numpy()) for part in data) for data in (problem.support, problem.query)
            )
            leaves = {name: jnp.asarray(leaf.detach().numpy()) for name, leaf in problem.parameters().items()}
            self._state = self._optim.init(leaves)
            self._key = jax.random.PRNGKey(0)
        self._compiled = jax.jit(self._step)

    def step(self) -> None:
        """One meta-step; the first compiles."""
        with precision(self._workload.dtype):
            self._state, self._key, _ = jax.block_until_ready(self._compiled(self._state, self._key))

    def loss_and_grads(self) -> tuple[float, dict[str, Tensor]]:
        """On fixed noise, compiled by itself."""
        with precision(self._workload.dtype), mock.patch("jax.random.normal", fixed):
            gradients = jax.jit(jax.value_and_grad(self._meta_loss))
            loss, grads = gradients(self._optim.get_params(self._state), self._key)
        return float(loss), {name: torch.tensor(jax.device_get(grad)) for name, grad in grads.items()}

    def _step(self, state: Any, key: jax.Array) -> tuple[Any, jax.Array, jax.Array]:
        key, noise = jax.random.split(key)
        loss, grads = jax.value_and_grad(self._meta_loss)(self._optim.get_params(state), noise)
        return self._optim.update(grads, state), key, loss

    def _meta_loss(self, params: Params, key: jax.Array) -> jax.Array:
        phi = {name: p for name, p in params.items() if name.startswith("guide.")}
        theta = {name: p for name, p in params.items() if name.startswith("model.")}
        keys = jax.random.split(key, self._workload.tasks)
        return jax.vmap(self._task_loss, (None, None, 0, 0, 0))(phi, theta, self._support, self._query, keys).mean()

    def _task_loss(self, phi: Params, theta: Params, support: Data, query: Data, key: jax.Array) -> jax.Array:
        *inner, last = jax.random.split(key, self._workload.steps + 1)
        for noise in inner:
            grads = jax.grad(self._elbo_loss)(phi, theta, support, noise)
            phi = {name: p - self._workload.inner_lr * grads[name] for name, p in phi.items()}
        return self._elbo_loss(phi, theta, query, last)

    def _elbo_loss(self, phi: Params, theta: Params, data: Data, key: jax.Array) -> jax.Array:
        model, guide, elbo = programs(self._workload, {**phi, **theta})
        return elbo.loss(key, {}, model, guide, *data) / self._workload.rows


def fixed(key: jax.Array, shape: tuple[int, ...] = (), dtype: Any = None) -> jax.Array:
    """Draws that are all of one value, in the place of ``jax.random.normal``."""
    return jnp.full(shape, NOISE, dtype)


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Within, numbers are of this type: JAX makes every number a float32 unless it is told otherwise."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", dtype is torch.float64)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def build(workload: Workload) -> MetaStep:
    """The contestant."""
    return MetaStep(workload)
