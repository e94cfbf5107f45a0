"""Model and guide as an ELBO runs them: with discrete sites enumerated where it enumerates them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyro.infer import TraceEnum_ELBO
from pyro.poutine.enum_messenger import EnumMessenger

from pyrometa.types import Data

ModelOrGuide = Callable[..., Any]


def enumerated(elbo: Any, model: ModelOrGuide, guide: ModelOrGuide, data: Data) -> tuple[ModelOrGuide, ModelOrGuide]:
    """Model and guide, to be run the guide first; as they are where the ELBO does not enumerate.

    Enumeration takes dimensions to the left of all plates, first for the guide and then for the model.
    """
    if not isinstance(elbo, TraceEnum_ELBO):
        return model, guide
    if elbo.max_plate_nesting == float("inf"):
        elbo._guess_max_plate_nesting(model, guide, data.args, data.kwargs)
    return EnumMessenger()(model), EnumMessenger(first_available_dim=-1 - elbo.max_plate_nesting)(guide)
