"""One run of guide and model on first data, as the ELBO runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro import poutine
from pyro.infer.elbo import ELBO

from pyrometa.program.enumeration import enumerated
from pyrometa.program.given import Given
from pyrometa.program.guards.buffers import Buffers, transform_modules
from pyrometa.program.objectives import Objective
from pyrometa.program.param_recorder import ParamRecorder, Side, SideRun
from pyrometa.types import Data


def first_run(given: Given, elbo: ELBO | Objective | None, data: Data, buffers: Buffers) -> tuple[SideRun, SideRun]:
    """Run the guide given the data, and the model on what the guide drew.

    Args:
        given: model and guide.
        elbo: the loss whose enumeration to follow; None for one without.
        data: what both take.
        buffers: notes the modules that the program registers or transforms by.

    Returns:
        What the runs of guide and model showed; the model's sites depend on its own parameters alone.
    """
    taken = given.for_program(data)
    run_model, run_guide = enumerated(elbo, given.model, given.conditioned(data), taken)
    drawn = replace(_run("guide", run_guide, taken, buffers), program=given.guide)
    replayed = poutine.replay(run_model, trace=_constant(drawn.trace))
    scored = replace(_run("model", replayed, taken, buffers), program=given.model)
    for run in (drawn, scored):
        buffers.see(transform_modules(run.trace))
    return drawn, scored


def _run(side: Side, program: Callable[..., Any], data: Data, buffers: Buffers) -> SideRun:
    with ParamRecorder(buffers) as recorder:
        trace = poutine.trace(program).get_trace(*data.args, **data.kwargs)
    return SideRun(side, program, trace, recorder)


def _constant(trace: poutine.Trace) -> poutine.Trace:
    """The same trace with values that depend on no parameter, so that a replay shows what the model itself reads."""
    constant = trace.copy()
    constant.nodes.update({name: site.copy() for name, site in trace.nodes.items()})
    constant.detach_()
    return constant
