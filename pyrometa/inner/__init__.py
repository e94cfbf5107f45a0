"""Inner rules, one file each, and the one adaptation loop."""

from pyrometa.inner.adam import Adam
from pyrometa.inner.adaptation import GradientOrder, Path, adapt, not_finite, one_step
from pyrometa.inner.arrow import Arrow
from pyrometa.inner.blocks import Blocks
from pyrometa.inner.cures import cure
from pyrometa.inner.finite import all_finite, are_finite, bad_rows, read, sums
from pyrometa.inner.learned_optimizer import LearnedOptimizer
from pyrometa.inner.momentum import Momentum
from pyrometa.inner.natural_gradient import NaturalGradient
from pyrometa.inner.newton import Newton
from pyrometa.inner.over_rows import over_rows
from pyrometa.inner.preconditioned import Preconditioned
from pyrometa.inner.proximal import ProximalSGD
from pyrometa.inner.rule import (
    BlockRule,
    GeometricRule,
    GradientDescent,
    InnerRule,
    LossRule,
    MomentumDescent,
    ReadingRule,
    Rule,
)
from pyrometa.inner.sgd import SGD
from pyrometa.inner.steps import step_count, step_counts
from pyrometa.inner.surface import RowLosses, Surface
from pyrometa.inner.svgd import SVGD
from pyrometa.inner.task_rows import TaskRows

__all__ = [
    "SGD",
    "SVGD",
    "Adam",
    "Arrow",
    "BlockRule",
    "Blocks",
    "GeometricRule",
    "GradientDescent",
    "GradientOrder",
    "InnerRule",
    "LearnedOptimizer",
    "LossRule",
    "Momentum",
    "MomentumDescent",
    "NaturalGradient",
    "Newton",
    "Path",
    "Preconditioned",
    "ProximalSGD",
    "ReadingRule",
    "RowLosses",
    "Rule",
    "Surface",
    "TaskRows",
    "adapt",
    "all_finite",
    "are_finite",
    "bad_rows",
    "cure",
    "not_finite",
    "one_step",
    "over_rows",
    "read",
    "step_count",
    "step_counts",
    "sums",
]
