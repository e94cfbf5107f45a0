"""The only part of pyrometa that binds Pyro: (model, guide, ELBO) as a pure loss."""

from pyrometa.functional import guards, second_order
from pyrometa.functional.adapted import AdaptedGuide, AdaptedModel
from pyrometa.functional.draws import draw_noise
from pyrometa.functional.exclusive import exclusive
from pyrometa.functional.fingerprint import Fingerprint
from pyrometa.functional.interrupts import check_interrupt
from pyrometa.functional.leaves import Leaf
from pyrometa.functional.packing import pack, unpack
from pyrometa.functional.pickled import own
from pyrometa.functional.program import Program
from pyrometa.functional.promoted import Promoted, promoted
from pyrometa.functional.reasons import naming_lines, reason, told
from pyrometa.functional.selection import Selection, select
from pyrometa.functional.untouched import left_alone
from pyrometa.functional.where import stacklevel

__all__ = [
    "AdaptedGuide",
    "AdaptedModel",
    "Fingerprint",
    "Leaf",
    "Program",
    "Promoted",
    "Selection",
    "check_interrupt",
    "draw_noise",
    "exclusive",
    "guards",
    "left_alone",
    "naming_lines",
    "own",
    "pack",
    "promoted",
    "reason",
    "second_order",
    "select",
    "stacklevel",
    "told",
    "unpack",
]
