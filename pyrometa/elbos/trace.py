"""Trace_ELBO: log probabilities of sampled values, with score-function terms where a draw has no gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.distributions.score_parts import ScoreParts
from pyro.distributions.util import is_identically_zero
from pyro.infer import Trace_ELBO
from pyro.infer.util import MultiFrameTensor, get_plate_stacks
from pyro.poutine import Trace
from torch import Tensor

from pyrometa.elbos.particles import average, log_prob, samples, score_parts, traces


def loss(
    elbo: Trace_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Tensor:
    """Value and first derivative of ``elbo.differentiable_loss``; all derivatives if the guide is reparameterised."""
    return average(elbo, (_particle(*pair) for pair in traces(elbo, model, guide, args, kwargs)))


def _particle(model: Trace, guide: Trace) -> Tensor:
    log_p = {site["name"]: log_prob(site) for site in samples(model)}
    log_q = {site["name"]: score_parts(site) for site in samples(guide)}
    pathwise: Any = 0.0
    for parts in log_q.values():
        if not is_identically_zero(parts.entropy_term):
            pathwise = pathwise + parts.entropy_term.sum()
    for term in log_p.values():
        pathwise = pathwise - term.sum()
    scored = {name: parts for name, parts in log_q.items() if not is_identically_zero(parts.score_function)}
    if not scored:
        return pathwise
    value: Any = sum(parts.log_prob.sum() for parts in log_q.values()) - sum(term.sum() for term in log_p.values())
    log_r = _log_ratio(model, log_p, log_q)
    surrogate = pathwise
    for name, parts in scored.items():
        surrogate = surrogate - (log_r.sum_to(guide.nodes[name]["cond_indep_stack"]) * parts.score_function).sum()
    return value.detach() + (surrogate - surrogate.detach())


def _log_ratio(model: Trace, log_p: Mapping[str, Tensor], log_q: Mapping[str, ScoreParts]) -> MultiFrameTensor:
    """The log ratios log p - log q, kept apart by plates: a draw's score is weighted by what shares its plates."""
    stacks = get_plate_stacks(model)
    log_r = MultiFrameTensor()
    for name, term in log_p.items():
        ratio = term if model.nodes[name]["is_observed"] else term - log_q[name].log_prob
        log_r.add((stacks[name], ratio.detach()))
    return log_r
