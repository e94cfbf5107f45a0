"""Meta-gradients, one file each, and the optimiser of the outer loop."""

from pyrometa.outer.meta_gradient import MetaGradient, check_finite
from pyrometa.outer.optimiser import Optim, OuterOptimiser
from pyrometa.outer.unrolled import Unrolled

__all__ = ["MetaGradient", "Optim", "OuterOptimiser", "Unrolled", "check_finite"]
