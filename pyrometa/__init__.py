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
from pyrometa.errors import LoopWarning, NonFiniteError, NotInitialisedError, ReachError, UnsupportedProgramError
from pyrometa.functional import AdaptedGuide
from pyrometa.inner import SGD, SVGD, Adam, LearnedOptimiser, Momentum, Preconditioned, ProximalSGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Displacement, Implicit, Unrolled
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
    "LearnedOptimiser",
    "LoopWarning",
    "MetaSVI",
    "Momentum",
    "NonFiniteError",
    "NotInitialisedError",
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
