"""The best of a guide's family for each of some tasks."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor
from torch.func import functional_call, vmap

from pyrometa import generators, nest
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.elbos import StickingTheLanding_ELBO, loss_of
from pyrometa.internals import make_fx
from pyrometa.noise.ahead import draw_noise
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.replay import RecordNoise, ReplayNoise
from pyrometa.noise.tapes import Tapes
from pyrometa.program import AdaptedGuide
from pyrometa.program.adapted import AdaptedModel
from pyrometa.program.traces import draws, latents, plate_nesting

__all__ = ["Fitted", "best_guides"]

_PARTICLES = 16
_JUDGED_BY = 256
"""Draws, the same before and after a round, by which it is judged."""

_ROUND = 50
_RATE, _SLOWER, _SLOWEST = 0.1, 4.0, 1e-3
"""Adam's rate at first, what it is divided by after a round that gains nothing, and where it ends."""

_GAIN = 1e-3
"""Nats that a round must gain."""

Args = tuple[Any, ...]


class Fitted(NamedTuple):
    """A task's best guide, and whether the search ended by itself."""

    guide: AdaptedGuide
    converged: bool


def best_guides(
    guides: Sequence[AdaptedGuide], args: Sequence[Args], kwargs: Mapping[str, Any], steps: int
) -> list[Fitted]:
    """Copies of adapted guides at the best adapted parameters for their tasks, with their models as they are.

    Adam goes in rounds of 50 steps, from where the guides are, on 16 draws a step. Where a round gains less than 0.001
    nats, or twice the standard error of its gain on 256 draws, the rate of 0.1 is divided by 4, and where it loses it
    is undone; below a rate of 0.001 the search is at its end.

    Args:
        guides: one a task.
        args: their data.
        kwargs: keyword arguments of all.
        steps: at most.
    """
    groups: dict[Hashable, list[int]] = {}
    for i, (guide, data) in enumerate(zip(guides, args, strict=True)):
        groups.setdefault(i if guide.keeps_support else _layout(data), []).append(i)
    found: dict[int, Fitted] = {}
    for positions in groups.values():
        search = _Search([guides[i] for i in positions], [args[i] for i in positions], kwargs)
        found.update(zip(positions, search.run(steps), strict=True))
    return [found[i] for i in range(len(guides))]


def _layout(args: Args) -> Hashable:
    return nest.layout(args, lambda x: (x.shape, x.dtype, x.device))


class _Search:
    """Tasks of one shape, side by side where the program allows it.

    Args:
        guides: one a task, all of one program.
        args: the tasks' data.
        kwargs: keyword arguments of all.
    """

    def __init__(self, guides: Sequence[AdaptedGuide], args: Sequence[Args], kwargs: Mapping[str, Any]) -> None:
        self._guides, self._args, self._kwargs = [copy.deepcopy(guide) for guide in guides], args, kwargs
        self._models: list[Any] = [guide.model for guide in guides]
        self._params = _stacked([dict(guide.named_parameters()) for guide in self._guides])
        self._fixed = _stacked([_own(model) for model in self._models])
        self._data = nest.joined(torch.stack, list(args))
        self._loss = loss_of(_elbo(self._models[0], self._guides[0], args[0], kwargs))
        self._tapes = Tapes()
        self._tape = self._tapes.recorded(None, self._recorded)
        self._side_by_side = self._agrees()
        self._gradient = self._fastest()

    def run(self, steps: int) -> list[Fitted]:
        """Search, at most so many steps."""
        tasks = len(self._guides)
        judges = self._noise(_JUDGED_BY)
        best, losses = self._params, self._losses(self._params, judges)
        rate = torch.full((tasks,), _RATE)
        for _ in range(steps // _ROUND):
            if (rate < _SLOWEST).all():
                break
            tried = self._round(best, rate)
            after = self._losses(tried, judges)
            gain, error = (losses - after).mean(1), (losses - after).std(1) / _JUDGED_BY**0.5
            better, surely = gain > 0, gain > (2 * error).clamp(min=_GAIN)
            best = {name: torch.where(_to(better, value), value, best[name]) for name, value in tried.items()}
            losses = torch.where(better[:, None], after, losses)
            rate = torch.where(surely, rate, rate / _SLOWER)
        return [self._fitted(i, best, bool(rate[i] < _SLOWEST)) for i in range(tasks)]

    def _fitted(self, task: int, params: Mapping[str, Tensor], converged: bool) -> Fitted:
        guide = self._guides[task]
        with torch.no_grad():
            for name, own in guide.named_parameters():
                own.copy_(params[name][task])
        return Fitted(guide, converged)

    def _round(self, params: Mapping[str, Tensor], rate: Tensor) -> dict[str, Tensor]:
        """Adam's steps from there, each task at its rate."""
        values = {name: value.clone() for name, value in params.items()}
        first = {name: torch.zeros_like(value) for name, value in params.items()}
        second = {name: torch.zeros_like(value) for name, value in params.items()}
        for step in range(1, _ROUND + 1):
            for name, grad in self._gradient(values, self._noise(_PARTICLES)).items():
                first[name].lerp_(grad, 0.1)
                second[name].lerp_(grad.square(), 0.01)
                mean, square = first[name] / (1 - 0.9**step), second[name] / (1 - 0.99**step)
                values[name] -= _to(rate, grad) * mean / (square.sqrt() + 1e-8)
        return values

    def _gradients(self, params: Mapping[str, Tensor], noise: Sequence[Tensor]) -> dict[str, Tensor]:
        """Of each task's mean loss."""
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        with torch.enable_grad():
            loss = self._losses(leaves, noise).mean(1).sum()
            asked = list(leaves.values()) if loss.requires_grad else []
            grads = torch.autograd.grad(loss, asked, allow_unused=True) if asked else [None] * len(leaves)
        if all(grad is None for grad in grads):
            raise ValueError("no parameter of the guide adapts, so there is no best of it: give adapt='guide'")
        return {name: grad for name, grad in zip(leaves, grads, strict=True) if grad is not None}

    def _fastest(self) -> Callable[..., dict[str, Tensor]]:
        """A recording of the gradients where tasks go side by side: what vmap can run branches on no value."""
        with generators.forked():
            noise = self._noise(_PARTICLES)
            if not self._side_by_side:
                return self._gradients
            return make_fx(lambda params, noise: self._gradients(params, noise))(self._params, noise)

    def _losses(self, params: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Tensor:
        """Minus the log weight of each draw of each task, shape ``(tasks, draws)``."""
        with pyro.validation_enabled(False), _registering_nothing():
            return (self._batched if self._side_by_side else self._looped)(params, noise)

    def _batched(self, params: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Tensor:
        def one(params: Any, fixed: Any, data: Any, noise: Any) -> Tensor:
            with BatchedNoise(noise).expecting(self._tapes.kinds):
                return self._of(0, params, fixed, data)

        draws = vmap(one, in_dims=(None, None, None, 0), randomness="different")
        given = (dict(params), self._fixed, nest.tensors(self._data), list(noise))
        held = [i for i, part in enumerate(given) if part]
        in_dims = tuple(0 if i in held else None for i in range(len(given)))
        losses: Tensor = vmap(draws, in_dims=in_dims, randomness="different")(*given)
        return losses

    def _looped(self, params: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Tensor:
        return torch.stack([torch.stack(list(self._one_by_one(i, params, noise))) for i in range(len(self._guides))])

    def _one_by_one(self, task: int, params: Mapping[str, Tensor], noise: Sequence[Tensor]) -> Any:
        mine, fixed = ({name: value[task] for name, value in of.items()} for of in (params, self._fixed))
        for draw in range(noise[0].shape[1]):
            with ReplayNoise([part[task, draw] for part in noise]).expecting(self._tapes.kinds):
                yield self._of(task, mine, fixed, nest.tensors(self._args[task]))

    def _of(
        self, task: int, params: Mapping[str, Tensor], fixed: Mapping[str, Tensor], data: Sequence[Tensor]
    ) -> Tensor:
        """The loss of a draw."""
        guide, model = self._guides[task], self._models[task]

        def guided(*args: Any, **kwargs: Any) -> Any:
            return functional_call(guide, dict(params), args, kwargs)

        def modelled(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, dict(fixed), args, kwargs) if fixed else model(*args, **kwargs)

        return self._loss(modelled, guided, *nest.replaced(self._args[task], iter(data)), **self._kwargs)

    def _recorded(self, mode: RecordNoise) -> object:
        with mode, _registering_nothing():
            first = {name: value[0] for name, value in self._params.items()}
            fixed = {name: value[0] for name, value in self._fixed.items()}
            return self._of(0, first, fixed, nest.tensors(self._args[0]))

    def _noise(self, count: int) -> list[Tensor]:
        """One tensor for each draw of noise that a run makes, of shape ``(tasks, count, *draw)``."""
        tasks = len(self._guides)
        (noise,) = draw_noise([self._tape], [range(tasks)], count)
        return list(noise.drawn) or [torch.zeros(tasks, count)]

    def _agrees(self) -> bool:
        """Whether the tasks are side by side what they are one by one."""
        with generators.forked(), torch.no_grad(), _registering_nothing():
            noise = self._noise(2)
            expected = self._looped(self._params, noise)
            try:
                with pyro.validation_enabled(False):
                    found = self._batched(self._params, noise)
            except Exception as error:  # a program is the user's own code, and vmap meets it with errors of any type
                check_interrupt(error)
                return False
        return torch.allclose(found, expected, rtol=1e-4, atol=1e-3)


def _elbo(model: Callable[..., Any], guide: Callable[..., Any], args: Args, kwargs: Mapping[str, Any]) -> ELBO:
    """The one whose gradient is best for the guide, a draw at a time."""
    with generators.forked(), torch.no_grad():
        guided = poutine.trace(guide).get_trace(*args, **kwargs)
        modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(*args, **kwargs)
        again = poutine.trace(poutine.replay(guide, trace=guided)).get_trace(*args, **kwargs)
        same = guided.log_prob_sum() == again.log_prob_sum()
    sites = {**draws(guided), **draws(modelled)}
    enumerates = any(name not in guided for name in latents(modelled))
    enumerates |= any(site["infer"].get("enumerate") for site in latents(guided).values())
    if enumerates:
        return TraceEnum_ELBO(max_plate_nesting=plate_nesting(sites.values()))
    lands = same and all(site["fn"].has_rsample for site in latents(guided).values())
    return StickingTheLanding_ELBO() if lands else Trace_ELBO()


@contextmanager
def _registering_nothing() -> Iterator[None]:
    """Without ``pyro.module``'s warning of values that require no gradient, as none does under vmap."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*was not registered in the param store", UserWarning)
        yield


def _own(model: Callable[..., Any]) -> dict[str, Tensor]:
    return dict(model.named_parameters()) if isinstance(model, AdaptedModel) else {}


def _stacked(each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([values[name].detach() for values in each]) for name in each[0]}


def _to(of_tasks: Tensor, value: Tensor) -> Tensor:
    """One number a task, to go with values of shape ``(tasks, ...)``."""
    return of_tasks.to(value.device).view(-1, *(1,) * (value.dim() - 1))
