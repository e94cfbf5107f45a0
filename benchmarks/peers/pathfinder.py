"""Pathfinder of blackjax: normals along a path of L-BFGS, the best by ELBO; ``jit`` of ``vmap`` over tasks."""

from typing import Any

import jax
import jax.numpy as jnp
from blackjax.vi import pathfinder

from benchmarks.contest import Point, Run, timed
from benchmarks.normals import Normals, Program
from benchmarks.peers.jax_programs import JaxProgram


def run(program: Program, at: list[int]) -> Run:
    """Some numbers of iterations of L-BFGS, each a run of its own."""
    jax.config.update("jax_enable_x64", True)
    jaxed, points, cold = JaxProgram(program), [], 0.0
    for steps in at:

        @jax.jit
        def fit(keys: jax.Array, data: Any, steps: int = steps) -> tuple[jax.Array, jax.Array]:
            return jax.vmap(lambda key, task: _fit(jaxed, key, task, steps))(keys, data)

        def all_fit(fit: Any = fit) -> list[Any]:
            key = jax.random.PRNGKey(0)
            return jax.block_until_ready([fit(jax.random.split(key, len(b.index)), b.data) for b in jaxed.buckets])

        _, first = timed(all_fit)
        found, seconds = timed(all_fit)
        cold = max(cold, first - seconds)
        loc, tril = (jaxed.gathered([part[i] for part in found]) for i in range(2))
        points.append(Point(steps, seconds / len(program.problem.tasks), Normals(loc, tril)))
    return Run(points, family="normal", cold=cold)


def _fit(jaxed: JaxProgram, key: jax.Array, task: Any, steps: int) -> tuple[jax.Array, jax.Array]:
    state, _ = pathfinder.approximate(key, lambda z: jaxed.log_density(z, task), jaxed.loc, maxiter=steps, ftol=1e-8)
    covariance = jnp.diag(state.alpha) + state.beta @ state.gamma @ state.beta.T
    loc = state.position + covariance @ state.grad_position  # as blackjax draws from it
    return loc, jnp.linalg.cholesky(covariance)
