"""Run guide and model to find out about a program, on first data and in each new mode, and guard what they show."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyrometa import generators
from pyrometa.explain.reasons import naming_lines
from pyrometa.program.findings import Findings, Look, check_runs
from pyrometa.program.first_run import first_run
from pyrometa.program.given import Given
from pyrometa.program.guards.buffers import Buffers
from pyrometa.program.guards.guarded import Guarded
from pyrometa.program.program import Program
from pyrometa.types import Data


def discover(given: Given, data: Data) -> Program:
    """Find a program's parameters by running guide and model once, as plain SVI's first step would.

    That does to the param store what plain SVI's first step does.

    Warns:
        UserWarning: a loss or score that forgets a Jacobian of the guide.

    Raises:
        UnsupportedProgramError: a part of the program that can't be differentiated rightly.
        ValueError: the guide lacks a site of the model, or has one too many.
    """
    with _watched(given.modules()) as buffers:
        runs = first_run(given, given.loss, data, buffers)
        check_runs(*runs)
        found = Findings.of(given, *runs)
        program = Program(given, found, Guarded(Look.of(*runs, found.leaves)))
        with naming_lines(program):
            _check_buffers(program, data, buffers)
    return program


def look_again(program: Program, data: Data) -> None:
    """Guard in another mode what :func:`discover` guards on first data; the parameters are those known already.

    Raises:
        UnsupportedProgramError, ValueError: as :func:`discover`.
    """
    with _watched(program.modules()) as buffers:
        with program.using({}):
            runs = first_run(program.given, program.elbo, data, buffers)
        check_runs(*runs)
        program.guarded.look = Look.of(*runs, program.leaves)
        _check_buffers(program, data, buffers)


@contextmanager
def _watched(modules: Iterable[nn.Module]) -> Iterator[Buffers]:
    """Within it nothing is drawn from the global generator, and if it fails the buffers are put back."""
    buffers = Buffers()
    buffers.see(modules)
    with generators.forked(), torch.enable_grad(), buffers.restored_on_error():
        yield buffers


def _check_buffers(program: Program, data: Data, buffers: Buffers) -> None:
    buffers.check_constant(lambda: (program.loss({}, data), program.score({}, data)))
