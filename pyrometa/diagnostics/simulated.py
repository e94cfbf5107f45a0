"""Posteriors of tasks whose truth is known, because they are drawn from the model's prior."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.guided_model import check_meta
from pyrometa.diagnostics.task_arguments import tasks_of
from pyrometa.diagnostics.weighted_draws import weighted_draws

__all__ = ["Simulated", "simulated"]


class Simulated(NamedTuple):
    """Tasks from a prior, and draws of what a guide makes of them.

    Attributes:
        truths: of each latent site that the guide draws, shape ``(tasks, *site)``.
        draws: of each, shape ``(tasks, draws, *site)``.
        ranks: how many of a task's draws are below the truth, equal ones by lot; int64, shape ``(tasks, *site)``.
    """

    truths: dict[str, Tensor]
    draws: dict[str, Tensor]
    ranks: dict[str, Tensor]

    def columns(self) -> tuple[list[str], Tensor, Tensor]:
        """All sites side by side: a name a number, truths ``(tasks, numbers)``, draws ``(tasks, draws, numbers)``."""
        names = [label for name, truth in self.truths.items() for label in _labels(name, truth.shape[1:])]
        truths = torch.cat([truth.reshape(len(truth), -1).double() for truth in self.truths.values()], 1)
        draws = torch.cat([drawn.reshape(*drawn.shape[:2], -1).double() for drawn in self.draws.values()], 2)
        return names, truths, draws

    def rank_columns(self) -> Tensor:
        """The ranks of all sites side by side, shape ``(tasks, numbers)``."""
        return torch.cat([rank.reshape(len(rank), -1) for rank in self.ranks.values()], 1)


def simulated(
    meta: Any, prior_tasks: Any, *, tasks: int, rows: int, draws: int, steps: int | None, seed: int
) -> Simulated:
    """Draw tasks, adapt to each, and draw from what comes of it; the global generators are left where they are.

    Raises:
        TypeError: no MetaSVI, a count that is no whole number, or tasks that do not tell what they were drawn from.
        ValueError: counts out of range, or a guide that draws none of the model's latent sites.
    """
    check_meta(meta)
    if not hasattr(prior_tasks, "draw_with_latents"):
        raise TypeError(
            f"prior_tasks must tell what its tasks were drawn from, got {type(prior_tasks).__name__}: "
            "give pyrometa.tasks.PriorTasks(model, ...)"
        )
    for name, value, least in (("tasks", tasks, 20), ("rows", rows, 1), ("draws", draws, 10)):
        check_count(name, value, least)
    with generators.forked():
        generators.seed(seed)
        generator = torch.Generator().manual_seed(seed)
        supports, truths = prior_tasks.draw_with_latents(tasks, rows, generator)
        guides = meta.adapt_many(supports, steps=steps)
        drawn = [
            weighted_draws(guide.model, guide, args, {}, draws).values
            for guide, args in zip(guides, tasks_of(supports), strict=True)
        ]
        names = [name for name in truths if name in drawn[0]]
        if not names:
            raise ValueError(
                f"the guide draws none of the latent sites {', '.join(map(repr, truths))} of prior_tasks: give "
                "PriorTasks the model that meta adapts"
            )
        values = {name: torch.stack([of_task[name] for of_task in drawn]) for name in names}
        known = {name: truths[name].to(values[name].device) for name in names}
        ranks = {name: below(known[name].unsqueeze(1), values[name]) for name in names}
    return Simulated(known, values, ranks)


def below(truth: Tensor, draws: Tensor) -> Tensor:
    """How many of the draws, in dimension 1, are below the truth, equal ones by lot."""
    less, equal = (draws < truth).sum(1), (draws == truth).sum(1)
    return less + (torch.rand(less.shape, device=less.device) * (equal + 1)).long()


def _labels(name: str, shape: torch.Size) -> list[str]:
    places = torch.ones(shape).nonzero().tolist()
    return [f"{name}[{', '.join(map(str, place))}]" if place else name for place in places]
