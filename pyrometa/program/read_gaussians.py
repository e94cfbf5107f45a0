"""Find the Gaussians of a guide whose numbers are linear in parameters, as of a network's last layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import ExpTransform, Transform
from torch.distributions.transforms import SoftplusTransform

from pyrometa import generators
from pyrometa.elbos.wrapped_distributions import layers
from pyrometa.program.autograd_graph import leaf_ids
from pyrometa.program.gaussian_sites import (
    GaussianSite,
    gaussian_sites,
    names_of,
    shown,
    still_gaussians,
)
from pyrometa.program.generic import generic_numbers
from pyrometa.program.program import Program
from pyrometa.types import Data, DiagonalGaussian, FullGaussian, Geometry, Params, ReadGaussians, Scale

_TO_SCALES: tuple[Transform, ...] = (SoftplusTransform(), ExpTransform())


def find_read(program: Program, data: Data, values: Params, explained: Collection[str]) -> ReadGaussians | None:
    """The Gaussians that are linear in parameters which nothing else of the guide depends on; None without any.

    Parameters are tried in turn, the last first, as a network has its last layer last: all together have to be linear,
    and no two numbers of the Gaussians may be bound to each other.

    Args:
        program: the program.
        data: a task.
        values: numbers of what adapts, that mean nothing.
        explained: sites that are not looked at.
    """
    lines = _Lines(program, data, values)
    reached = lines.reached(explained)
    chosen: tuple[str, ...] = ()
    for name in reversed(list(values)):
        if name in reached and lines.transforms(_sites(reached, (name, *chosen)), (name, *chosen)):
            chosen = (name, *chosen)
    sites = lines.transforms(_sites(reached, chosen), chosen)
    if not sites:
        return None
    like, slopes = lines.slopes(sites, chosen)
    geometry = _geometry(sites, like)
    return ReadGaussians(chosen, sites, like, geometry) if _are_free(geometry, slopes) else None


@dataclass(frozen=True)
class _Lines:
    """Straight lines through the numbers of what adapts."""

    program: Program
    data: Data
    values: Params

    def reached(self, explained: Collection[str]) -> dict[str, list[str]]:
        """The Gaussian sites outside of plates that each parameter reaches, of those that reach nothing else."""
        with generators.forked(), _CutDraws():
            latents = self.program.latents_of_guide(self.values, self.data)
        drawn = {g.name: g for g in gaussian_sites(latents) if not (g.in_plate or g.moved or g.low_rank is not None)}
        drawn = {name: g for name, g in drawn.items() if name not in explained}
        if not drawn:
            return {}
        still = still_gaussians(self.program, self.values, self.data, drawn)
        free = [g for g in still if _close(g.loc, drawn[g.name].loc) and _close(g.scale, drawn[g.name].scale)]
        by_site = {g.name: self._names([drawn[g.name].loc, drawn[g.name].scale]) for g in free}
        nodes = [node for name, node in latents.items() if name not in by_site]
        elsewhere = self._names(part for node in nodes for part in (node["value"], node["fn"].log_prob(node["value"])))
        reached: dict[str, list[str]] = {}
        for site, names in by_site.items():
            for name in names - elsewhere:
                reached.setdefault(name, []).append(site)
        return reached

    def _names(self, tensors: Iterable[Tensor]) -> set[str]:
        ids = leaf_ids(tensors)
        return {name for name, value in self.values.items() if id(value) in ids}

    @torch.no_grad()
    def transforms(self, sites: Sequence[str], moving: Sequence[str]) -> dict[str, Transform]:
        """The transform of unconstrained numbers to each site's scales; empty where not all sites are linear."""
        step = generic_numbers({name: self.values[name] for name in moving}, seed=2)
        runs = [
            self._run(sites, {name: self.values[name] + k * along for name, along in step.items()}) for k in range(3)
        ]
        found = {}
        for three in zip(*runs, strict=True):
            transform = next((t for t in _TO_SCALES if _are_straight([g.numbers(t) for g in three])), None)
            if transform is None:
                return {}
            found[three[0].name] = transform
        return found

    def _run(self, sites: Sequence[str], moved: Params) -> list[GaussianSite]:
        return still_gaussians(self.program, {**self.values, **moved}, self.data, sites)

    def slopes(self, sites: Mapping[str, Transform], moving: Sequence[str]) -> tuple[Params, Params]:
        """The sites' numbers, and their derivatives by all that moves, of shape ``(size, moving)``."""

        def numbers(moved: Params) -> tuple[Params, Params]:
            found = shown(self.program, {**self.values, **moved}, self.data, sites)
            return found, found

        given = {name: self.values[name].detach() for name in moving}
        slopes, here = torch.func.jacrev(numbers, has_aux=True)(given)
        flat = {
            key: torch.cat([part.reshape(here[key].numel(), -1) for part in parts.values()], 1)
            for key, parts in slopes.items()
        }
        return {key: value.detach() for key, value in here.items()}, flat


class _CutDraws(Messenger):
    """Cuts what is drawn from what it was drawn from."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not any(isinstance(fn, Delta) for fn in layers(msg["fn"])):
            msg["value"] = msg["value"].detach()


def _sites(reached: Mapping[str, Sequence[str]], names: Iterable[str]) -> list[str]:
    return sorted({site for name in names for site in reached[name]})


def _are_straight(three: Sequence[Params]) -> bool:
    """Whether numbers at three points in equal steps lie on straight lines."""
    first, second, third = (torch.cat([value.flatten() for value in numbers.values()]) for numbers in three)
    bend = (first - 2 * second + third).abs().max()
    return bool(bend <= torch.finfo(first.dtype).eps ** 0.5 * (first.abs() + third.abs()).max())


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, torch.finfo(one.dtype).eps ** 0.75, 0.0)


def _geometry(sites: Mapping[str, Transform], like: Params) -> Geometry:
    scales, diagonal, full = {}, [], []
    for site, transform in sites.items():
        loc, tril = names_of(site, full=True)
        scale = names_of(site, full=False)[1]
        if tril in like:
            full.append(FullGaussian(tril, None, loc, transform))
        else:
            scales[scale] = Scale(transform, None)
            diagonal.append(DiagonalGaussian(scale, loc, None, None))
    return Geometry(scales, tuple(diagonal), tuple(full), {})


def _are_free(geometry: Geometry, slopes: Params) -> bool:
    """Whether each scale moves whose mean does, and all that move can be moved by themselves."""
    moving = {name: slope.abs().sum(1) > 0 for name, slope in slopes.items()}
    for gaussian in geometry.diagonal:
        if gaussian.mean and (moving[gaussian.mean] > moving[gaussian.scale]).any():
            return False
    for full in geometry.full:
        size = len(moving[str(full.mean)])
        if moving[str(full.mean)].any() and moving[full.tril].sum() < size * (size + 1) // 2:
            return False
    rows = torch.cat(list(slopes.values()))[torch.cat(list(moving.values()))]
    spectrum = torch.linalg.eigvalsh(rows @ rows.mT)
    return bool(spectrum[0] > torch.finfo(rows.dtype).eps ** 0.5 * spectrum[-1])
