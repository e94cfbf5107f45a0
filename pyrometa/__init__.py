"""Meta-learned amortised variational inference for Pyro."""

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
from pyrometa.engine import Engine
from pyrometa.errors import LoopWarning, NonFiniteError, NotInitializedError, ReachError, UnsupportedProgramError
from pyrometa.inner import SGD, SVGD, Adam, LearnedOptimizer, Momentum, Preconditioned, ProximalSGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Displacement, Implicit, Unrolled
from pyrometa.program.adapted import AdaptedGuide
from pyrometa.scores import PredictiveLoss

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "SVGD",
    "Adam",
    "AdaptedGuide",
    "Displacement",
    "Engine",
    "Implicit",
    "LearnedOptimizer",
    "LoopWarning",
    "MetaSVI",
    "Momentum",
    "NonFiniteError",
    "NotInitializedError",
    "Preconditioned",
    "PredictiveLoss",
    "ProximalSGD",
    "ReachError",
    "Unrolled",
    "UnsupportedProgramError",
    "anil",
    "fomaml",
    "imaml",
    "learned_optimizer",
    "lslr",
    "maml",
    "meta_curvature",
    "meta_sgd",
    "reptile",
]
