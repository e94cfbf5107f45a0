"""Normal approximations of many tasks' posteriors, and what they cost: the scale on which inner rules are compared.

All are normals of a task's latents in unconstrained space, site after site as the model draws them.
A cost is the negative ELBO a datum on points of a Sobol sequence, from the model's own log density.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import biject_to

from benchmarks.plain_svi import MaskObserved, Problem, Row

ROUND = 250_000  # draws of a row's likelihood at a time


@dataclass(frozen=True)
class Normals:
    """Means ``(tasks, latents)``, and lower triangles of covariances or, of mean fields, scales like the means."""

    loc: Tensor
    scale: Tensor

    @property
    def tril(self) -> Tensor:
        """``(tasks, latents, latents)``."""
        return self.scale if self.scale.dim() == 3 else torch.diag_embed(self.scale)

    @property
    def deviations(self) -> Tensor:
        """Standard deviations of each latent."""
        return self.tril.square().sum(-1).sqrt()


@dataclass(frozen=True)
class Site:
    """A latent, its shape in unconstrained space and the way back."""

    name: str
    shape: torch.Size
    transform: Any

    def constrained(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The value and its log Jacobian, of flat values ``(..., size)``; both have a last dimension of rows."""
        x = x.reshape(*x.shape[:-1], 1, *self.shape)
        value = self.transform(x)
        jacobian = self.transform.log_abs_det_jacobian(x, value)
        return value, jacobian.reshape(*x.shape[: x.dim() - len(self.shape) - 1], -1).sum(-1)


class Values(Messenger):
    """Give latents their values; they stay latents."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@dataclass(frozen=True)
class Program:
    """A program whose rules are compared.

    Attributes:
        name: what it is called, also by the peers that write its model anew.
        problem: model, mean-field guide, ELBO and tasks.
        density: the model with its discrete latents summed out; what normals are scored on.
        rates: Adam's, of which the best for Adam counts.
        steps: Adam's at most.
        falling: Adam's steps with a falling rate, after which it has converged.
        mirror: picks one of a posterior's mirror images, from means and deviations; None where it has none.
    """

    name: str
    problem: Problem
    density: Callable[..., Any]
    rates: tuple[float, ...]
    steps: int
    falling: int
    mirror: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def shortened(self, tasks: int, steps: int) -> "Program":
        """The first tasks and few steps, for a trial."""
        return replace(
            self, problem=replace(self.problem, tasks=self.problem.tasks[:tasks]), steps=steps, falling=steps
        )

    def canonical(self, loc: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """Means and deviations ``(tasks, latents)`` of the mirror image that is the reference."""
        return (loc, deviations) if self.mirror is None else self.mirror(loc, deviations)

    @cached_property
    def start(self) -> tuple[Tensor, Tensor]:
        """The guide's default start: means and scales, ``(latents,)``."""
        return self._beginning[1].loc[0], self._beginning[1].scale[0]

    @property
    def sites(self) -> list[Site]:
        """The latents, as the guide knows them."""
        return self._beginning[0]

    @cached_property
    def _beginning(self) -> tuple[list[Site], Normals]:
        with pyro.get_param_store().scope():
            guide = self.problem.guide(self.problem.model)
            guide(*self.problem.tasks[0])
            sites = [
                Site(name, getattr(guide.locs, name).shape, biject_to(node["fn"].support))
                for name, node in guide.prototype_trace.iter_stochastic_nodes()
            ]
            return sites, of_guide(guide, sites, 1)

    @cached_property
    def rows(self) -> tuple[Row, Tensor]:
        """All tasks' columns side by side, ``(tasks, rows)``, and which rows are real."""
        return padded(self.problem.tasks)

    @cached_property
    def counts(self) -> Tensor:
        """Rows of each task."""
        return self.rows[1].sum(-1)

    def log_joint(self, latents: Tensor) -> Tensor:
        """Log density of data and unconstrained latents ``(draws, tasks, latents)``: ``(draws, tasks)``."""
        columns, mask = self.rows
        values, total, at = {}, torch.zeros(()), 0
        for site in self.sites:
            size = math.prod(site.shape)
            values[site.name], jacobian = site.constrained(latents[..., at : at + size])
            total, at = total + jacobian, at + size
        with poutine.trace() as tracer, MaskObserved(mask), Values(values):
            self.density(*columns)
        tracer.trace.compute_log_prob()
        for _, node in tracer.trace.iter_stochastic_nodes():
            total = total + node["log_prob"].sum(-1)
        for name in tracer.trace.observation_nodes:
            total = total + tracer.trace.nodes[name]["log_prob"].sum(-1)
        return total

    def losses(self, normals: Normals, points: Tensor) -> Tensor:
        """Negative ELBO of each task in nats, on standard normal points ``(draws, latents)``."""
        tril = normals.tril
        latents = normals.loc + torch.einsum("tij,dj->dti", tril, points)
        entropy = tril.diagonal(dim1=-2, dim2=-1).log().sum(-1) + tril.shape[-1] * (1 + math.log(2 * math.pi)) / 2
        return -self.log_joint(latents).mean(0) - entropy

    @torch.no_grad()
    def score(self, normals: Normals, draws: int) -> Tensor:
        """Nats a datum of each task, on ``draws`` points that no rule has seen."""
        normals = Normals(normals.loc.to(torch.get_default_dtype()), normals.scale.to(torch.get_default_dtype()))
        points = sobol(draws, normals.loc.shape[-1], seed=2**20)
        parts = points.split(max(1, ROUND // self.rows[1].numel()))
        total = sum(self.losses(normals, part).double() * len(part) for part in parts)
        return total / draws / self.counts


def padded(tasks: list[Row]) -> tuple[Row, Tensor]:
    """Tasks of any sizes side by side, each filled up by its last row, and a mask of the real rows."""
    counts = torch.tensor([len(task[0]) for task in tasks])
    index = torch.arange(int(counts.max()))
    columns = zip(*tasks, strict=True)
    return tuple(torch.stack([x[index.clamp(max=len(x) - 1)] for x in column]) for column in columns), (
        index < counts[:, None]
    )


def sobol(draws: int, latents: int, seed: int) -> Tensor:
    """Scrambled Sobol points through the inverse normal."""
    engine = torch.quasirandom.SobolEngine(latents, scramble=True, seed=seed)
    points = engine.draw(draws, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
    return torch.special.ndtri(points).to(torch.get_default_dtype())


def of_guide(guide: nn.Module, sites: list[Site], tasks: int) -> Normals:
    """What an AutoNormal of tasks side by side holds."""
    parts = [[getattr(where, site.name) for site in sites] for where in (guide.locs, guide.scales)]
    loc, scale = (torch.cat([x.detach().reshape(tasks, -1) for x in part], -1).double() for part in parts)
    return Normals(loc, scale)
