"""Pyro's examples and tutorials: the programs that the core's tests run as well."""

import sys
from pathlib import Path

from row import Program, Row

sys.path.append(str(Path(__file__).parents[1] / "cases"))

from tutorial_programs import TUTORIALS


def _row(make):
    tutorial = make()
    outcome = "side by side" if tutorial.looped is None else "loop"
    if tutorial.first_order:
        outcome = f"first order, {outcome}"
    return Row(
        (make.__doc__ or make.__name__.replace("_", " ")).split("\n")[0].rstrip("."), lambda: _program(make()), outcome
    )


def _program(t):
    return Program(t.model, t.guide, t.support, t.query, t.loss, t.adapt, t.lr, pathwise=not t.first_order)


ROWS = [_row(make) for make in TUTORIALS]
