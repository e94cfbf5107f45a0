"""Pure functions that return numbers: how good is a fit, and what is lost where?"""

from pyrometa.diagnostics.calibration import Reliability, brier_score, expected_calibration_error, reliability
from pyrometa.diagnostics.convergence import steps_until
from pyrometa.diagnostics.gaps import InferenceGaps, inference_gaps
from pyrometa.diagnostics.iwae import elbo, iwae_log_marginal, iwae_nll

__all__ = [
    "InferenceGaps",
    "Reliability",
    "brier_score",
    "elbo",
    "expected_calibration_error",
    "inference_gaps",
    "iwae_log_marginal",
    "iwae_nll",
    "reliability",
    "steps_until",
]
