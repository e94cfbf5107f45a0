"""Pure functions that return numbers: how good is a fit, and what is lost where?"""

from pyrometa.diagnostics.annealed import AIS, ais_log_evidence
from pyrometa.diagnostics.calibration import Reliability, brier_score, expected_calibration_error, reliability
from pyrometa.diagnostics.convergence import steps_until
from pyrometa.diagnostics.gap_report import GapReport, gap_report
from pyrometa.diagnostics.gaps import InferenceGaps, inference_gaps
from pyrometa.diagnostics.importance import PSIS, psis
from pyrometa.diagnostics.inference_data import to_arviz
from pyrometa.diagnostics.iwae import elbo, iwae_log_marginal, iwae_nll
from pyrometa.diagnostics.joint_coverage import Coverage, coverage
from pyrometa.diagnostics.local_two_samples import LC2ST, lc2st
from pyrometa.diagnostics.pareto import pareto_smoothed
from pyrometa.diagnostics.predictive import crps, interval_score, log_predictive_density
from pyrometa.diagnostics.rank_calibration import SBC, sbc
from pyrometa.diagnostics.two_samples import C2ST, c2st

__all__ = [
    "AIS",
    "C2ST",
    "LC2ST",
    "PSIS",
    "SBC",
    "Coverage",
    "GapReport",
    "InferenceGaps",
    "Reliability",
    "ais_log_evidence",
    "brier_score",
    "c2st",
    "coverage",
    "crps",
    "elbo",
    "expected_calibration_error",
    "gap_report",
    "inference_gaps",
    "interval_score",
    "iwae_log_marginal",
    "iwae_nll",
    "lc2st",
    "log_predictive_density",
    "pareto_smoothed",
    "psis",
    "reliability",
    "sbc",
    "steps_until",
    "to_arviz",
]
