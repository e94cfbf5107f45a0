"""Inner rules, one file each, and the one adaptation loop."""

from pyrometa.inner.adam import Adam
from pyrometa.inner.adaptation import GradientOrder, Path, adapt
from pyrometa.inner.finite import all_finite
from pyrometa.inner.learned_optimizer import LearnedOptimizer
from pyrometa.inner.momentum import Momentum
from pyrometa.inner.over_rows import over_rows
from pyrometa.inner.preconditioned import Preconditioned
from pyrometa.inner.proximal import ProximalSGD
from pyrometa.inner.rule import GradientDescent, InnerRule, MomentumDescent
from pyrometa.inner.sgd import SGD
from pyrometa.inner.steps import step_count, step_counts
from pyrometa.inner.svgd import SVGD

__all__ = [
    "SGD",
    "SVGD",
    "Adam",
    "GradientDescent",
    "GradientOrder",
    "InnerRule",
    "LearnedOptimizer",
    "Momentum",
    "MomentumDescent",
    "Path",
    "Preconditioned",
    "ProximalSGD",
    "adapt",
    "all_finite",
    "over_rows",
    "step_count",
    "step_counts",
]
