"""A guide for any Pyro model without a line of network code."""

from pyrometa.amortize.amortize import Amortize
from pyrometa.amortize.fitting import Progress
from pyrometa.amortize.refinement import Refinement

__all__ = ["Amortize", "Progress", "Refinement"]
