"""The programs of the real tasks, with their unseen tasks, as ``experiments`` has them."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from benchmarks.normals import Program
from benchmarks.plain_svi import Problem
from experiments import chem97, mixtures, radon, theoph
from pyrometa.tasks import PriorTasks, TaskSampler

DRAWS = 20_000


def schools(seed: int) -> Program:
    """Chem97."""
    tasks = chem97.load(6, seed).test.rows
    problem = Problem(chem97.model, AutoNormal, chem97.elbo(32), tasks, DRAWS)
    return Program("chem97", problem, chem97.model, (0.01, 0.03, 0.1), 200, 600)


def counties(seed: int) -> Program:
    """Radon."""
    tasks = radon.load(seed).test.rows
    problem = Problem(radon.model, AutoNormal, radon.elbo(32), tasks, DRAWS)
    return Program("radon", problem, radon.model, (0.03, 0.1), 150, 400)


def subjects(seed: int) -> Program:
    """Theoph."""
    tasks = theoph.load(seed).test.rows
    problem = Problem(theoph.model, theoph.make_guide, theoph.elbo(32), tasks, DRAWS)
    return Program("theoph", problem, theoph.model, (0.03, 0.1), 400, 1000)


def datasets(seed: int, count: int = 100) -> Program:
    """Mixtures, drawn from their prior."""
    torch.manual_seed(seed)
    family = PriorTasks(mixtures.model, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
    sampler = TaskSampler(family, shots=mixtures.ROWS, queries=1, seed=seed)
    return mixture_program([(x,) for x in sampler.sample(count).support])


def mixture_program(tasks: list[tuple[Tensor, ...]]) -> Program:
    """The mixture's program on any tasks."""
    problem = Problem(mixtures.model, mixtures.make_guide, mixtures.elbo(16), tasks, DRAWS)
    return Program("mixtures", problem, summed_mixture, (0.03, 0.1, 0.3), 1000, 1500, by_means)


def by_means(loc: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
    """The cluster of the smaller mean first; the latents are a logit of weights, two means and two log scales."""
    swap = (loc[:, 1] > loc[:, 2])[:, None]
    order, sign = torch.tensor([0, 2, 1, 4, 3]), torch.tensor([-1, 1, 1, 1, 1])
    return torch.where(swap, sign * loc[:, order], loc), torch.where(swap, deviations[:, order], deviations)


def summed_mixture(x: Tensor) -> None:
    """``mixtures.model`` without its discrete latent."""
    k = mixtures.CLUSTERS
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((k,), 5.0)))
    means = pyro.sample("means", dist.Normal(0.0, 3.0).expand([k]).to_event(1))
    scales = pyro.sample("scales", dist.LogNormal(-0.5, 0.3).expand([k]).to_event(1))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        parts = dist.Normal(means, scales)
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)


PROGRAMS: dict[str, Callable[[int], Program]] = {
    "chem97": schools,
    "radon": counties,
    "theoph": subjects,
    "mixtures": datasets,
}
