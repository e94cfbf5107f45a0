"""Inner rules, one file each, and the one adaptation loop."""

from pyrometa.inner.adaptation import Order, Path, adapt
from pyrometa.inner.finite import all_finite
from pyrometa.inner.rule import InnerRule
from pyrometa.inner.sgd import SGD
from pyrometa.inner.steps import step_count, step_counts

__all__ = ["SGD", "InnerRule", "Order", "Path", "adapt", "all_finite", "step_count", "step_counts"]
