"""One run of guide and model on first data, as the ELBO runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pyro import poutine

from pyrometa.program.enumeration import enumerated
from pyrometa.program.guards.buffers import Buffers, transform_modules
from pyrometa.program.param_recorder import ParamRecorder, Side, SideRun
from pyrometa.types import Data

Program = Callable[..., Any]


def first_run(
    elbo: Any, model: Program, guide: Program, conditioned: Program, data: Data, buffers: Buffers
) -> tuple[SideRun, SideRun]:
    """Run the guide, and the model on what the guide drew.

    Args:
        elbo: whose enumeration to follow.
        model: the model.
        guide: the guide as the user gave it.
        conditioned: the guide to run, given the data.
        data: what both take.
        buffers: notes the modules that the program registers or transforms by.

    Returns:
        What the runs of guide and model showed; the model's sites depend on its own parameters alone.
    """
    run_model, run_guide = enumerated(elbo, model, conditioned, data)
    drawn = replace(_run("guide", run_guide, data, buffers), program=guide)
    replayed = poutine.replay(run_model, trace=_constant(drawn.trace))
    scored = replace(_run("model", replayed, data, buffers), program=model)
    for run in (drawn, scored):
        buffers.see(transform_modules(run.trace))
    return drawn, scored


def _run(side: Side, program: Program, data: Data, buffers: Buffers) -> SideRun:
    with ParamRecorder(buffers) as recorder:
        trace = poutine.trace(program).get_trace(*data.args, **data.kwargs)
    return SideRun(side, program, trace, recorder)


def _constant(trace: poutine.Trace) -> poutine.Trace:
    """The same trace with values that depend on no parameter, so that a replay shows what the model itself reads."""
    constant = trace.copy()
    constant.nodes.update({name: site.copy() for name, site in trace.nodes.items()})
    constant.detach_()
    return constant
