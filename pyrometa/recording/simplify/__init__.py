"""A recorded graph, with fewer and cheaper operations that give the same numbers.

``known`` is what can be said of a value before it is there; ``rules`` say which operations change nothing, ``cheaper``
which have a cheaper form; ``slices`` find one operation on all slices of a tensor; ``numbering`` builds a graph by all
of these; ``sums`` takes out of sums what does not change along them; ``in_place`` writes
over what is not needed any more; ``direct`` calls torch's own functions in the end.
"""

from pyrometa.recording.simplify.simplify import simplified

__all__ = ["simplified"]
