"""Nests of tensors and numbers in files that are whole or not there, checked when read, with nothing pickled."""

from pyrometa.saving.checkpoints import Newest, newest, read, write
from pyrometa.saving.generators import generators, set_generators

META = "meta"
"""The kind of a checkpoint that holds a MetaSVI, with a run besides or without."""

__all__ = ["META", "Newest", "generators", "newest", "read", "set_generators", "write"]
