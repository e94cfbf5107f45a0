"""A recorded graph, with fewer and cheaper operations that give the same numbers."""

from pyrometa.engine.graph.simplify import simplified

__all__ = ["simplified"]
