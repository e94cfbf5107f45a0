"""Figures from numbers: each function returns a matplotlib ``Figure``, and touches no pyplot state."""

from pyrometa.plots.adaptation import COLORS, adaptation_curves, reconstructions
from pyrometa.plots.trust import coverage_curve, gap_curves, importance_weights, rank_curves

__all__ = [
    "COLORS",
    "adaptation_curves",
    "coverage_curve",
    "gap_curves",
    "importance_weights",
    "rank_curves",
    "reconstructions",
]
