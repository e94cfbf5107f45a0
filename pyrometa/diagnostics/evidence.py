"""The log evidence of a task, by the best means that there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from pyrometa.diagnostics.annealed import ais_log_evidence
from pyrometa.diagnostics.pareto import pareto_smoothed
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.diagnostics.unconstrained import LogJoint
from pyrometa.diagnostics.weighted_draws import WeightedDraws

__all__ = ["Evidence", "Source", "evidence_of"]

_FINITE_VARIANCE = 0.5
"""Weights of a larger k-hat have no variance, and so no standard error."""

Source = Callable[..., Any] | str | None
"""A function of a task's data to ``log p(x)``, "importance" or "annealed", or None for the best there is."""


class Evidence(NamedTuple):
    """The log evidence of a task.

    Attributes:
        log_evidence: in nats.
        standard_error: of it; 0 where it is exact.
        by: "given", "exact", "importance" or "annealed".
        k_hat: of the importance weights, be they used or not.
        reliable: whether to go by it.
    """

    log_evidence: float
    standard_error: float
    by: str
    k_hat: float
    reliable: bool


def check_source(source: Source) -> None:
    """Refuse what is no source of the evidence.

    Raises:
        ValueError: with what there is.
    """
    if source is not None and not callable(source) and source not in ("importance", "annealed"):
        raise ValueError(
            f"evidence must be a function of a task's data, 'importance', 'annealed' or None, got {source!r}"
        )


def evidence_of(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], drawn: WeightedDraws, source: Source
) -> Evidence:
    """The evidence as it is given or asked for; else exact, else by importance, else annealed.

    Args:
        model: the task's model.
        args: its data.
        kwargs: keyword arguments.
        drawn: weighted draws of the best guide.
        source: how.
    """
    by_weights = _by_importance(drawn)
    if callable(source):
        return Evidence(float(source(*args, **kwargs)), 0.0, "given", by_weights.k_hat, reliable=True)
    exact = None if source else _exact(model, args, kwargs)
    if exact is not None:
        return Evidence(exact, 0.0, "exact", by_weights.k_hat, reliable=True)
    if source == "importance" or (source is None and by_weights.reliable):
        return by_weights
    return _annealed(model, args, kwargs, by_weights, asked=source is not None)


def _by_importance(drawn: WeightedDraws) -> Evidence:
    """By Pareto smoothed weights, whose sum is read off one that is not in the tail."""
    raw = drawn.log_weights.cpu()
    smoothed, k_hat = pareto_smoothed(raw)
    below = raw.argsort()[len(raw) * 3 // 4]
    if not raw[below].isfinite():
        smoothed, below = raw - raw.logsumexp(0), raw.argmax()
    log_evidence = (raw[below] - smoothed[below]).item() - math.log(len(raw))
    relative = smoothed.exp() * len(raw)
    error = relative.std().item() / math.sqrt(len(raw))
    return Evidence(log_evidence, error, "importance", k_hat, k_hat <= _FINITE_VARIANCE)


def _exact(model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float | None:
    """By summing over all latent sites; None where one has no list of values."""
    with store_left_as_it_is(), torch.no_grad():
        try:
            joint = LogJoint(model, args, kwargs)
        except ValueError:
            return None
        return None if joint.size else joint.log_evidence().item()


def _annealed(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], otherwise: Evidence, *, asked: bool
) -> Evidence:
    try:
        found = ais_log_evidence(model, *args, kwargs=kwargs)
    except ValueError:
        if asked:
            raise
        return otherwise
    return Evidence(found.log_evidence, found.standard_error, "annealed", otherwise.k_hat, found.standard_error < 1)
