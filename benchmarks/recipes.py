"""The named algorithms as the benchmarks run them on one program."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyro

import pyrometa as pm

Build = Callable[["Setting", int], pm.MetaSVI]


@dataclass(frozen=True)
class Setting:
    """A program, and what all algorithms share on it.

    Attributes:
        model: the Pyro model.
        guide: the Pyro guide.
        loss: the ELBO.
        adapt: what adapts.
        head: what adapts under ANIL.
        lr: the inner rate, fixed or where a learned one starts.
        outer_lr: Adam's rate for the network.
        rule_lr: Adam's rate for what an inner rule learns.
        options: other options of ``MetaSVI``.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    loss: Any
    adapt: str
    head: str
    lr: float
    outer_lr: float = 1e-3
    rule_lr: float = 1e-2
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, make: Callable[..., pm.MetaSVI], steps: int, **options: Any) -> pm.MetaSVI:
        """What a named constructor makes of the program."""
        given = {"adapt": self.adapt, **self.options, **options}
        return make(self.model, self.guide, self.optim(), self.loss, steps, **given)

    def optim(self) -> pyro.optim.PyroOptim:
        """Adam, for the outer loop."""
        return pyro.optim.Adam({"lr": self.outer_lr})


ALGORITHMS: dict[str, Build] = {
    "MAML": lambda s, steps: s.build(pm.maml, steps, lr=s.lr),
    "FOMAML": lambda s, steps: s.build(pm.fomaml, steps, lr=s.lr),
    "Reptile": lambda s, steps: s.build(pm.reptile, steps, inner=pm.SGD(s.lr)),
    "Meta-SGD": lambda s, steps: s.build(pm.meta_sgd, steps, lr=s.lr, outer_lr=s.rule_lr),
    "LSLR": lambda s, steps: s.build(pm.lslr, steps, lr=s.lr, outer_lr=s.rule_lr),
    "ANIL": lambda s, steps: s.build(pm.anil, steps, lr=s.lr, adapt=s.head),
    "iMAML": lambda s, steps: s.build(pm.imaml, steps, lr=s.lr, strength=0.5),
    "Meta-Curvature": lambda s, steps: s.build(pm.meta_curvature, steps, lr=s.lr, outer_lr=s.outer_lr),
    "learned optimiser": lambda s, steps: s.build(
        pm.learned_optimizer, steps, lr=s.lr, outer_lr=s.outer_lr, truncate=None
    ),
}
