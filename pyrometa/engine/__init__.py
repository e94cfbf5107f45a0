"""How tasks are run."""

from pyrometa.engine.options import Engine
from pyrometa.engine.problem import PathFunction, Problem, ScoredPath
from pyrometa.engine.report import EngineReport
from pyrometa.engine.runner import Runner, Runners

__all__ = ["Engine", "EngineReport", "PathFunction", "Problem", "Runner", "Runners", "ScoredPath"]
