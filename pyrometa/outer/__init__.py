"""Meta-gradients, one file each, and the optimiser of the outer loop."""

from pyrometa.outer.displacement import Displacement
from pyrometa.outer.implicit import Implicit
from pyrometa.outer.meta_batch import check_finite, loss_and_grads, scores
from pyrometa.outer.meta_gradient import MetaGradient
from pyrometa.outer.optimizer import Optim, OuterOptimizer
from pyrometa.outer.unrolled import Unrolled

__all__ = [
    "Displacement",
    "Implicit",
    "MetaGradient",
    "Optim",
    "OuterOptimizer",
    "Unrolled",
    "check_finite",
    "loss_and_grads",
    "scores",
]
