"""Meta-learned amortised variational inference for Pyro."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from pyrometa.algorithms import (
    anil,
    fomaml,
    imaml,
    learned_optimizer,
    lslr,
    maml,
    meta_curvature,
    meta_sgd,
    reptile,
)
from pyrometa.elbos import StickingTheLanding_ELBO
from pyrometa.engine import Engine
from pyrometa.errors import (
    CheckpointError,
    LoopWarning,
    NonFiniteError,
    NotInitializedError,
    ProcessError,
    ReachError,
    RecipeError,
    UnsupportedProgramError,
)
from pyrometa.inner import (
    SGD,
    SVGD,
    Adam,
    LearnedOptimizer,
    Momentum,
    NaturalGradient,
    Newton,
    Preconditioned,
    ProximalSGD,
)
from pyrometa.metasvi import MetaSVI
from pyrometa.noise.options import Noise
from pyrometa.outer import Displacement, Implicit, Unrolled
from pyrometa.processes import Processes
from pyrometa.program.adapted import AdaptedGuide
from pyrometa.scores import PredictiveLoss

if TYPE_CHECKING:
    from pyrometa import diagnostics as diagnostics
    from pyrometa import guides as guides
    from pyrometa import models as models
    from pyrometa import tasks as tasks
    from pyrometa import train as train
    from pyrometa.adapter import Adapter as Adapter
    from pyrometa.amortize import Amortize as Amortize
    from pyrometa.recipes import load as load
    from pyrometa.train import Trainer as Trainer

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "SVGD",
    "Adam",
    "AdaptedGuide",
    "Adapter",
    "Amortize",
    "CheckpointError",
    "Displacement",
    "Engine",
    "Implicit",
    "LearnedOptimizer",
    "LoopWarning",
    "MetaSVI",
    "Momentum",
    "NaturalGradient",
    "Newton",
    "Noise",
    "NonFiniteError",
    "NotInitializedError",
    "Preconditioned",
    "PredictiveLoss",
    "ProcessError",
    "Processes",
    "ProximalSGD",
    "ReachError",
    "RecipeError",
    "StickingTheLanding_ELBO",
    "Trainer",
    "Unrolled",
    "UnsupportedProgramError",
    "anil",
    "fomaml",
    "imaml",
    "learned_optimizer",
    "load",
    "lslr",
    "maml",
    "meta_curvature",
    "meta_sgd",
    "reptile",
]

_ON_FIRST_USE = frozenset({"diagnostics", "guides", "models", "tasks", "train"})
_CLASSES = {"Adapter": "adapter", "Amortize": "amortize", "Trainer": "train", "load": "recipes"}


if not TYPE_CHECKING:  # to a type checker it would say that any name is there

    def __getattr__(name: str) -> ModuleType | type:
        """Import a part on first use: together they would take a tenth of the time that all the rest takes."""
        if name in _CLASSES:
            return getattr(importlib.import_module(f"{__name__}.{_CLASSES[name]}"), name)
        if name in _ON_FIRST_USE:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ON_FIRST_USE})
