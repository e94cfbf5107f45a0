"""Draws of a guide's latent sites, all of a draw under one importance weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.func import vmap

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.diagnostics.unconstrained import is_discrete
from pyrometa.elbos import loss_of
from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.replay import ReplayNoise
from pyrometa.noise.tapes import Tapes
from pyrometa.program.guards.sites import check_sites
from pyrometa.program.traces import draws, is_auxiliary, latents, plate_nesting

__all__ = ["WeightedDraws", "weighted_draws"]

_CHUNK = 500
"""Draws that run at once."""

_TRIED = 3
"""Draws that are compared with those of the program run for each alone."""

_Drawn = tuple[dict[str, Tensor], Tensor, Tensor]


class WeightedDraws(NamedTuple):
    """What a guide drew.

    Attributes:
        values: of each latent site, shape ``(draws, *site)``.
        log_weights: ``log p(data, values) - log q(values)``, shape ``(draws,)``, in double precision.
        rounding: how far rounding alone may move a log weight.
        discrete: the sites whose values are choices or counts.
    """

    values: dict[str, Tensor]
    log_weights: Tensor
    rounding: float
    discrete: frozenset[str]


@torch.no_grad()
def weighted_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    count: int,
) -> WeightedDraws:
    """Draw from a guide, side by side where that is possible and gives what it gives one by one, which is tried.

    Discrete sites of the model that the guide leaves to enumeration are summed out, draw by draw.

    Raises:
        ValueError: ``count`` below 2, a latent site that the guide does not draw, one that only the guide has, one that
            is scaled, a continuous one that has the same value in each draw, or a weight that is not a number.
    """
    check_count("draws", count, 2)
    with store_left_as_it_is():
        pair = _Pair(model, guide, args, kwargs)
        parts = list(pair.parts(count))
    values = {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values}
    log_weights = torch.cat([part.log_weights for part in parts])
    _check({name: value for name, value in values.items() if name not in pair.discrete}, log_weights)
    return WeightedDraws(values, log_weights, max(part.rounding for part in parts), pair.discrete)


def _check(continuous: Mapping[str, Tensor], log_weights: Tensor) -> None:
    for name, value in continuous.items():
        if (value == value[0]).all():
            raise ValueError(
                f"the guide gives {name!r} the same value in each draw, and a point has no importance weight: "
                "give a guide with a spread, such as AutoNormal"
            )
    if (bad := int((log_weights.isnan() | (log_weights == torch.inf)).sum())) or (log_weights == -torch.inf).all():
        raise ValueError(
            f"log p(data, values) - log q(values) is no finite number in {bad or len(log_weights)} of "
            f"{len(log_weights)} draws: look for NaN in the data, and for a guide that leaves the model's support"
        )


class _Pair:
    """A model and its guide on some data.

    Args:
        model: a Pyro model.
        guide: a Pyro guide.
        args: what both take.
        kwargs: what both take.
    """

    def __init__(
        self, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._model, self._guide, self._args, self._kwargs = model, guide, args, kwargs
        with generators.forked():
            guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        check_sites(guide_trace, model_trace, {})
        sites = {**draws(guide_trace), **draws(model_trace)}
        _check_scales(sites)
        of_model = model_trace.nodes
        self.discrete = frozenset(
            name for name, site in latents(guide_trace).items() if is_discrete(of_model.get(name, site))
        )
        self._names = [name for name, site in latents(guide_trace).items() if not is_auxiliary(site)]
        self._loss = loss_of(_elbo(sites, enumerates=any(name not in guide_trace for name in latents(model_trace))))
        self._tapes = Tapes()

    def parts(self, count: int) -> Iterator[WeightedDraws]:
        """The draws, some at a time."""
        draw = self._side_by_side
        for start in range(0, count, _CHUNK):
            noise = self._noise(min(_CHUNK, count - start))
            if start == 0 and not self._agree([drawn[:_TRIED] for drawn in noise]):
                draw = self._one_by_one
            values, log_weights, log_q = draw(noise)
            kept = {name: values[name] for name in self._names}
            yield WeightedDraws(kept, log_weights.double(), _rounding(log_weights, log_q), self.discrete)

    def _noise(self, count: int) -> list[Tensor]:
        """One tensor for each draw of noise that a run makes, of shape ``(count, *draw)``."""
        tape = self._tapes.recorded(None, self._drawn)
        (noise,) = draw_noise([tape], [range(count)], 1)[0]
        return list(noise) or [torch.zeros(count)]

    def _agree(self, noise: Sequence[Tensor]) -> bool:
        """Whether draws are side by side what they are one by one."""
        try:
            _, found, _ = self._side_by_side(noise)
        except Exception as error:  # a program is the user's own code, and vmap meets it with errors of any type
            check_interrupt(error)
            return False
        _, expected, log_q = self._one_by_one(noise)
        return torch.allclose(found, expected, rtol=0.0, atol=64 * _rounding(expected, log_q))

    def _side_by_side(self, noise: Sequence[Tensor]) -> _Drawn:
        def one(noise: Sequence[Tensor]) -> _Drawn:
            return self._drawn(BatchedNoise(noise).expecting(self._tapes.kinds))

        drawn: _Drawn = vmap(one, randomness="different")(list(noise))
        return drawn

    def _one_by_one(self, noise: Sequence[Tensor]) -> _Drawn:
        modes = [ReplayNoise(draw).expecting(self._tapes.kinds) for draw in zip(*noise, strict=True)]
        each, *parts = zip(*map(self._drawn, modes), strict=True)
        values = {name: torch.stack([one[name] for one in each]) for name in each[0]}
        log_weights, log_q = map(torch.stack, parts)
        return values, log_weights, log_q

    def _drawn(self, mode: AbstractContextManager[Any]) -> _Drawn:
        """A draw: the guide's latent sites, the log weight, and the log density under the guide."""
        sampled = poutine.infer_config(self._guide, lambda site: {"enumerate": None})  # type: ignore[typeddict-item]
        guide = poutine.trace(sampled)
        with pyro.validation_enabled(False), mode:
            loss = self._loss(self._model, guide, *self._args, **self._kwargs)
            log_q = guide.trace.log_prob_sum()
        values = {name: site["value"] for name, site in latents(guide.trace).items()}
        return values, -loss, torch.as_tensor(log_q)


def _elbo(sites: Mapping[str, Any], *, enumerates: bool) -> ELBO:
    """One whose loss of a single draw is minus its log weight."""
    return (TraceEnum_ELBO if enumerates else Trace_ELBO)(max_plate_nesting=plate_nesting(sites.values()))


def _check_scales(sites: Mapping[str, Any]) -> None:
    for name, site in sites.items():
        if not (torch.as_tensor(site["scale"]) == 1).all():
            raise ValueError(
                f"site {name!r} is scaled (by a plate that subsamples, or poutine.scale), so its weight is not that "
                "of a posterior: give all rows, and no scale"
            )


def _rounding(log_weights: Tensor, log_q: Tensor) -> float:
    """What the logarithms of density, ``log q + log w`` and ``log q``, may be off by."""
    sizes = torch.stack([(log_q + log_weights).abs(), log_q.abs()])
    return sizes[sizes.isfinite()].max().item() * torch.finfo(sizes.dtype).eps
