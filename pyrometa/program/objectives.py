"""A loss or score as a function of ``(model, guide, *args, **kwargs)`` to a scalar tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pyro.infer.elbo import ELBO
from torch import Tensor

from pyrometa import elbos

Objective: TypeAlias = Callable[..., Tensor]


def function_of(loss: ELBO | Objective, name: str = "loss") -> Objective:
    """The function that a loss is, or that a Pyro ELBO computes.

    Args:
        loss: what the user gave.
        name: what it is called in an error.

    Raises:
        TypeError: for an ELBO without a differentiable value, and for what can't be called.
    """
    if isinstance(loss, ELBO):
        if hasattr(loss, "differentiable_loss"):
            return loss.differentiable_loss
        if elbos.refusal(loss) is None:
            return elbos.loss_of(loss)
        raise TypeError(
            f"{name}: {type(loss).__name__} has no differentiable_loss, which meta-gradients need; "
            "use Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO or RenyiELBO"
        )
    if callable(loss):
        return loss
    raise TypeError(f"{name} must be a Pyro ELBO or a function, got {type(loss).__name__}")


def batchable(loss: ELBO | Objective) -> Objective:
    """The same function in a form that ``vmap`` can batch."""
    return elbos.traced(loss) if isinstance(loss, ELBO) else loss
