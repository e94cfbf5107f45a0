"""What adaptation returns: an ordinary Pyro guide, and model, on adapted parameters."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pyro
from torch import Tensor, nn

from pyrometa.atomic.exclusive import exclusive
from pyrometa.program.end_to_end_values import TaskValues
from pyrometa.program.param_recorder import root_module
from pyrometa.program.pickled import own, without_weak_references
from pyrometa.program.program import Program
from pyrometa.types import Data

NO_DATA = Data((), {})


class _AdaptedValues(nn.Module):
    """The adapted unconstrained values, as parameters under the names of the leaves (``/`` for ``.``)."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = tuple(values)
        for name, value in values.items():
            self.register_parameter(_key(name), nn.Parameter(value.detach().clone()))

    def by_name(self) -> dict[str, Tensor]:
        return {name: self._parameters[_key(name)] for name in self.names}  # type: ignore[misc]


def _key(name: str) -> str:
    return name.replace(".", "/")


class _Adapted(nn.Module):
    """One side of a program, run on adapted values."""

    _run: Callable[..., Any]

    def __init__(self, program: Program, run: Callable[..., Any], values: _AdaptedValues) -> None:
        super().__init__()
        self.adapted = values
        self._program = program
        object.__setattr__(self, "_run", run)  # not a submodule: its own parameters are not adapted

    @exclusive
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the user's program; each adapted value is also a ``param`` message, so that SVI finds it."""
        values = self.adapted.by_name()
        with self._program.using(values):
            for name in values:
                pyro.param(name)
            return self._run(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            run = self.__dict__.get("_run")
            if run is None or name.startswith("__"):
                raise
        value = self._read(run, name)
        return self._within(value) if callable(value) and not isinstance(value, type) else value

    @exclusive
    def _read(self, run: Callable[..., Any], name: str) -> Any:
        with self._program.using(self.adapted.by_name()):
            return getattr(root_module(run) or run, name)

    def _within(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method, updated=())
        def run(*args: Any, **kwargs: Any) -> Any:
            return self._call(method, args, kwargs)

        return run

    @exclusive
    def _call(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with self._program.using(self.adapted.by_name()):
            return method(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        without_weak_references(self.adapted.parameters())
        return {name: value for name, value in vars(self).items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        own(self.adapted.parameters())
        object.__setattr__(self, "_run", self._side())

    def _side(self) -> Callable[..., Any]:
        """The user's program to run."""
        return self._program.model

    def __deepcopy__(self, memo: dict[int, Any]) -> _Adapted:
        """Copy the adapted values; the user's program is shared."""
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        _Adapted.__init__(copied, self._program, self._run, copy.deepcopy(self.adapted, memo))
        if "_support" in vars(self):
            copied._support = self._support
        return copied


class AdaptedModel(_Adapted):
    """The user's model on a task's adapted parameters: an ordinary Pyro model.

    Arguments and result are those of the user's model. It shares its parameters with its
    :class:`AdaptedGuide`; the parameters that did not adapt stay the user's own.
    """


class AdaptedGuide(_Adapted):
    """The user's guide on a task's adapted parameters: an ordinary Pyro guide.

    It owns the adapted unconstrained values as ``nn.Parameter`` and never writes them to the param store.
    Use it as any guide: ``Predictive(guide.model, guide=guide)``, or go on from it with
    ``SVI(guide.model, guide, optim, loss)``. Methods of the user's guide (``median``, ``quantiles``, its own)
    run on the adapted values. The parameters that did not adapt stay the user's own, and follow them: ``SVI`` on
    ``guide.model`` trains the user's model too, as ``SVI`` does; ``poutine.block(guide.model, hide_types=["param"])``
    keeps it as it is.
    """

    def __init__(self, program: Program, values: TaskValues, support: Data) -> None:
        # a module with parameters weighs ten times what these values do: it is made when it is first used
        vars(self).update(_program=program, _unmade=(values, support))

    def __getattr__(self, name: str) -> Any:
        if "_unmade" in vars(self):
            self._make()
        return vars(self)[name] if name in vars(self) else super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if "_unmade" in vars(self):
            self._make()
        super().__setattr__(name, value)

    @exclusive
    def _make(self) -> None:
        """Become a module, once; what another thread reads meanwhile waits here."""
        unmade = vars(self).get("_unmade")
        if unmade is None:
            return
        values, support = unmade
        made = object.__new__(AdaptedGuide)
        made._set_up(self._program, values, support)
        vars(self).update(vars(made))
        del vars(self)["_unmade"]

    def _set_up(self, program: Program, values: TaskValues, support: Data) -> None:
        super().__init__(program, program.conditioned(support), _AdaptedValues(values.by_name()))
        self._support = support

    def _side(self) -> Callable[..., Any]:
        return self._program.conditioned(self._support)

    @property
    def keeps_support(self) -> bool:
        """Whether the guide reads the support set that it was adapted to, wherever it is asked."""
        return self._support is not NO_DATA

    @property
    def model(self) -> Callable[..., Any]:
        """The model to use this guide with."""
        leaves = self._program.leaves
        if any("model" in leaves[name].sides for name in self.adapted.names):
            return AdaptedModel(self._program, self._program.model, self.adapted)
        return self._program.model
