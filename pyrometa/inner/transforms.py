"""Learned transforms of gradients: the modules that a function of a parameter has made, each asked for once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyrometa import generators
from pyrometa.nest import Same
from pyrometa.types import Params

Named = Literal["meta_curvature", "kronecker"]
Transform: TypeAlias = Callable[[Tensor], nn.Module | None]


class Transforms:
    """The modules made so far, by who made them and by the parameter's name and shape.

    A user's function may draw random numbers, may know a parameter by its identity and may return one module for
    several. So it can't be asked again: it is asked once, with the leaves themselves at hand, and what it made is kept.
    The parameters of a module are learned elsewhere, by name; of the module itself only how it computes is used.
    """

    def __init__(self) -> None:
        self._modules: dict[tuple[Same, str, tuple[int, ...]], nn.Module | None] = {}

    def make(self, transform: Named | Transform, params: Mapping[str, Tensor]) -> Params:
        """Ask for the transforms of these parameters, in their order; nothing is drawn from the global generator.

        Returns:
            The transforms' parameters, by the name ``transform.<parameter>.<name in the transform>``.
        """
        make = _named(transform) if isinstance(transform, str) else transform
        with generators.forked():
            made = {name: _made(make, name, p) for name, p in params.items()}
        self._modules.update({(Same(transform), n, tuple(params[n].shape)): module for n, module in made.items()})
        return {
            f"transform.{name}.{inner}": value.detach()
            for name, module in made.items()
            if module is not None
            for inner, value in module.named_parameters()
        }

    def applied(self, transform: Named | Transform, name: str, grad: Tensor, learned: Mapping[str, Tensor]) -> Tensor:
        """The transformed gradient of a parameter, of its shape.

        Args:
            transform: who made the parameter's module.
            name: of the parameter.
            grad: its gradient.
            learned: the modules' parameters, by the names of :meth:`make`.

        Raises:
            ValueError: there is no module for a parameter of this name and shape, or its parameters are not given.
        """
        key = (Same(transform), name, tuple(grad.shape))
        module = self._modules.get(key)
        inners = [] if module is None else [inner for inner, _ in module.named_parameters()]
        if key not in self._modules or not all(f"transform.{name}.{inner}" in learned for inner in inners):
            raise ValueError(
                f"no transform of {name!r} with shape {key[2]} is known: learned(params, steps) makes them, which "
                "MetaSVI calls on first data where steps > 0"
            )
        if module is None:
            return grad
        values = {inner: learned[f"transform.{name}.{inner}"] for inner in inners}
        return functional_call(module, values, (_vector(grad).contiguous(),)).reshape(grad.shape)


def _vector(value: Tensor) -> Tensor:
    """A scalar as a vector of one element; else the tensor itself, which a factory may know by its identity."""
    return value if value.dim() else value.reshape(1)


def _made(make: Transform, name: str, param: Tensor) -> nn.Module | None:
    param = _vector(param)
    try:
        module = make(param)
    except NotImplementedError as error:
        raise ValueError(
            f"the transform can't do {name!r} of shape {tuple(param.shape)}: adapt other parameters, or give a "
            "transform=lambda param: ... that returns None where the gradient is to stay as it is"
        ) from error
    if module is None:
        return None
    if not isinstance(module, nn.Module):
        raise TypeError(f"transform must return a module or None, got {type(module).__name__} for {name!r}")
    module = module.to(param)
    with torch.no_grad():
        shape = module(torch.zeros_like(param)).shape
    if shape != param.shape:
        raise ValueError(f"the transform of {name!r} maps shape {tuple(param.shape)} to {tuple(shape)}: keep the shape")
    return module


def _named(name: Named) -> Transform:
    """learn2learn's transform, imported now and without a change to the warnings filters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from learn2learn.nn import KroneckerLinear
            from learn2learn.optim.transforms import KroneckerTransform, MetaCurvatureTransform
    except ImportError as error:
        raise ImportError(f"transform={name!r} is learn2learn's: pip install 'pyrometa[learn2learn]'") from error
    return MetaCurvatureTransform if name == "meta_curvature" else KroneckerTransform(KroneckerLinear)
