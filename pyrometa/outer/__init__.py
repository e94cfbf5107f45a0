"""Meta-gradients, one file each, and the optimiser of the outer loop."""

from pyrometa.outer.displacement import Displacement
from pyrometa.outer.implicit import Implicit
from pyrometa.outer.meta_batch import Loss, checked_loss, loss_and_grads, of_replay, scores
from pyrometa.outer.meta_gradient import MetaGradient
from pyrometa.outer.optimizer import Optim, OuterOptimizer
from pyrometa.outer.unrolled import Unrolled

__all__ = [
    "Displacement",
    "Implicit",
    "Loss",
    "MetaGradient",
    "Optim",
    "OuterOptimizer",
    "Unrolled",
    "checked_loss",
    "loss_and_grads",
    "of_replay",
    "scores",
]
