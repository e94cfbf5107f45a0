"""Figures from numbers: each function returns a matplotlib ``Figure``, and touches no pyplot state."""

from pyrometa.plots.adaptation import COLORS, adaptation_curves, query_curve, reconstructions
from pyrometa.plots.trust import (
    coverage_curve,
    gap_curves,
    importance_weights,
    null_histogram,
    rank_curves,
    tails,
    told_apart,
)

__all__ = [
    "COLORS",
    "adaptation_curves",
    "coverage_curve",
    "gap_curves",
    "importance_weights",
    "null_histogram",
    "query_curve",
    "rank_curves",
    "reconstructions",
    "tails",
    "told_apart",
]
