"""The only part of pyrometa that binds Pyro: (model, guide, ELBO) as a pure loss."""

from pyrometa.functional import guards
from pyrometa.functional.adapted import AdaptedGuide, AdaptedModel
from pyrometa.functional.leaves import Leaf
from pyrometa.functional.noise import draw_noise
from pyrometa.functional.program import Program
from pyrometa.functional.selection import Selection, select

__all__ = ["AdaptedGuide", "AdaptedModel", "Leaf", "Program", "Selection", "draw_noise", "guards", "select"]
