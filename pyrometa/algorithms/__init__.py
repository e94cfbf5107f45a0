"""Named algorithms: each a choice on the three axes, with its paper's defaults where a paper gives them.

``**options`` are the other options of :class:`~pyrometa.MetaSVI`: ``adapt``, ``reduction``, ``score`` and ``engine``.
"""

from pyrometa.algorithms.imaml import imaml
from pyrometa.algorithms.learned_rates import lslr, meta_sgd
from pyrometa.algorithms.learned_steps import learned_optimizer, meta_curvature
from pyrometa.algorithms.maml import anil, fomaml, maml
from pyrometa.algorithms.reptile import reptile

__all__ = ["anil", "fomaml", "imaml", "learned_optimizer", "lslr", "maml", "meta_curvature", "meta_sgd", "reptile"]
