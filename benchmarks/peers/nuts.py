"""NumPyro's NUTS, for the truth: posterior means and standard deviations of each unconstrained latent."""

from typing import Any

import jax
import torch
from numpyro.infer import MCMC, NUTS

from benchmarks.normals import Normals, Program
from benchmarks.peers.jax_programs import JaxProgram


def truth(program: Program, start: Normals, tasks: int, warmup: int, draws: int) -> tuple[Normals, list[int]]:
    """One chain for each of the first tasks, from where a fit has converged; and which tasks these are."""
    jax.config.update("jax_enable_x64", True)
    jaxed, means, deviations, index = JaxProgram(program), [], [], []
    for bucket in jaxed.buckets:
        chosen = [j for j, i in enumerate(bucket.index) if i < tasks]
        if not chosen:
            continue
        where = [bucket.index[j] for j in chosen]
        data = tuple(x[jax.numpy.array(chosen)] for x in bucket.data)
        begin = jax.numpy.asarray(start.loc[where].numpy())
        keys = jax.random.split(jax.random.PRNGKey(0), len(chosen))

        @jax.jit
        @jax.vmap
        def sample(key: jax.Array, z: jax.Array, task: Any) -> Any:
            nuts = NUTS(potential_fn=lambda z: -jaxed.log_density(z, task), target_accept_prob=0.9)
            chain = MCMC(nuts, num_warmup=warmup, num_samples=draws, progress_bar=False)
            chain.run(key, init_params=z)
            found = chain.get_samples()
            return found.mean(0), found.std(0)

        mean, deviation = sample(keys, begin, data)
        means.append(mean)
        deviations.append(deviation)
        index.extend(where)
    stack = [torch.tensor(jax.device_get(jax.numpy.concatenate(x))).double() for x in (means, deviations)]
    return Normals(*stack), index
