"""How tasks are run."""

from pyrometa.engine.options import Engine
from pyrometa.engine.problem import PathFunction, Problem, ScoredPath
from pyrometa.engine.runner import Runner, Runners

__all__ = ["Engine", "PathFunction", "Problem", "Runner", "Runners", "ScoredPath"]
