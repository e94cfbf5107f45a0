"""Posteriors of the groups of a table: tables in, tables out."""

from pyrometa.adapter.adapter import Adapter

__all__ = ["Adapter"]
