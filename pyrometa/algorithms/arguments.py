"""What all named algorithms take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyro.infer.elbo import ELBO

from pyrometa.program.objectives import Objective

ModelOrGuide = Callable[..., Any]
Loss = ELBO | Objective | None
Rate = float | Mapping[str, float]
