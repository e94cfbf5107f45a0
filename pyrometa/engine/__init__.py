"""How many tasks are run: the loop, one task at a time."""

from pyrometa.engine.engine import Engine
from pyrometa.engine.problem import Problem

__all__ = ["Engine", "Problem"]
