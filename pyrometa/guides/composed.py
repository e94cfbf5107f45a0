"""Several guides as one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor


class ComposedGuide(PyroModule):
    """Guides for different sites of one model, run in order.

    Each part is a guide for some sites: an autoguide over ``poutine.block(model, hide=[...])``, an
    :class:`AmortizedGuide` with ``sites=[...]``, any function. A part's name begins the names of its parameters, so
    that ``MetaSVI(adapt="guide.weights.*")`` adapts one part and learns the others in the outer loop alone. A part may
    read what earlier parts have sampled: one with a list of names ``given``, such as an :class:`AmortizedGuide`, gets
    the values of these sites as keyword arguments. Unlike ``pyro.infer.autoguide.AutoGuideList`` it makes no plates
    itself, so data of any size will do.

    Args:
        parts: guides by name.

    Raises:
        TypeError: a part that can't be called.
        ValueError: no parts, or a name that ``torch.nn.Module`` uses itself.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyro.infer.autoguide import AutoNormal
        >>> from pyrometa.guides import AmortizedGuide
        >>> def model(x):
        ...     weights = pyro.sample("weights", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z[:, None] * weights, 1.0).to_event(1), obs=x)
        >>> guide = ComposedGuide(
        ...     weights=AutoNormal(pyro.poutine.block(model, hide=["z"])),
        ...     latents=AmortizedGuide(model, torch.nn.Linear(2, 4), sites=["z"]),
        ... )
        >>> sorted(guide(torch.randn(5, 2)))
        ['weights', 'z']
        >>> reader = AmortizedGuide(  # q(weights) q(z | x, weights): the encoder reads both
        ...     model, lambda x, weights: (x * weights).sum(-1, keepdim=True), sites=["z"], given=["weights"]
        ... )
        >>> structured = ComposedGuide(weights=AutoNormal(pyro.poutine.block(model, hide=["z"])), latents=reader)
        >>> structured(torch.randn(5, 2))["z"].shape
        torch.Size([5])
    """

    def __init__(self, **parts: Callable[..., Any]) -> None:
        super().__init__()
        if not parts:
            raise ValueError("a ComposedGuide needs parts: ComposedGuide(globals=..., locals=...)")
        for name, part in parts.items():
            if not callable(part):
                raise TypeError(f"part {name!r} must be a guide, got {type(part).__name__}")
            if hasattr(self, name):
                raise ValueError(f"part {name!r} has the name of a module's own attribute: choose another")
        for name, part in parts.items():
            setattr(self, name, part)
        self._names = tuple(parts)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Run every part on the model's arguments; the values by site of those that return them."""
        return _run([getattr(self, name) for name in self._names], args, kwargs)

    def condition(self, *support: Any, **kwargs: Any) -> Callable[..., dict[str, Tensor]]:
        """The guide given a support set: parts that define ``condition`` are conditioned, the others are as they are.

        Args:
            support: the model's positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A guide.
        """
        return functools.partial(self._given, support, kwargs)

    def _given(
        self, support: tuple[Any, ...], support_kwargs: Mapping[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        with self._pyro_context:
            parts = [getattr(self, name) for name in self._names]
            given = [p.condition(*support, **support_kwargs) if hasattr(p, "condition") else p for p in parts]
            return _run(given, args, kwargs)


def _run(parts: list[Callable[..., Any]], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    values: dict[str, Tensor] = {}
    for part in parts:
        given = {name: values[name] for name in getattr(part, "given", ()) if name in values}
        found = part(*args, **kwargs, **given)
        values.update(found if isinstance(found, Mapping) else {})
    return values
