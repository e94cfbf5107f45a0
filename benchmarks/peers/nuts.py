"""NumPyro's NUTS, for the truth: posterior means and standard deviations of each unconstrained latent."""

from typing import Any

import jax
import jax.numpy as jnp
import torch
from numpyro.infer import MCMC, NUTS

from benchmarks.normals import Normals, Program
from benchmarks.peers.jax_programs import JaxProgram

ALL = 10**6  # all tasks in one bucket


def truth(program: Program, start: Normals, warmup: int, draws: int) -> Normals:
    """One chain a task, from where a fit has converged."""
    jax.config.update("jax_enable_x64", True)
    jaxed = JaxProgram(program, base=ALL)
    (bucket,) = jaxed.buckets

    def sample(key: jax.Array, latents: jax.Array, task: Any) -> tuple[jax.Array, jax.Array]:
        nuts = NUTS(potential_fn=lambda z: -jaxed.log_density(z, task), target_accept_prob=0.9)
        chain = MCMC(nuts, num_warmup=warmup, num_samples=draws, progress_bar=False)
        chain.run(key, init_params=latents)
        found = chain.get_samples()
        return found.mean(0), found.std(0)

    keys = jax.random.split(jax.random.PRNGKey(0), len(bucket.index))
    found = jax.jit(jax.vmap(sample))(keys, jnp.asarray(start.loc.numpy()), bucket.data)
    return Normals(*(torch.tensor(jax.device_get(part)).double() for part in found))
