"""The inner rules of learn2learn's wrappers, on the user's own rates and transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.func import functional_call

from pyrometa.types import Params


@dataclass(frozen=True, eq=False)
class LearnedRates:
    r"""Meta-SGD with the rates of a learn2learn ``MetaSGD``, which are learned as they are and may turn negative.

    .. math:: \phi_{k+1} = \phi_k - \alpha \odot \nabla_{\phi_k} \text{loss}(\phi_k)

    Args:
        params: parameters of the wrapped module, in its order.
        lrs: their rates, each of its parameter's shape or one that broadcasts to it.
    """

    params: tuple[Tensor, ...]
    lrs: tuple[Tensor, ...]
    _rates: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _names: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def outer_lr(self) -> None:
        """The optimiser's own."""

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """The user's rates themselves, by the name ``lrs.<parameter>``.

        Raises:
            ValueError: a parameter that the wrapper has no rate for.
        """
        rates = {id(param): lr for param, lr in zip(self.params, self.lrs, strict=False)}
        for name, param in params.items():
            if id(param) not in rates:
                raise ValueError(
                    f"learn2learn's MetaSGD has no rate for {name!r}: adapt parameters of the guide, and wrap it when "
                    "it has all of them (an autoguide: after its first call)"
                )
        self._rates.update({name: rates[id(param)] for name, param in params.items()})
        return _learned({f"lrs.{name}": self._rates[name] for name in params}, self._names)

    def init(self, params: Mapping[str, Tensor]) -> None:
        """There is no state."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: None,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, None]:
        """One step against the gradients, each element at its own rate."""
        return {n: p - self._rate(n, learned) * grads[n] for n, p in params.items()}, None

    def _rate(self, name: str, learned: Mapping[str, Tensor]) -> Tensor:
        _check_known(name, self._rates)
        return learned.get(self._names.get(f"lrs.{name}", ""), self._rates[name])


@dataclass(frozen=True, eq=False)
class Transformed:
    r"""Gradient descent through the transforms of a learn2learn ``GBML`` or ``LearnableOptimizer``.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, T_\psi(\nabla_{\phi_k} \text{loss}(\phi_k))

    A parameter without a transform moves along its gradient.

    Args:
        params: parameters of the wrapped module, in its order.
        transforms: their transforms, or None.
        lr: the rate.
    """

    params: tuple[Tensor, ...]
    transforms: tuple[nn.Module | None, ...]
    lr: float
    _modules: dict[str, nn.Module | None] = field(default_factory=dict, init=False, repr=False)
    _names: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    @property
    def outer_lr(self) -> None:
        """The optimiser's own."""

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """The transforms' own parameters, by the name ``transform.<parameter>.<name in the transform>``.

        Raises:
            ValueError: a transform of another dtype than its parameter.
        """
        modules = {id(param): module for param, module in zip(self.params, self.transforms, strict=True)}
        for name, param in params.items():
            self._modules[name] = modules.get(id(param))
            _check_dtype(name, param, self._modules[name])
        return _learned(
            {
                f"transform.{name}.{inner}": value
                for name in params
                for inner, value in _parameters(self._modules[name]).items()
            },
            self._names,
        )

    def init(self, params: Mapping[str, Tensor]) -> None:
        """There is no state."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: None,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, None]:
        """One step against the transformed gradients."""
        return {n: p - self.lr * self._transformed(n, grads[n], learned) for n, p in params.items()}, None

    def _transformed(self, name: str, grad: Tensor, learned: Mapping[str, Tensor]) -> Tensor:
        _check_known(name, self._modules)
        module = self._modules[name]
        if module is None:
            return grad
        known = {inner: self._names.get(f"transform.{name}.{inner}") for inner in _parameters(module)}
        values = {inner: learned[key] for inner, key in known.items() if key is not None}
        return functional_call(module, values, (grad.contiguous(),))


def _parameters(module: nn.Module | None) -> Params:
    return {} if module is None else dict(module.named_parameters())


def _learned(values: Params, names: dict[str, str]) -> Params:
    """What requires grad, each tensor under the first of its names; ``names`` takes up under which."""
    first: dict[int, str] = {}
    names.update((n, first.setdefault(id(value), n)) for n, value in values.items() if value.requires_grad)
    return {name: value for name, value in values.items() if names.get(name) == name}


def _check_known(name: str, known: Mapping[str, object]) -> None:
    if name not in known:
        raise ValueError(f"the rule has not seen {name!r}: MetaSVI shows it what adapts on first data where steps > 0")


def _check_dtype(name: str, param: Tensor, module: nn.Module | None) -> None:
    for inner, value in _parameters(module).items():
        if value.dtype != param.dtype:
            raise ValueError(
                f"the transform of {name!r} has {inner!r} in {value.dtype}, the parameter is {param.dtype}: "
                f"move the wrapper to one of them, as in wrapper.to({param.dtype})"
            )
