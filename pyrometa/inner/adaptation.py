"""The inner loop, for every rule and every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum

import torch
from torch import Tensor

from pyrometa.errors import NonFiniteError
from pyrometa.inner.rule import InnerRule
from pyrometa.types import Params


class Order(IntEnum):
    """How much of the inner loop its result can be differentiated through.

    ``NONE``: nothing, for meta-test. ``FIRST``: the updates, with their gradients taken as constants.
    ``SECOND``: everything.
    """

    NONE = 0
    FIRST = 1
    SECOND = 2


def adapt(
    loss: Callable[[Params, int], Tensor],
    params: Mapping[str, Tensor],
    rule: InnerRule,
    learned: Mapping[str, Tensor],
    steps: int,
    order: Order,
    task: int,
) -> Iterator[Params]:
    """Adapt one task, step by step.

    Args:
        loss: the support loss of ``(fast weights, step)``.
        params: where adaptation starts.
        rule: the inner rule.
        learned: the rule's learned parameters.
        steps: number of steps K.
        order: how much of the graph is kept.
        task: index of the task, for errors.

    Yields:
        The fast weights after 0, 1, ..., K steps.

    Raises:
        NonFiniteError: naming task, step and parameter.
    """
    fast = {name: _start(value, order) for name, value in params.items()}
    state = rule.init(fast)
    yield fast
    for step in range(steps):
        with torch.enable_grad():
            value = loss(fast, step)
            grads = _gradients(value, fast, create_graph=order is Order.SECOND)
            _check_finite(value, grads, task, step)
            fast, state = rule.update(fast, grads, state, learned, step)
        if order is Order.NONE:
            fast = {name: _start(value, order) for name, value in fast.items()}
        yield fast


def _start(value: Tensor, order: Order) -> Tensor:
    return value.detach().requires_grad_() if order is Order.NONE else value


def _gradients(value: Tensor, fast: Params, *, create_graph: bool) -> Params:
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in fast.items()}
    found = torch.autograd.grad(value, list(fast.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(p) if grad is None else grad for (name, p), grad in zip(fast.items(), found, strict=True)
    }


def _check_finite(value: Tensor, grads: Params, task: int, step: int) -> None:
    probe = torch.stack([value.detach(), *(g.detach().sum() for g in grads.values())]).sum()
    if torch.isfinite(probe):
        return
    bad = next((name for name, g in grads.items() if not torch.isfinite(g).all()), None)
    if bad is None and torch.isfinite(value):
        return
    what = "the support loss" if bad is None else f"the gradient of {bad!r}"
    raise NonFiniteError(
        f"task {task}, inner step {step}: {what} is not finite (support loss {value.item():g}): "
        'lower the inner rate, learn it by layer (SGD(lr, learn="layer")), or use reduction="mean"',
        task,
        step,
        bad,
    )
