"""Meta-learned amortised variational inference for Pyro."""

from pyrometa.engine import Engine
from pyrometa.errors import LoopWarning, NonFiniteError, NotInitialisedError, ReachError, UnsupportedProgramError
from pyrometa.functional import AdaptedGuide
from pyrometa.inner import SGD
from pyrometa.metasvi import MetaSVI
from pyrometa.outer import Unrolled

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AdaptedGuide",
    "Engine",
    "LoopWarning",
    "MetaSVI",
    "NonFiniteError",
    "NotInitialisedError",
    "ReachError",
    "Unrolled",
    "UnsupportedProgramError",
]
