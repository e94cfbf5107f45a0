"""What the code of a program can read: by kind of value, by name in the code, and what can't be watched at all."""

from pyrometa.functional.watching.kinds import PLAIN, Parts, Value, kind_of
from pyrometa.functional.watching.outside import refuse

__all__ = ["PLAIN", "Parts", "Value", "kind_of", "refuse"]
