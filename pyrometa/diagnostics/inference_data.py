"""A posterior as ArviZ takes it: for its tables, its figures, and to compare with other libraries."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.guided_model import model_of
from pyrometa.diagnostics.pareto import pareto_smoothed
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.diagnostics.weighted_draws import weighted_draws
from pyrometa.program.traces import draws as draws_of
from pyrometa.program.traces import is_data

__all__ = ["to_arviz"]

Sites = dict[str, Any]


def to_arviz(
    guide: Any,
    *args: Any,
    draws: int = 1000,
    model: Callable[..., Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """An adapted guide's posterior and what it predicts, as ArviZ's object for both.

    One chain of independent draws, in these groups:

    ======================  ===========================================================================================
    group                   holds
    ======================  ===========================================================================================
    posterior               the guide's draws of each latent site
    posterior_predictive    data drawn from the model at them
    log_likelihood          of the observed data, for each element that is observed by itself
    sample_stats            ``lp``, the log joint density of data and draw, and ``log_weight``, that minus the guide's
    prior                   draws of the latent sites from the model
    prior_predictive        data drawn at them
    observed_data           the data
    ======================  ===========================================================================================

    Dimensions are named after the plates that a site is in, event dimensions ``SITE_dim_0``, ...; attributes tell the
    version and ``k_hat``, see :func:`~pyrometa.diagnostics.psis`. Latent sites that the guide leaves to enumeration are
    drawn in the predictive groups alone.

    Args:
        guide: an adapted guide, or any Pyro guide with ``model=``.
        args: the data, as model and guide take them. The model must observe them by ``obs=``.
        draws: how many.
        model: the guide's model; ``guide.model`` by default.
        kwargs: keyword arguments of both.

    Returns:
        an ``InferenceData`` of ArviZ before 1.0 (all that Python 3.10 and 3.11 get), a ``DataTree`` from then on.

    Raises:
        ImportError: ArviZ is not installed: ``pip install 'pyrometa[diagnostics]'``.
        TypeError, ValueError: as for :func:`~pyrometa.diagnostics.psis`.

    References:
        Kumar, Carroll, Hartikainen, Martin (2019), ArviZ a unified library for exploratory analysis of Bayesian models
        in Python, https://doi.org/10.21105/joss.01143.
    """
    arviz = _arviz()
    model = model_of(guide, model, "to_arviz")
    given = dict(kwargs or {})
    drawn = weighted_draws(model, guide, args, given, draws)
    posterior = [{name: value[i] for name, value in drawn.values.items()} for i in range(draws)]
    free = poutine.uncondition(model)
    with store_left_as_it_is(), torch.no_grad():
        with generators.forked():
            plain = _sites(model, args, given)
        scored = [_scored(poutine.condition(model, values), args, given) for values in posterior]
        predicted = [_sites(poutine.condition(free, values), args, given) for values in posterior]
        prior = [_sites(free, args, given) for _ in posterior]
    observed = [name for name, site in plain.items() if is_data(site)]
    hidden = [name for name, site in plain.items() if not site["is_observed"]]
    stats = {"log_weight": drawn.log_weights.unsqueeze(0)}
    groups = {
        "posterior": {name: value.unsqueeze(0) for name, value in drawn.values.items()},
        "posterior_predictive": _chain(predicted, observed, "value"),
        "sample_stats": stats,
        "prior": _chain(prior, hidden, "value"),
        "prior_predictive": _chain(prior, observed, "value"),
        "observed_data": {name: plain[name]["value"] for name in observed},
    }
    if drawn.values.keys() >= set(hidden):
        groups["log_likelihood"] = _chain(scored, observed, "log_prob")
        joint = [torch.stack([site["log_prob_sum"] for site in sites.values()]).sum() for sites in scored]
        stats["lp"] = torch.stack(joint).unsqueeze(0)
    arrays = {group: {name: value.cpu().numpy() for name, value in of.items()} for group, of in groups.items()}
    attributes = {
        "inference_library": "pyrometa",
        "inference_library_version": version("pyrometa"),
        "k_hat": pareto_smoothed(drawn.log_weights)[1],
    }
    return _made(arviz, arrays, _dims(plain, drawn.values), attributes)


def _sites(program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sites:
    return dict(draws_of(poutine.trace(program).get_trace(*args, **kwargs)))


def _scored(program: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sites:
    """The same with log densities."""
    trace = poutine.trace(program).get_trace(*args, **kwargs)
    trace.compute_log_prob()
    return dict(draws_of(trace))


def _chain(each: Sequence[Sites], names: Sequence[str], what: str) -> dict[str, Tensor]:
    """A quantity of some sites in each draw, shape ``(1, draws, *site)``."""
    return {name: torch.stack([sites[name][what] for sites in each]).unsqueeze(0) for name in names}


def _dims(sites: Sites, values: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of each site's dimensions: its plates', and its own."""
    named = {}
    for name, site in sites.items():
        shape, batch = values[name].shape[1:] if name in values else site["value"].shape, len(site["fn"].batch_shape)
        dims = [f"{name}_dim_{i}" for i in range(len(shape))]
        for frame in site["cond_indep_stack"]:
            if frame.vectorized and batch + frame.dim >= 0:
                dims[batch + frame.dim] = frame.name
        named[name] = dims
    return named


def _made(arviz: ModuleType, groups: Mapping[str, Any], dims: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.from_dict(**groups, dims=dims, attrs=attributes)
    found = arviz.from_dict(groups, dims=dims)
    found.attrs.update(attributes)
    return found


def _arviz() -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of 0.23, of its own successor, each time it is imported
            return import_module("arviz")
    except ImportError as error:
        raise ImportError("to_arviz needs ArviZ: pip install 'pyrometa[diagnostics]'") from error
