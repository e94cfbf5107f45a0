"""A recorded graph, with fewer and cheaper operations that give the same numbers."""

from pyrometa.recording.simplify.simplify import simplified

__all__ = ["simplified"]
