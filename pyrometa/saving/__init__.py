"""Nests of tensors and numbers in files that are whole or not there, checked when read, with nothing pickled."""

from pyrometa.saving.checkpoints import Newest, newest, read, write
from pyrometa.saving.generators import generators, set_generators

__all__ = ["Newest", "generators", "newest", "read", "set_generators", "write"]
