"""How many tasks are run."""

from pyrometa.engine.engine import Engine
from pyrometa.engine.problem import Problem, Run, Work

__all__ = ["Engine", "Problem", "Run", "Work"]
