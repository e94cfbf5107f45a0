"""What ``pyrometa demo`` runs: unseen digit tasks from a pooled and a meta-learned start."""

from pyrometa.demo.config import DemoConfig
from pyrometa.demo.recipe import RECIPE
from pyrometa.demo.run import Demo
from pyrometa.demo.table import table

__all__ = ["RECIPE", "Demo", "DemoConfig", "table"]
