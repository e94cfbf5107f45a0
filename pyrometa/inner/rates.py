"""The step sizes of a rule: fixed or learned, one for all parameters or by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import Tensor

from pyrometa.inner.ranges import check_positive
from pyrometa.inner.steps import at_step
from pyrometa.types import Params

Learn = Literal["rate", "layer", "layer_step", "parameter"]


@dataclass(frozen=True)
class Rates:
    """The rates of a rule, from the fields of the same names that the user gave it.

    Learned rates are held as logarithms: ``log_lr`` for a single one, ``log_lr.<parameter>`` otherwise.

    Args:
        lr: the rate, or a mapping of name patterns to rates of which the first that matches counts.
        learn: None, ``"rate"``, ``"layer"``, ``"layer_step"`` or ``"parameter"``.
        outer_lr: outer step size of what the rule learns.
    """

    lr: float | Mapping[str, float]
    learn: Learn | None = None
    outer_lr: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.lr, Mapping):
            object.__setattr__(self, "lr", dict(self.lr))  # what the user does with theirs comes too late

    def check(self) -> None:
        """Refuse a rate that is not positive and finite, or an unknown ``learn``.

        Raises:
            ValueError: naming it.
        """
        if self.learn is not None and self.learn not in get_args(Learn):
            raise ValueError(
                f"learn must be None or one of {', '.join(map(repr, get_args(Learn)))}, got {self.learn!r}"
            )
        if isinstance(self.lr, Mapping) and self.learn == "rate":
            raise ValueError("learn='rate' learns one rate for all parameters: give lr as one number")
        for name, rate in self._given().items():
            check_positive(name, rate)

    def _given(self) -> dict[str, float | None]:
        rates: dict[str, float | None] = (
            {f"lr[{pattern!r}]": rate for pattern, rate in self.lr.items()}
            if isinstance(self.lr, Mapping)
            else {"lr": self.lr}
        )
        return rates if self.outer_lr is None else {**rates, "outer_lr": self.outer_lr}

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned rates: shape ``()``, ``(steps,)`` or the parameter's; empty where none."""
        if self.learn == "rate":
            like = next(iter(params.values()))
            return {"log_lr": like.new_full((), math.log(self._fixed("")))}
        self.check_names(params)
        if self.learn is None:
            return {}
        return {
            f"log_lr.{name}": p.new_full(self._shape(p, steps), math.log(self._fixed(name)))
            for name, p in params.items()
        }

    def check_names(self, params: Iterable[str]) -> None:
        """Refuse parameters that no pattern matches.

        Raises:
            ValueError: naming one.
        """
        for name in params:
            self._fixed(name)

    @property
    def one_rate_for(self) -> Literal["all", "tensor", "element"]:
        """What has a single rate: all parameters together, each parameter tensor, or each of its elements."""
        if self.learn == "parameter":
            return "element"
        one = self.learn == "rate" or (self.learn is None and not isinstance(self.lr, Mapping))
        return "all" if one else "tensor"

    def _fixed(self, name: str) -> float:
        if not isinstance(self.lr, Mapping):
            return self.lr
        for pattern, rate in self.lr.items():
            if fnmatchcase(name, pattern):
                return rate
        raise ValueError(f"lr has no rate for {name!r}: its patterns are {', '.join(self.lr)}; add one, or '*'")

    def _shape(self, param: Tensor, steps: int) -> tuple[int, ...]:
        if self.learn == "layer_step":
            return (steps,)
        return tuple(param.shape) if self.learn == "parameter" else ()

    def rate(self, name: str, learned: Mapping[str, Tensor], step: int) -> float | Tensor:
        """The rate of a parameter at an inner step; past the last that has a rate of its own, the last one's."""
        if self.learn is None or not learned:
            return self._fixed(name)
        log_lr = learned["log_lr" if self.learn == "rate" else f"log_lr.{name}"]
        return torch.exp(at_step(log_lr, step) if self.learn == "layer_step" else log_lr)

    def moved(
        self, params: Mapping[str, Tensor], along: Mapping[str, Tensor], learned: Mapping[str, Tensor], step: int
    ) -> Params:
        """The fast weights after a step: each parameter minus its rate times the direction given for it."""
        return {n: p - self.rate(n, learned, step) * along[n] for n, p in params.items()}
