"""A row for each algorithm: how it is built on a program, and what its meta-gradient is by definition."""

from collections.abc import Callable
from dataclasses import dataclass

import learn2learn as l2l
import pyro
from torch import nn

import pyrometa as pm

LR, STEPS = 0.02, 3


@dataclass(frozen=True)
class Row:
    """An algorithm.

    Attributes:
        make: of ``(model, guide, optim, steps=..., **options)`` to a MetaSVI.
        live: how many last steps its meta-gradient is differentiated through; None for all, 0 with the displacement.
        weights: of the query loss after each step; None for the last alone.
        displaced: whether what adapts learns by its displacement.
        steps: inner steps.
    """

    make: Callable[..., pm.MetaSVI]
    live: int | None = None
    weights: tuple[float, ...] | None = None
    displaced: bool = False
    steps: int = STEPS

    @property
    def exact(self):
        """Whether the meta-gradient is the derivative of the loss that is reported."""
        return self.live is None and self.weights is None

    def build(self, case, **options):
        options = {"steps": self.steps, "optim": pyro.optim.Adam({"lr": 1e-2}), **options}
        return self.make(case.model, case.guide, options.pop("optim"), **options)


def wrapped(wrap):
    """A learn2learn wrapper in the guide's place."""
    return lambda model, guide, optim, **options: pm.MetaSVI(model, wrap(guide), optim, **options)


def curvature(param):
    """learn2learn's transform, which can't do scalars."""
    return l2l.optim.MetaCurvatureTransform(param).to(param) if param.dim() else None


def linear(into, out):
    """A transform that starts as the identity."""
    module = nn.Linear(into, out, bias=False).double()
    nn.init.eye_(module.weight)
    return module


def with_lr(constructor, **given):
    return lambda *args, **options: constructor(*args, lr=LR, **given, **options)


def with_rule(rule, **given):
    return lambda *args, **options: pm.MetaSVI(*args, inner=rule, **given, **options)


def converged(iterations, **given):
    """iMAML so strongly pulled that it arrives, where its gradient is that of the loss."""
    return lambda *args, **options: pm.imaml(*args, lr=0.015, strength=60.0, iterations=iterations, **given, **options)


ROWS = {
    "maml": Row(with_lr(pm.maml)),
    "fomaml": Row(with_lr(pm.fomaml), live=0),
    "truncated": Row(
        lambda *args, **options: pm.MetaSVI(
            *args, inner=pm.Momentum(LR), meta_gradient=pm.Unrolled(truncate=2), **options
        ),
        live=2,
    ),
    "reptile": Row(pm.reptile, live=0, displaced=True),
    "meta_sgd": Row(with_lr(pm.meta_sgd)),
    "lslr": Row(with_lr(pm.lslr)),
    "lslr multi-step": Row(with_lr(pm.lslr, step_weights=(0.2, 0.3, 0.5)), weights=(0.2, 0.3, 0.5)),
    "anil": Row(with_lr(pm.anil, adapt="guide.loc.*")),
    "imaml": Row(converged(14), steps=14),
    "imaml neumann": Row(converged(20, solver="neumann"), steps=14),
    "newton": Row(with_rule(pm.Newton(0.05))),
    "newton learned": Row(with_rule(pm.Newton(0.05, learn="step"))),
    "newton first order": Row(with_rule(pm.Newton(0.05), meta_gradient=pm.Unrolled(first_order=True)), live=0),
    "natural gradient": Row(with_rule(pm.NaturalGradient(0.5, learn="layer", others=pm.SGD(LR, learn="layer_step")))),
    "meta_curvature": Row(with_lr(pm.meta_curvature)),
    "kronecker": Row(with_lr(pm.meta_curvature, transform="kronecker")),
    "learned_optimizer": Row(with_lr(pm.learned_optimizer, hidden=3)),
    "learned_optimizer truncated": Row(with_lr(pm.learned_optimizer, hidden=3, truncate=1), live=1),
    "l2l MAML": Row(wrapped(lambda guide: l2l.algorithms.MAML(guide, lr=LR))),
    "l2l MetaSGD": Row(wrapped(lambda guide: l2l.algorithms.MetaSGD(guide, lr=LR))),
    "l2l GBML": Row(wrapped(lambda guide: l2l.algorithms.GBML(guide, curvature, lr=LR, first_order=True)), live=0),
    "l2l LearnableOptimizer": Row(
        wrapped(lambda guide: l2l.optim.LearnableOptimizer(guide, l2l.optim.ModuleTransform(linear), lr=LR))
    ),
}
