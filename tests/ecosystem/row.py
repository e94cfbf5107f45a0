"""What a row of the table is: a program that others wrote, tasks for it, and how it is to run."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pyro.infer import Trace_ELBO

Outcome = Literal["side by side", "loop", "first order, side by side", "first order, loop", "refused"]


@dataclass
class Program:
    """A model and a guide in float64, tasks for them, and what MetaSVI is told; no query scores the support set."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    support: Any
    query: Any = None
    loss: Any = field(default_factory=Trace_ELBO)
    adapt: Any = "guide"
    lr: float = 1e-3
    kwargs: dict[str, Any] | None = None
    pathwise: bool = True  # False: a draw has no reparameterisation, so no difference under one seed is its gradient
    distance: float = 1e-5  # of the central difference: rounding is about 1e-11 of the loss over it
    within: float = 1e-5  # the relative error that passes


@dataclass(frozen=True)
class Row:
    """One line: the package's own name for the program, how it is to run, and what its user has to change."""

    name: str
    build: Callable[[], Program]
    outcome: Outcome = "side by side"
    change: str = ""
