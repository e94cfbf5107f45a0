"""Plain Pyro SVI of many tasks side by side, in one plate.

Adam moves every parameter by its own gradient alone, so each task goes as it would by itself. This needs a model that
broadcasts, as Pyro's vectorised particles do.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.elbo import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

Row = tuple[Tensor, ...]
Values = Mapping[str, Tensor]


@dataclass(frozen=True)
class Problem:
    """A Pyro program and the tasks to fit.

    ``guide`` makes a guide of a model; ``draws`` of the latents, over all tasks, are behind each mean loss.
    """

    model: Callable[..., Any]
    guide: Callable[[Callable[..., Any]], nn.Module]
    elbo: ELBO
    tasks: Sequence[Row]
    draws: int


class MaskObserved(Messenger):
    """Mask observed sites, so that rows which only fill up a task do not count."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["is_observed"]:
            msg["mask"] = self.mask


def side_by_side(problem: Problem) -> tuple[Callable[[], None], Tensor]:
    """The model of all tasks at once, and the number of rows of each task."""
    counts = torch.tensor([len(task[0]) for task in problem.tasks])
    index = torch.arange(int(counts.max()))
    columns = [
        torch.stack([x[index.clamp(max=len(x) - 1)] for x in column]) for column in zip(*problem.tasks, strict=True)
    ]
    ragged = len(set(counts.tolist())) > 1

    def model() -> None:
        with pyro.plate("tasks", len(counts), dim=-2):
            if ragged:
                with MaskObserved(index < counts[:, None]):
                    problem.model(*columns)
            else:
                problem.model(*columns)

    return model, counts


def svi(problem: Problem, start: Values | None, optim: pyro.optim.PyroOptim, at: Sequence[int]) -> list[float]:
    """Fit every task by plain SVI, from a guide's parameters or from the guide's own start."""
    with pyro.get_param_store().scope():
        model, counts = side_by_side(problem)
        guide = problem.guide(model)
        guide()
        if start is not None:
            set_values(guide, start)
        inference = SVI(model, guide, optim, problem.elbo)
        score = copy(problem.elbo)
        score.num_particles = math.ceil(problem.draws / len(counts))
        losses = []
        for step in range(max(at) + 1):
            if step in at:
                losses.append(mean_loss(score, model, guide, counts))
            inference.step()
    return losses


@torch.no_grad()
def mean_loss(elbo: ELBO, model: Callable[[], None], guide: nn.Module, counts: Tensor) -> float:
    """Mean over tasks of the loss a datum, with the same noise every time."""
    equal = bool((counts == counts[0]).all())
    scale = 1 / counts[0].item() if equal else 1 / counts[:, None]
    with torch.random.fork_rng(), poutine.scale(scale=scale):
        torch.manual_seed(0)
        return elbo.loss(model, guide) / len(counts)


def values(guide: nn.Module) -> dict[str, Tensor]:
    """A copy of a guide's parameters, unconstrained."""
    return {name: parameter.detach().clone() for name, parameter in guide.named_parameters()}


@torch.no_grad()
def set_values(guide: nn.Module, start: Values) -> None:
    """Put a guide's parameters back to a copy; a copy of one task's guide also starts all tasks."""
    for name, parameter in guide.named_parameters():
        parameter.copy_(start[name])
