"""What is found out about a program by running guide and model: on first data, and again in each new mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pyro.infer.elbo import ELBO
from pyro.poutine import Trace
from torch import nn

from pyrometa.elbos.default import mean_field_elbo, warn_of_forgotten_jacobians
from pyrometa.program.given import Given
from pyrometa.program.guards.local_rows import local_sites
from pyrometa.program.guards.sites import check_sites
from pyrometa.program.guide_draws import GuideDraws
from pyrometa.program.leaves import Leaf, find_leaves
from pyrometa.program.objectives import Objective
from pyrometa.program.param_recorder import SideRun
from pyrometa.program.traces import draws, is_auxiliary, is_data, latents, plates


@dataclass(frozen=True, eq=False)
class Findings:
    """What discovery finds out on first data, and what holds from then on.

    Attributes:
        elbo: the loss that it is run under.
        score: what scores a query set.
        leaves: its parameters by name.
        local_sites: latent sites that an autoguide holds a variational parameter a row for.
        registered: modules that a function registers with Pyro.
        latents: shape and type of each latent site of the guide; None where they follow the data's rows.
    """

    elbo: ELBO | Objective
    score: ELBO | Objective
    leaves: Mapping[str, Leaf] = field(default_factory=dict)
    local_sites: tuple[str, ...] = ()
    registered: tuple[nn.Module, ...] = ()
    latents: Mapping[str, tuple[torch.Size, torch.dtype]] | None = None

    @classmethod
    def of(cls, given: Given, guide: SideRun, model: SideRun) -> Findings:
        """Read the findings off the first runs of guide and model.

        Warns:
            UserWarning: a loss or score that forgets a Jacobian of the guide.
        """
        elbo = mean_field_elbo(guide.trace) if given.loss is None else given.loss
        for objective in (given.loss, given.score):
            warn_of_forgotten_jacobians(objective, guide.trace)
        leaves, local = find_leaves(guide, model), local_sites(guide, model.trace)
        registered = (*guide.recorder.modules.values(), *model.recorder.modules.values())
        score = elbo if given.score is None else given.score
        return cls(elbo, score, leaves, local, registered, latents_of_all_data(guide.trace, model.trace))


@dataclass(frozen=True)
class Look:
    """What a run of guide and model shows in one mode.

    Attributes:
        guide_draws: the guide's draws that second-order gradients can't pass.
        site_lines: where it samples each site, as far as it is known.
    """

    guide_draws: GuideDraws = field(default_factory=GuideDraws)
    site_lines: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, guide: SideRun, model: SideRun, leaves: Mapping[str, Leaf]) -> Look:
        """Read the look off runs of guide and model."""
        return cls(GuideDraws.of(guide.trace, leaves), lines(guide, model))


def latents_of_all_data(guide: Trace, model: Trace) -> dict[str, tuple[torch.Size, torch.dtype]] | None:
    """Shape and type of each latent site of a guide; None where one is in a plate of the data."""
    sites = {name: site for name, site in latents(guide).items() if not is_auxiliary(site)}
    of_data = {frame.name for site in draws(model).values() if is_data(site) for frame in plates(site)}
    if any(frame.name in of_data for name in sites for frame in plates(model.nodes.get(name, sites[name]))):
        return None
    return {name: (site["value"].shape, site["value"].dtype) for name, site in sites.items()}


def check_runs(guide: SideRun, model: SideRun) -> None:
    """Refuse a guide whose latent sites are not the model's.

    Raises:
        ValueError: naming the sites.
    """
    check_sites(guide.trace, model.trace, lines(guide, model))


def lines(guide: SideRun, model: SideRun) -> dict[str, str]:
    """Where guide and model sample each site, as far as it is known."""
    return {**model.recorder.lines, **guide.recorder.lines}
