"""What binds Pyro: (model, guide, ELBO) as a pure loss of (parameters, data, noise)."""

from pyrometa.program.adapted import AdaptedGuide, AdaptedModel
from pyrometa.program.given import Given, Reduction
from pyrometa.program.leaves import Leaf
from pyrometa.program.objectives import Objective
from pyrometa.program.particle_draws import checked_noise
from pyrometa.program.program import Program
from pyrometa.program.selection import Selection, select

__all__ = [
    "AdaptedGuide",
    "AdaptedModel",
    "Given",
    "Leaf",
    "Objective",
    "Program",
    "Reduction",
    "Selection",
    "checked_noise",
    "select",
]
