"""Posteriors of the groups of a table: tables in, tables out."""

from pyrometa.adapter.adapter import Adapter
from pyrometa.adapter.parts import Done
from pyrometa.adapter.streaming import Adapted, adapt_files

__all__ = ["Adapted", "Adapter", "Done", "adapt_files"]
