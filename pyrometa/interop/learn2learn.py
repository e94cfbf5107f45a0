"""learn2learn's wrappers in the guide's place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pyrometa import generators
from pyrometa.inner import SGD, GradientOrder, InnerRule, Rule
from pyrometa.interop.learn2learn_rules import LearnedRates, Transformed
from pyrometa.outer import MetaGradient, Unrolled
from pyrometa.program.program import Program
from pyrometa.types import Data


@dataclass(frozen=True)
class Unwrapped:
    """What a guide brings along.

    Attributes:
        guide: the guide itself.
        inner: the rule of its wrapper, or what the user gave.
        meta_gradient: what the user gave, else one of the order of its wrapper.
        wrapper: the name of a wrapper that can't do with unused parameters.
    """

    guide: Callable[..., Any]
    inner: Rule | None
    meta_gradient: MetaGradient | None
    wrapper: str | None = None

    def check_used(self, program: Program, data: Data, adapted: Iterable[str]) -> None:
        """Refuse parameters that the support loss does not depend on, where learn2learn would fail on them.

        Raises:
            ValueError: naming them and the cure.
        """
        if self.wrapper is None:
            return
        leaves = {name: program.leaves[name].tensor for name in adapted}
        with generators.forked(), torch.enable_grad():
            found = torch.autograd.grad(program.loss({}, data), list(leaves.values()), allow_unused=True)
        unused = [name for name, grad in zip(leaves, found, strict=True) if grad is None]
        if unused:
            cure = "adapt= other names" if self.wrapper == "MetaSGD" else f"{self.wrapper}(..., allow_unused=True)"
            raise ValueError(
                f"the support loss does not depend on {', '.join(map(repr, unused))}, which learn2learn's "
                f"{self.wrapper} can't adapt: give {cure}, or freeze them by requires_grad_(False)"
            )


def unwrapped(guide: Callable[..., Any], inner: Rule | None, meta_gradient: MetaGradient | None) -> Unwrapped:
    """Read guide, rule and meta-gradient from a learn2learn wrapper; anything else passes through.

    ``MAML`` is SGD, and so is ``GBML`` where it transforms nothing. The rates of a ``MetaSGD`` and the transforms of
    a ``GBML`` or a ``LearnableOptimizer`` are the user's own tensors, which MetaSVI learns in place. The wrapper's
    ``clone`` and ``adapt`` are never called.

    Raises:
        TypeError: another wrapper than these, or one with a ``clone`` or ``adapt`` of its own.
        ValueError: a wrapper together with an inner rule, of first order together with a second-order
            meta-gradient, or that adapts its transforms in the inner loop.
    """
    if not _is_wrapper(guide):
        return Unwrapped(guide, inner, meta_gradient)
    name = type(guide).__name__
    if inner is not None:
        raise ValueError(
            f"the guide is a learn2learn {name}, which brings its own inner rule: "
            "drop inner=, or give the guide without the wrapper"
        )
    kind = _kind(guide)
    first_order = bool(getattr(guide, "first_order", False))
    if first_order and meta_gradient is not None and meta_gradient.order is GradientOrder.SECOND:
        raise ValueError(
            f"the guide is a learn2learn {name} of first order, and meta_gradient is of second: give one of "
            "first_order=False to the wrapper or meta_gradient=Unrolled(first_order=True)"
        )
    module = guide.info["model"] if kind == "LearnableOptimizer" else guide.module  # type: ignore[attr-defined]
    lenient = kind == "LearnableOptimizer" or getattr(guide, "allow_unused", False)
    return Unwrapped(
        module, _rule(kind, guide, module), meta_gradient or Unrolled(first_order), None if lenient else kind
    )


def _is_wrapper(guide: object) -> bool:
    """Whether ``guide`` is one of learn2learn's; does not import learn2learn."""
    return any(
        base.__module__.startswith(("learn2learn.algorithms", "learn2learn.optim.learnable_optimizer"))
        for base in type(guide).__mro__
    )


def _kind(guide: object) -> str:
    """The wrapper's name, if its rule is known.

    Raises:
        TypeError: with the cure.
    """
    from learn2learn.algorithms import GBML, MAML, MetaSGD
    from learn2learn.optim import LearnableOptimizer

    own = type(guide)
    for kind in (MAML, MetaSGD, GBML, LearnableOptimizer):
        methods = ("step",) if kind is LearnableOptimizer else ("clone", "adapt")
        if isinstance(guide, kind) and all(getattr(own, m) is getattr(kind, m) for m in methods):
            return str(kind.__name__)
    raise TypeError(
        f"learn2learn's {own.__name__} is not supported in the guide's place, whose rule would be MAML's, MetaSGD's, "
        "GBML's or LearnableOptimizer's: wrap the guide in one of these, or give the guide itself and inner="
    )


def _rule(kind: str, guide: Any, module: nn.Module) -> InnerRule:
    params = tuple(module.parameters())
    if kind == "MAML":
        return SGD(float(guide.lr))
    if kind == "MetaSGD":
        return LearnedRates(params, tuple(guide.lrs))
    if kind == "LearnableOptimizer":
        return Transformed(params, tuple(guide.transforms), float(guide.lr))
    if guide.adapt_transform:
        raise ValueError(
            "the guide is a learn2learn GBML with adapt_transform=True, which moves its transforms within the inner "
            "loop; here the outer loop learns them: give adapt_transform=False"
        )
    update = guide.compute_update
    transforms = [None if i is None else update.transforms_modules[i] for i in update.transforms_indices]
    if all(transform is None or isinstance(transform, nn.Identity) for transform in transforms):
        return SGD(float(guide.lr))
    return Transformed(params, tuple(transforms), float(guide.lr))
