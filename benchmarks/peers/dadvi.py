"""A deterministic objective as in DADVI: scipy's trust-ncg on one Sobol draw, its Hessian-vector products in JAX.

Giordano, Ingram, Broderick (2024), https://www.jmlr.org/papers/v25/23-1015.html.
"""

import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from scipy.optimize import minimize

from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program, sobol
from benchmarks.peers.jax_programs import JaxProgram


class Objective:
    """A mean field's loss of means and log scales, and its derivatives, each compiled once a bucket."""

    def __init__(self, jaxed: JaxProgram, points: torch.Tensor) -> None:
        eps = jnp.asarray(points.numpy()).astype(float)

        def loss(phi: jax.Array, data: Any) -> jax.Array:
            loc, log_scale = jnp.split(phi, 2)
            density = jax.vmap(lambda z: jaxed.log_density(z, data))
            return -density(loc + jnp.exp(log_scale) * eps).mean() - log_scale.sum()

        self.both = jax.jit(jax.value_and_grad(loss))
        self.product = jax.jit(lambda phi, v, data: jax.jvp(lambda p: jax.grad(loss)(p, data), (phi,), (v,))[1])

    def warm(self, phi: np.ndarray, data: Any) -> None:
        """Compile for a task's shape."""
        jax.block_until_ready((self.both(phi, data), self.product(phi, phi, data)))


def run(program: Program, at: list[int]) -> Run:
    """Tasks one after the other, each to its end; ``at`` are numbers of iterations."""
    jax.config.update("jax_enable_x64", True)
    jaxed = JaxProgram(program)
    objective = Objective(jaxed, sobol(program.problem.elbo.num_particles, len(jaxed.loc), seed=7).double())
    start = np.concatenate([jaxed.loc, jnp.log(jaxed.scale)])
    tasks = [(i, tuple(x[j] for x in b.data)) for b in jaxed.buckets for j, i in enumerate(b.index)]
    _, cold = timed(lambda: [objective.warm(start, data) for _, data in tasks])
    traces = {i: _trace(objective, start, data, max(at)) for i, data in tasks}
    points = []
    for steps in at:
        reached = [traces[i][min(steps, len(traces[i]) - 1)] for i in range(len(tasks))]
        phi = torch.tensor(np.stack([phi for phi, _ in reached]))
        loc, log_scale = phi.chunk(2, -1)
        points.append(Point(steps, float(np.mean([s for _, s in reached])), Normals(loc, log_scale.exp())))
    return Run(points, cold=cold)


def _trace(objective: Objective, start: np.ndarray, data: Any, steps: int) -> list[tuple[np.ndarray, float]]:
    """Parameters and seconds after each iteration."""
    began = time.process_time()
    trace = [(start, 0.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minimize(
            lambda phi: [np.asarray(x, dtype=float) for x in objective.both(phi, data)],
            start,
            jac=True,
            hessp=lambda phi, v: np.asarray(objective.product(phi, v, data)),
            method="trust-ncg",
            callback=lambda phi: trace.append((phi.copy(), time.process_time() - began)),
            options={"maxiter": steps, "gtol": 1e-6},
        )
    return trace
