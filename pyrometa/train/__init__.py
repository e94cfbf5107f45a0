"""Meta-training that can be stopped and resumed anywhere, by one process or several."""

from pyrometa.train.callbacks import Callback, Moment
from pyrometa.train.interrupts import Interrupted
from pyrometa.train.result import Result
from pyrometa.train.trainer import Trainer

__all__ = ["Callback", "Interrupted", "Moment", "Result", "Trainer"]
