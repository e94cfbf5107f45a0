"""Run one row under MetaSVI: how its tasks run, and whether its meta-gradient is the slope of its loss."""

import warnings
from dataclasses import dataclass

import pyro
import torch
from row import Program, Row

import pyrometa as pm


@dataclass(frozen=True)
class Result:
    """How a row ran, why not better, and the relative error of its meta-gradient (None where there is none)."""

    row: Row
    outcome: str
    why: str = ""
    error: float | None = None
    within: float = 0.0

    @property
    def passed(self) -> bool:
        return self.outcome == self.row.outcome and (self.error is None or self.error <= self.within)


def measure(row: Row) -> Result:
    """The result of a row; a program that fails in any other way than by a refusal is a result too."""
    try:
        return _second_order(row)
    except Exception as error:
        return Result(row, "failed", f"{type(error).__name__}: {error}")


def _second_order(row: Row) -> Result:
    try:
        return _ran(row, first_order=False)
    except pm.UnsupportedProgramError as refusal:
        if "first_order" not in str(refusal) and "first order" not in str(refusal):
            return Result(row, "refused", str(refusal))
        return _first_order(row, str(refusal))


def _first_order(row: Row, why: str) -> Result:
    ran = _ran(row, first_order=True)
    return Result(row, f"first order, {ran.outcome}", f"{why} {ran.why}".strip(), ran.error, ran.within)


def _ran(row: Row, first_order: bool) -> Result:
    program = _fresh(row)
    meta = meta_svi(program, 2, first_order)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        meta.step(program.support, program.query, kwargs=program.kwargs)
    reasons = [str(w.message) for w in caught if issubclass(w.category, pm.LoopWarning)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        error = gradient_error(row, first_order) if program.pathwise else None
    return Result(row, "loop" if reasons else "side by side", " ".join(reasons), error, program.within)


def _fresh(row: Row) -> Program:
    pyro.clear_param_store()
    torch.manual_seed(0)
    return row.build()


def meta_svi(program: Program, steps: int, first_order: bool) -> pm.MetaSVI:
    """MetaSVI in SVI's place: the program as it is."""
    return pm.MetaSVI(
        program.model,
        program.guide,
        pyro.optim.Adam({"lr": 1e-3}),
        program.loss,
        inner=pm.SGD(program.lr),
        steps=steps,
        meta_gradient=pm.Unrolled(first_order=first_order),
        adapt=program.adapt,
    )


def gradient_error(row: Row, first_order: bool) -> float:
    """The derivative along a random direction against a central difference of the loss, of their larger size.

    A first-order meta-gradient is no slope of the loss after adaptation; it is compared without inner steps.
    """
    program = _fresh(row)
    meta = meta_svi(program, 0 if first_order else 2, first_order)
    data = (program.support, program.query)
    torch.manual_seed(3)
    _, grads = meta.loss_and_grads(*data, kwargs=program.kwargs)
    leaves = dict(meta.named_parameters())
    direction = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    slope = sum((grads[name] * direction[name]).sum() for name in leaves).item()

    def loss_at(distance: float) -> float:
        _move(leaves, direction, distance)
        torch.manual_seed(3)
        loss = meta.evaluate_loss(*data, kwargs=program.kwargs)
        _move(leaves, direction, -distance)
        return loss

    difference = (loss_at(program.distance) - loss_at(-program.distance)) / (2 * program.distance)
    return abs(slope - difference) / max(abs(slope), abs(difference), 1e-8)


@torch.no_grad()
def _move(leaves: dict, direction: dict, distance: float) -> None:
    for name, leaf in leaves.items():
        leaf.add_(direction[name], alpha=distance)
