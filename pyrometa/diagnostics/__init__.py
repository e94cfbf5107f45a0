"""Pure functions that return numbers: how good is a fit, and what is lost where?"""

from pyrometa.diagnostics.calibration import Reliability, brier_score, expected_calibration_error, reliability
from pyrometa.diagnostics.convergence import steps_until
from pyrometa.diagnostics.gaps import InferenceGaps, inference_gaps
from pyrometa.diagnostics.iwae import elbo, iwae_log_marginal, iwae_nll
from pyrometa.diagnostics.pareto import pareto_smoothed
from pyrometa.diagnostics.psis import PSIS, psis

__all__ = [
    "PSIS",
    "InferenceGaps",
    "Reliability",
    "brier_score",
    "elbo",
    "expected_calibration_error",
    "inference_gaps",
    "iwae_log_marginal",
    "iwae_nll",
    "pareto_smoothed",
    "psis",
    "reliability",
    "steps_until",
]
