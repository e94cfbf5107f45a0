"""Tables that choose a class by its name and give it arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.infer
import pyro.optim
import torch
from pyro.infer import autoguide
from pyro.optim.adagrad_rmsprop import AdagradRMSProp
from pyro.optim.clipped_adam import ClippedAdam
from pyro.optim.dct_adam import DCTAdam

from pyrometa import inner, outer
from pyrometa.elbos import StickingTheLanding_ELBO
from pyrometa.recipes.arguments import arguments, called
from pyrometa.recipes.nearest import meant
from pyrometa.recipes.recipe import Recipe
from pyrometa.scores import PredictiveLoss

Classes = Mapping[str, Callable[..., Any]]

_RULES: Classes = {
    rule.__name__: rule
    for rule in (
        *(inner.SGD, inner.Momentum, inner.Adam, inner.Newton, inner.NaturalGradient, inner.Preconditioned),
        *(inner.ProximalSGD, inner.LearnedOptimizer, inner.SVGD),
    )
}
_META_GRADIENTS: Classes = {kind.__name__: kind for kind in (outer.Unrolled, outer.Displacement, outer.Implicit)}
_ELBOS: Classes = {
    **{name: getattr(pyro.infer, name) for name in pyro.infer.__all__ if name.endswith("ELBO") and name != "ELBO"},
    "StickingTheLanding_ELBO": StickingTheLanding_ELBO,
}
_OPTIMIZERS: Classes = {
    **{name: kind for name, kind in vars(torch.optim).items() if name in pyro.optim.__all__ and isinstance(kind, type)},
    **{kind.__name__: kind for kind in (ClippedAdam, DCTAdam, AdagradRMSProp)},
}
_GUIDES: Classes = {name: getattr(autoguide, name) for name in autoguide.__all__ if name.startswith("Auto")}
_SCHEDULERS: Classes = {
    name: kind
    for name, kind in vars(torch.optim.lr_scheduler).items()
    if name in pyro.optim.__all__ and not name.endswith("LRScheduler") and isinstance(kind, type)
}

CLASSES: Mapping[str, Classes] = {
    "inner": _RULES,
    "meta_gradient": _META_GRADIENTS,
    "loss": _ELBOS,
    "score": {**_ELBOS, "PredictiveLoss": PredictiveLoss},
}
"""By the name of a table what its ``name`` may be."""

_CLIPS = ("clip_norm", "clip_value")


def part(recipe: Recipe, table: str) -> Any:
    """What a table of :data:`CLASSES` describes; None if it is left out.

    Raises:
        RecipeError: a name or a key that nobody knows, or a value that does not fit.
    """
    if table not in recipe.tables:
        return None
    chosen = named(recipe, table, CLASSES[table])
    plain = dict(recipe.table(table))
    nested = plain.pop("others") if table == "inner" and isinstance(plain.get("others"), Mapping) else None
    told = arguments(recipe.with_table(table, plain), table, chosen, besides=("name",), without=("made",))
    if nested is not None:
        told["others"] = part(recipe.with_table(table, nested), table)
    return called(recipe, table, chosen, **told)


def named(recipe: Recipe, table: str, classes: Classes) -> Callable[..., Any]:
    """The class that a table's ``name`` chooses.

    Raises:
        RecipeError: it has none, or one that nobody knows.
    """
    name = recipe.table(table).get("name")
    if not isinstance(name, str):
        raise recipe.error(f"must be the name of a class, one of {', '.join(classes)}, got {name!r}", table, "name")
    if name not in classes:
        raise recipe.error(f"is {name!r}, which nobody knows: {meant(name, classes)}", table, "name")
    return classes[name]


def optim(recipe: Recipe) -> pyro.optim.PyroOptim:
    """The optimiser of the outer loop, by the name that torch or Pyro has for it.

    Raises:
        RecipeError: as :func:`part`.
    """
    if "optim" not in recipe.tables:
        raise recipe.error('is missing: give name = "Adam" and lr = 0.01, say', "optim")
    chosen = named(recipe, "optim", _OPTIMIZERS)
    told = arguments(recipe, "optim", chosen, besides=("name", *_CLIPS), without=("params",))
    clips = {name: recipe.table("optim")[name] for name in _CLIPS if name in recipe.table("optim")}
    for name, value in clips.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise recipe.error(f"must be a number, got {value!r}", "optim", name)
    called(recipe, "optim", chosen, [torch.zeros(1, requires_grad=True)], **told)
    return pyro.optim.PyroOptim(chosen, told, clips or None)


def guide(recipe: Recipe, given: Any, model: Any) -> Any:
    """An autoguide of Pyro's for a model: a name, or a table of the name and the guide's arguments.

    Raises:
        RecipeError: as :func:`part`.
    """
    asked = recipe.with_table("guide", {"name": given} if isinstance(given, str) else given)
    if isinstance(given, str) and given not in _GUIDES:
        told = f"is {given!r}, which is no import path ('schools:guide') and no autoguide: {meant(given, _GUIDES)}"
        raise recipe.error(told, None, "guide")
    chosen = named(asked, "guide", _GUIDES)
    own = arguments(asked, "guide", chosen, besides=("name",), without=("model",))
    return called(recipe, "guide", chosen, model, **own)


def schedule(recipe: Recipe, told: Mapping[str, Any]) -> Callable[[torch.optim.Optimizer], Any]:
    """A function of a torch optimiser to a torch scheduler, from a table of the scheduler's name and arguments.

    Raises:
        RecipeError: as :func:`part`.
    """
    asked = recipe.with_table("trainer.schedule", told)
    chosen = named(asked, "trainer.schedule", _SCHEDULERS)
    given = arguments(asked, "trainer.schedule", chosen, besides=("name",), without=("optimizer",))
    return lambda optimizer: called(asked, "trainer.schedule", chosen, optimizer, **given)
