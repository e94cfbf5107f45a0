r"""Prove the second derivatives of a program on its first data.

A gradient that is right says nothing of its derivative: a custom ``torch.autograd.Function`` may be right once and
wrong twice, in silence. With :math:`g(\phi)` the gradient of the inner loss by what adapts, under one pinned noise,
and random directions :math:`u, v`,

.. math:: \langle \nabla \langle g, u \rangle, v \rangle
    = \Big\langle u, \frac{g(\phi + \epsilon v) - g(\phi - \epsilon v)}{2 \epsilon} \Big\rangle

by autograd on the left, by central differences on the right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyrometa import generators
from pyrometa.atomic.interrupts import check_interrupt
from pyrometa.atomic.untouched import left_alone
from pyrometa.errors import UnsupportedProgramError, first_line
from pyrometa.internals import tree_map
from pyrometa.program.autograd_graph import graph_nodes
from pyrometa.program.guards.draws import FIRST_ORDER, check_draws
from pyrometa.program.guards.site_parts import held_draws, site_parts
from pyrometa.program.program import Program
from pyrometa.rewrites.gates import gated
from pyrometa.rewrites.promoted import NotPromotableError, Promoted, promoted
from pyrometa.rewrites.twice import TwiceDifferentiable
from pyrometa.types import Data, Params

LossOfParams = Callable[[Mapping[str, Tensor]], Tensor]

_SEED = 20
_TRIES = 3
_NAMED = 3


@dataclass(frozen=True)
class _Precision:
    """How two derivatives are compared.

    Attributes:
        double: whether single precision is raised to double.
        steps: of the central difference, relative to each parameter's size; the first not drowned in noise counts.
        tolerance: relative to the size of the derivative.
    """

    double: bool
    steps: tuple[float, ...]
    tolerance: float

    def mode(self) -> AbstractContextManager[Any]:
        """The function mode that the program runs under."""
        return Promoted() if self.double else TwiceDifferentiable()


_FAILURES = (NotPromotableError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError)
_DOUBLE = _Precision(True, (1e-6, 1e-3), 1e-4)  # the second is for what is itself solved for, to a tolerance
_SINGLE = _Precision(False, (1e-3,), 0.1)


def check(
    program: Program, adapted: Sequence[str], data: Data, cure: str = FIRST_ORDER, by: Sequence[str] | None = None
) -> None:
    """Prove the second derivative of the inner loss, once for what adapts, what it is by and each mode.

    By autograd it is compared with central differences of the gradient, under one noise. That draws nothing from the
    global generators and leaves the program as it was. A gradient that is not smooth, or not the same twice, proves
    nothing and is let pass. Where draws are scored (DiCE), no difference under one noise shows what the loss
    estimates, so that the values and densities of all sites are compared in its place. A program with a
    straight-through draw, which is biased by design, is let pass.

    Args:
        program: the loss.
        adapted: names of the leaves that adapt, by which the gradient is.
        data: what one task adapts to.
        cure: what can be done about it.
        by: names of the leaves that the gradient's derivative is by; None for all that learn.

    Raises:
        UnsupportedProgramError: naming the site, the autograd function and the parameters concerned, and the cure.
    """
    check_draws(program, adapted, cure)
    if by is None:
        by = [leaf.name for leaf in program.leaves.values() if leaf.trainable]
    key = tuple(adapted), tuple(by), program.guarded.mode
    if key in program.guarded.proved:
        return
    if adapted and not program.guide_draws.straight_through:
        _prove(program, adapted, by, data, cure)
    program.guarded.proved.add(key)


def _prove(program: Program, adapted: Sequence[str], by: Sequence[str], data: Data, cure: str) -> None:
    with left_alone(program):
        for precision in (_DOUBLE, _SINGLE):
            try:
                _Proof(program, adapted, by, data, precision, cure).check()
            except UnsupportedProgramError:
                raise
            except _FAILURES as error:  # of the other precision; or for the run itself to report
                check_interrupt(error)
                continue
            return


class _NoSecondDerivativeError(Exception):
    """The backward pass can't be differentiated."""


class _NoDerivativeError(Exception):
    """The backward pass fails."""


class _Proof:
    """The comparison on one program in one precision."""

    def __init__(
        self, program: Program, adapted: Sequence[str], by: Sequence[str], data: Data, precision: _Precision, cure: str
    ) -> None:
        self._program, self._adapted, self._by, self._precision, self._cure = program, adapted, by, precision, cure
        raised: Callable[[Any], Any] = promoted if precision.double else torch.clone
        self._data = replace(data, args=_each(raised, data.args), kwargs=_each(raised, dict(data.kwargs)))
        self._start = {leaf.name: raised(leaf.tensor.detach()) for leaf in program.leaves.values()}

    def check(self) -> None:
        """Refuse a second derivative that is wrong or missing.

        Raises:
            UnsupportedProgramError: naming site, function and parameters.
        """
        with generators.forked(), torch.enable_grad(), self._precision.mode():
            try:
                wrong = self._is_wrong(self._objective, self._by)
            except _NoSecondDerivativeError as error:
                raise UnsupportedProgramError(
                    f"{self._culprit()} has no second derivative ({error}): {self._cure}"
                ) from error
            except _NoDerivativeError as error:
                raise UnsupportedProgramError(
                    f"{self._culprit()} can't be differentiated ({error}): use another distribution or function there"
                ) from error
            if wrong:
                leaves = [n for n in self._by if self._is_wrong(self._objective, [n])] or self._by
                raise UnsupportedProgramError(
                    f"{self._culprit()} has a wrong second derivative, by {_listed(leaves)}: autograd and central "
                    "differences of the gradient are not the same (a custom backward, or a draw that is biased by "
                    f"design, as straight-through ones are): {self._cure}"
                )

    def _is_wrong(self, loss: LossOfParams, moved: Sequence[str]) -> bool:
        return all(self._differs(loss, moved, attempt) for attempt in range(_TRIES))

    def _differs(self, loss: LossOfParams, moved: Sequence[str], attempt: int) -> bool:
        """Whether the two differ along random directions, by more than rounding and kinks explain.

        The gradient, weighed by random numbers, is a scalar; its derivative along ``way`` is compared. Where second
        differences (``bends``) are about as large as what it is off by, the loss has a kink there or curves too much to
        tell, so that another step size is tried; where none tells, nothing is held against the program.
        """
        generators.seed(_SEED + attempt)
        way = {name: torch.randn_like(self._start[name]) * _size(self._start[name]) for name in moved}
        here = self._at({}, 0.0)
        gradient = self._gradient(loss, here, create_graph=True)
        weights = [torch.randn_like(g) * _size(self._start[n]) for n, g in zip(self._adapted, gradient, strict=True)]
        rows = _derivative(gradient, weights, [here[name] for name in moved])
        by_autograd = [row * way[name] for row, name in zip(rows, moved, strict=True)]
        weighed = [w * g.detach() for w, g in zip(weights, gradient, strict=True)]
        for step in self._precision.steps:
            ahead, behind = (
                [w * g for w, g in zip(weights, self._gradient(loss, self._at(way, sign * step)), strict=True)]
                for sign in (1, -1)
            )
            differences = [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]
            bends = [(a + b - 2 * g) / step for a, b, g in zip(ahead, behind, weighed, strict=True)]
            off = (_sum(by_autograd) - _sum(differences)).abs()
            rounding = torch.finfo(off.dtype).eps / step * _norm(weighed)
            tolerance = self._precision.tolerance * max(_norm(by_autograd), _norm(differences)) + 100 * rounding
            if off <= tolerance:
                return False
            if off > tolerance + 5 * _norm(bends):
                return True
        return False

    def _at(self, way: Params, step: float) -> Params:
        values = {n: value + step * way[n] if n in way else value for n, value in self._start.items()}
        return {name: value.detach().requires_grad_() for name, value in values.items()}

    def _gradient(self, loss: LossOfParams, values: Params, *, create_graph: bool = False) -> list[Tensor]:
        generators.seed(_SEED)
        with gated() as gate:
            value = loss(values)
        try:
            found = _grad(value, [values[name] for name in self._adapted], create_graph=create_graph)
            gate.open()
            return found
        except RuntimeError as error:
            if self._precision.double:  # it may be the precision's fault
                raise
            raise _NoDerivativeError(first_line(error)) from error

    def _objective(self, values: Mapping[str, Tensor]) -> Tensor:
        if self._program.guide_draws.sampled:
            return _sum([_weighed(part) for part in self._sites(values).values()])
        return self._program.loss(values, self._data)

    def _culprit(self) -> str:
        """The first site whose value or density fails by itself, and the custom autograd functions in its graph."""
        here = self._at({}, 0.0)
        failing = (site for site in self._sites(here) if self._fails(self._part(site)))
        site = next(failing, None)
        generators.seed(_SEED)
        custom = _functions(self._objective(here) if site is None else self._sites(here)[site])
        if site is None:
            return f"autograd function {custom}" if custom else "the inner loss"
        return f"{site}{f', through {custom},' if custom else ''}"

    def _fails(self, loss: LossOfParams) -> bool:
        try:
            return self._is_wrong(loss, self._by)
        except (_NoDerivativeError, _NoSecondDerivativeError):
            return True

    def _part(self, site: str) -> LossOfParams:
        """One site's value or density as a scalar function of the parameters."""

        def part(values: Mapping[str, Tensor]) -> Tensor:
            return _weighed(self._sites(values)[site])

        return part

    def _sites(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        held = self._held
        generators.seed(_SEED)
        return site_parts(self._program, values, self._data, held)

    @cached_property
    def _held(self) -> Trace:
        """Draws whose values no gradient passes, so that none may move with the parameters either."""
        generators.seed(_SEED)
        return held_draws(self._program, self._at({}, 0.0), self._data, self._program.guide_draws.score_function)


def _functions(output: Tensor) -> str:
    """Names of the ``torch.autograd.Function`` classes in a graph."""
    nodes = graph_nodes([output.grad_fn])
    named = (getattr(type(node), "_forward_cls", None) for node in nodes)
    return ", ".join(dict.fromkeys(cls.__name__ for cls in named if cls is not None))


def _grad(output: Tensor, inputs: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    if not output.requires_grad:
        return [torch.zeros_like(x) for x in inputs]
    found = torch.autograd.grad(output, inputs, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]


def _derivative(gradient: Sequence[Tensor], weights: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    try:
        return _grad(_sum([w * g for w, g in zip(weights, gradient, strict=True)]), inputs)
    except NotPromotableError:
        raise
    except RuntimeError as error:
        raise _NoSecondDerivativeError(first_line(error)) from error


def _each(change: Callable[[Any], Any], nest: Any) -> Any:
    return tree_map(lambda value: change(value) if isinstance(value, Tensor) else value, nest)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, names[:_NAMED])) + more


def _weighed(value: Tensor) -> Tensor:
    """A scalar that depends on all elements, each in its own way."""
    weights = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device)
    return (value * weights.view(value.shape)).sum()


def _size(value: Tensor) -> Tensor:
    return value.square().mean().sqrt().clamp(min=0.01)


def _norm(values: Sequence[Tensor]) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in values]).norm()


def _sum(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.sum() for value in values]).sum()
