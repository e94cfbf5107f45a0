"""One task of a gap report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.best_guides import Fitted
from pyrometa.diagnostics.evidence import Evidence, Source, evidence_of
from pyrometa.diagnostics.held_out import check_parted, without_shared
from pyrometa.diagnostics.importance import PSIS, judged
from pyrometa.diagnostics.latent_use import divergences, posterior_means, rows_of
from pyrometa.diagnostics.weighted_draws import WeightedDraws, weighted_draws
from pyrometa.program import AdaptedGuide

__all__ = ["Bounds", "TaskGaps", "Use"]

Args = tuple[Any, ...]


class Bounds(NamedTuple):
    """What a task's guides are worth on its support set.

    Attributes:
        elbo: after each step, shape ``(K + 1,)``.
        error: its standard error, likewise.
        optimal: ELBO of the best guide.
        evidence: of the support set.
        posterior: what weights say of the last guide, with its draws.
    """

    elbo: Tensor
    error: Tensor
    optimal: float
    evidence: Evidence
    posterior: PSIS


class Use(NamedTuple):
    """What the last guide makes of each latent site.

    Attributes:
        kl: divergences from the prior by element, shape ``(*unit,)``.
        means: posterior means, shape ``(rows, *unit)``.
    """

    kl: dict[str, Tensor]
    means: dict[str, Tensor]


class TaskGaps:
    """A task, its guides along the inner steps, and one noise for all of them.

    Args:
        guides: after ``0..K`` steps.
        args: the support set.
        kwargs: keyword arguments.
        draws: of each guide.
        seed: of its draws.
    """

    def __init__(
        self, guides: Sequence[AdaptedGuide], args: Args, kwargs: Mapping[str, Any], draws: int, seed: int
    ) -> None:
        self._guides, self._args, self._kwargs = guides, args, kwargs
        self._draws, self._seed = draws, seed
        self._model = guides[-1].model

    def bounds(self, best: Fitted, source: Source) -> Bounds:
        """On the support set, by the model of the last step throughout."""
        drawn = [self._drawn(self._model, guide, self._args) for guide in self._guides]
        of_best = self._drawn(self._model, best.guide, self._args)
        elbo, error = _means(drawn)
        evidence = evidence_of(self._model, self._args, self._kwargs, of_best, source)
        return Bounds(elbo, error, of_best.log_weights.mean().item(), evidence, judged(drawn[-1]))

    def on(self, query: Args) -> Tensor:
        """What the guide after each step is worth for other data, shape ``(K + 1,)``."""
        rows = rows_of(self._model, query, self._kwargs)
        check_parted(self._guides[-1], query, self._kwargs, rows)
        pairs = [without_shared(guide.model, guide, rows) for guide in self._guides]
        return _means([self._drawn(model, guide, query) for model, guide in pairs])[0]

    def use(self, values: Mapping[str, Tensor]) -> Use:
        """Of each latent site, by the last guide, of which there are draws."""
        rows = rows_of(self._model, self._args, self._kwargs)
        kl, events = divergences(self._model, self._guides[-1], self._args, self._kwargs, rows)
        return Use(kl, posterior_means(values, rows, events))

    def _drawn(self, model: Callable[..., Any], guide: Callable[..., Any], args: Args) -> WeightedDraws:
        generators.seed(self._seed)
        return weighted_draws(model, guide, args, self._kwargs, self._draws)


def _means(drawn: Sequence[WeightedDraws]) -> tuple[Tensor, Tensor]:
    weights = torch.stack([of_step.log_weights.cpu() for of_step in drawn])
    return weights.mean(1), weights.std(1) / weights.shape[1] ** 0.5
