"""What the code of a program can read: by kind of value, by name in the code, and what can't be watched at all."""

from pyrometa.recording.watch.classes import attributes_flat, slots
from pyrometa.recording.watch.code import fields_of, named_by, names_of
from pyrometa.recording.watch.kinds import kind_of
from pyrometa.recording.watch.outside import is_foreign
from pyrometa.recording.watch.ways import PLAIN, ByCopy, ByParts, NamedParts

__all__ = [
    "PLAIN",
    "ByCopy",
    "ByParts",
    "NamedParts",
    "attributes_flat",
    "fields_of",
    "is_foreign",
    "kind_of",
    "named_by",
    "names_of",
    "slots",
]
