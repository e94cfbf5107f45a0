"""The real tasks' models in NumPyro, and their tasks in buckets of similar size, padded and masked."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import torch
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import potential_energy

from benchmarks.normals import Program, padded

Columns = tuple[jax.Array, ...]


def chem97(mask: jax.Array, score: jax.Array, gcse: jax.Array) -> None:
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with handlers.mask(mask=mask):
        numpyro.sample("score", dist.Normal(intercept + slope * gcse, 0.74), obs=score)


def radon(mask: jax.Array, y: jax.Array, basement: jax.Array) -> None:
    level = numpyro.sample("level", dist.Normal(0.0, 2.0))
    floor = numpyro.sample("floor", dist.Normal(0.0, 1.0))
    with handlers.mask(mask=mask):
        numpyro.sample("radon", dist.Normal(level + floor * basement, 0.8), obs=y)


def theoph(mask: jax.Array, concentration: jax.Array, hours: jax.Array, dose: jax.Array) -> None:
    absorption = numpyro.sample("absorption", dist.LogNormal(0.5, 0.7))
    elimination = numpyro.sample("elimination", dist.LogNormal(-2.5, 0.5))
    clearance = numpyro.sample("clearance", dist.LogNormal(-3.2, 0.5))
    noise = numpyro.sample("noise", dist.LogNormal(-0.5, 0.5))
    scale = dose * absorption * elimination / (clearance * (absorption - elimination))
    mean = scale * (jnp.exp(-elimination * hours) - jnp.exp(-absorption * hours))
    with handlers.mask(mask=mask):
        numpyro.sample("concentration", dist.Normal(mean, noise), obs=concentration)


def mixtures(mask: jax.Array, x: jax.Array) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.full(2, 5.0)))
    means = numpyro.sample("means", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    scales = numpyro.sample("scales", dist.LogNormal(-0.5, 0.3).expand([2]).to_event(1))
    with handlers.mask(mask=mask):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, scales)), obs=x)


MODELS: dict[str, Callable[..., None]] = {"chem97": chem97, "radon": radon, "theoph": theoph, "mixtures": mixtures}


@dataclass(frozen=True)
class Bucket:
    """Tasks of similar size: which they are, and a mask and columns ``(tasks, rows)``."""

    index: list[int]
    data: Columns


class JaxProgram:
    """A program's model and tasks in NumPyro, in the precision that is set when it is made."""

    def __init__(self, program: Program, base: int = 4) -> None:
        self.program, self.model = program, MODELS[program.name]
        self.sites = program.sites
        loc, scale = (jnp.asarray(x.numpy()) for x in program.start)
        self.loc, self.scale = loc.astype(float), scale.astype(float)
        self.buckets = buckets(program, base)
        named, at = {}, 0
        for site in self.sites:
            named[site.name] = self.loc[at : at + site.shape.numel()].reshape(site.shape)
            at += site.shape.numel()
        self.start = named

    def log_density(self, latents: jax.Array, data: Columns) -> jax.Array:
        """Of flat unconstrained latents and one task."""
        return -potential_energy(self.model, data, {}, self.named(latents))

    def named(self, latents: jax.Array) -> dict[str, jax.Array]:
        """By site."""
        found, at = {}, 0
        for site in self.sites:
            found[site.name] = latents[at : at + site.shape.numel()].reshape(site.shape)
            at += site.shape.numel()
        return found

    def flat(self, named: dict[str, jax.Array]) -> jax.Array:
        """The inverse of :meth:`named`, of tasks side by side."""
        parts = [named[site.name].reshape(-1, site.shape.numel()) for site in self.sites]
        return jnp.concatenate(parts, -1)

    def transforms(self) -> dict[str, object]:
        """From unconstrained space, by site."""
        with handlers.seed(rng_seed=0):
            trace = handlers.trace(self.model).get_trace(*(x[0] for x in self.buckets[0].data))
        return {site.name: biject_to(trace[site.name]["fn"].support) for site in self.sites}

    def gathered(self, parts: list[jax.Array]) -> torch.Tensor:
        """Results of the buckets, in the tasks' order."""
        order = [i for bucket in self.buckets for i in bucket.index]
        rows = torch.cat([torch.tensor(jax.device_get(part)).double() for part in parts])
        return rows[torch.tensor(order).argsort()]


def buckets(program: Program, base: int) -> list[Bucket]:
    """Tasks by the power of ``base`` that their number of rows is below; each bucket is compiled."""
    groups: dict[int, list[int]] = {}
    for i, task in enumerate(program.problem.tasks):
        groups.setdefault(ceil(log(len(task[0]), base)), []).append(i)
    made = []
    for index in groups.values():
        columns, mask = padded([program.problem.tasks[i] for i in index])
        data = (jnp.asarray(mask.numpy()), *(jnp.asarray(x.numpy()).astype(float) for x in columns))
        made.append(Bucket(index, data))
    return made
