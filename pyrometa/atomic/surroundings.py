"""What an operation sets up around a program, to put it back.

An exception that may be raised between any two instructions, as a KeyboardInterrupt is, may keep a context from
closing: what follows does not rely on contexts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import distributions, infer, poutine
from pyro.nn import PyroModule
from torch import nn

from pyrometa.atomic.attributes import Attributes
from pyrometa.atomic.interrupts import behind, close_generators
from pyrometa.internals import (
    DIM_ALLOCATOR,
    PYRO_STACK,
    dispatch_modes,
    function_modes,
    get_dynamic_layer_stack_depth,
    pop_dispatch_mode,
    pop_dynamic_layer_stack,
    pop_function_mode,
    push_dispatch_mode,
    push_function_mode,
)
from pyrometa.types import TwoSides


class Surroundings:
    """Pyro's handlers, param store and validation, torch's modes, and what the program's modules hold as parameters.

    Before a program has seen data also what first data change: attributes of the owner and of the program's modules.

    Args:
        owner: whose operation it is.
        program: what is run.
    """

    def __init__(self, owner: object, program: TwoSides) -> None:
        self._program = program
        self._handlers, self._plates = PYRO_STACK.copy(), DIM_ALLOCATOR._stack.copy()
        self._store = {name: content.copy() for name, content in vars(pyro.get_param_store()).items()}
        self._validates = infer.is_validation_enabled(), poutine.is_validation_enabled(), _validates_distributions()
        self._grad, self._depth = torch.is_grad_enabled(), get_dynamic_layer_stack_depth()
        self._function_modes = function_modes()
        self._dispatch_modes = dispatch_modes()
        slots = [slot for leaf in program.leaves.values() for slot in leaf.slots]
        self._parameters = [(module._parameters, key, module._parameters.get(key)) for module, key in slots]
        recurrent = [module for module, _ in slots if isinstance(module, nn.RNNBase)]
        self._flat = [(module, module._flat_weights, module._flat_weight_refs) for module in recurrent]
        first = not program.leaves
        self._attributes = Attributes(program.modules()) if first else None
        self._owner, self._known = vars(owner), vars(owner).copy() if first else {}

    def restore(self, error: BaseException) -> None:
        """Put it all back after an error that ended the operation."""
        interrupted = not isinstance(behind(error), Exception)
        if interrupted:
            close_generators(error)
        self._restore_torch()
        if self._attributes is not None:
            self._attributes.restore()
        self._owner.update(self._known)
        self._restore_modules()
        if interrupted:
            self._program.mend_kept()
        self._restore_pyro()

    def _restore_torch(self) -> None:
        while get_dynamic_layer_stack_depth() > self._depth:
            pop_dynamic_layer_stack()
        _restore_modes(function_modes(), self._function_modes, pop_function_mode, push_function_mode)
        _restore_modes(dispatch_modes(), self._dispatch_modes, pop_dispatch_mode, push_dispatch_mode)
        torch.set_grad_enabled(self._grad)

    def _restore_modules(self) -> None:
        for parameters, key, tensor in self._parameters:
            parameters[key] = tensor
        for recurrent, weights, references in self._flat:
            recurrent._flat_weights, recurrent._flat_weight_refs = weights, references
        for module in self._program.modules():
            if isinstance(module, PyroModule):
                context = module._pyro_context
                context.active = 0
                context.cache.clear()
                vars(context).pop("_param_ctx", None)  # which writes to the store when it is let go

    def _restore_pyro(self) -> None:
        PYRO_STACK[:], DIM_ALLOCATOR._stack[:] = self._handlers, self._plates
        vars(pyro.get_param_store()).update(self._store)
        by_infer, by_poutine, (by_pyro, by_torch) = self._validates
        infer.enable_validation(by_infer)
        poutine.enable_validation(by_poutine)
        distributions.enable_validation(by_pyro)
        torch.distributions.Distribution.set_default_validate_args(by_torch)


def _validates_distributions() -> tuple[bool, bool]:
    return distributions.is_validation_enabled(), torch.distributions.Distribution._validate_args


def _restore_modes(present: list[Any], before: list[Any], pop: Callable[[], Any], push: Callable[[Any], None]) -> None:
    for _ in present:
        pop()
    for mode in before:
        push(mode)
