"""Tasks: what a meta-batch is, where tasks come from, and how they are drawn."""

from pyrometa.tasks.digits import DigitTasks
from pyrometa.tasks.images import ImageData, load_images
from pyrometa.tasks.sampler import TaskFamily, TaskSampler
from pyrometa.tasks.splits import TaskSplits, digit_tasks
from pyrometa.tasks.task import Task

__all__ = [
    "DigitTasks",
    "ImageData",
    "Task",
    "TaskFamily",
    "TaskSampler",
    "TaskSplits",
    "digit_tasks",
    "load_images",
]
