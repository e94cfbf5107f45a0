"""Run one side of a program and note the parameters that it asks for."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pyro
from pyro.nn import PyroModule
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from pyrometa.explain.source_lines import line_of_call
from pyrometa.internals import context_wrap
from pyrometa.program.guards.buffers import Buffers

Side = Literal["guide", "model"]


class ParamRecorder(Messenger):
    """Notes each ``param`` message of a program: its leaf, its constraint, its modules and their buffers.

    Of each ``sample`` message it notes the line.
    """

    def __init__(self, buffers: Buffers) -> None:
        super().__init__()
        self.buffers = buffers
        self.leaves: dict[str, Tensor] = {}
        self.constraints: dict[str, Constraint] = {}
        self.modules: dict[int, nn.Module] = {}
        self.lines: dict[str, str] = {}

    def _pyro_sample(self, msg: Any) -> None:
        line = line_of_call()
        if line is not None:
            self.lines[msg["name"]] = line

    def _pyro_post_param(self, msg: Any) -> None:
        registering = list(_registering_modules())
        self.modules.update((id(module), module) for module in registering)
        self.buffers.see(registering)
        name, leaf = msg["name"], _leaf_of(msg, registering)
        if leaf is None:
            return
        self.leaves[name] = leaf
        stored = pyro.get_param_store()._constraints.get(name)
        self.constraints[name] = stored or msg["kwargs"].get("constraint") or constraints.real


def _leaf_of(msg: Any, registering: Iterable[nn.Module]) -> Tensor | None:
    """The tensor that a ``param`` message is about; None where a PyroModule is only being given a value.

    A module's own parameter comes with the message, and is what the module computes with.
    """
    given, value = msg["args"][1:2], msg["value"]
    if given and msg["kwargs"].get("constraint") in (None, constraints.real):
        own = next((p for module in registering for p in module.parameters() if p is given[0]), None)
        if own is not None:
            return own
    if hasattr(value, "_pyro_unconstrained_param"):  # subsampled by a plate
        return value._pyro_unconstrained_param
    return value.unconstrained() if hasattr(value, "unconstrained") else None


def _registering_modules() -> Iterator[nn.Module]:
    """The modules on the call stack that emit the message being handled."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code is pyro.module.__code__:
            yield frame.f_locals["nn_module"]
        elif frame.f_code in (PyroModule.__call__.__code__, PyroModule.__getattr__.__code__):
            yield frame.f_locals["self"]  # a module that is called, or read by a pyro_method
        frame = frame.f_back  # type: ignore[assignment]


def root_module(program: Callable[..., Any]) -> nn.Module | None:
    """The module that a model or guide is, or is a method of."""
    while True:
        if isinstance(program, nn.Module):
            return program
        if isinstance(program, functools.partial):
            wrapper, program = program, program.func
            if program is context_wrap:  # of a handler such as poutine.scale
                program = wrapper.args[1]
        elif hasattr(program, "__wrapped__"):
            program = program.__wrapped__
        elif inspect.ismethod(program):
            return program.__self__ if isinstance(program.__self__, nn.Module) else None
        else:
            return None


@dataclass(frozen=True)
class SideRun:
    """What one run of the model or the guide showed."""

    side: Side
    program: Callable[..., Any]
    trace: Trace
    recorder: ParamRecorder
