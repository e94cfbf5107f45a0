"""Tasks: what a meta-batch is, where tasks come from, and how they are drawn."""

from pyrometa.tasks.batches import Batches
from pyrometa.tasks.cifar_fs import CifarFS, ClassImages, load_cifar_fs
from pyrometa.tasks.digits import DigitTasks
from pyrometa.tasks.few_shot import FewShotTasks
from pyrometa.tasks.from_table import from_frame, from_parquet
from pyrometa.tasks.groups import GroupedTasks, GroupSampler
from pyrometa.tasks.images import ImageData, load_images
from pyrometa.tasks.meta_batch import MetaBatch
from pyrometa.tasks.omniglot import Characters, OmniglotData, load_omniglot
from pyrometa.tasks.prior import PriorTasks
from pyrometa.tasks.ragged import RaggedBatch
from pyrometa.tasks.regression import SineLineTasks, SinusoidTasks
from pyrometa.tasks.sampler import TaskFamily, TaskSampler
from pyrometa.tasks.splits import TaskSplits, digit_tasks
from pyrometa.tasks.stack import stack_images
from pyrometa.tasks.table import GroupSplits, group_tasks

__all__ = [
    "Batches",
    "Characters",
    "CifarFS",
    "ClassImages",
    "DigitTasks",
    "FewShotTasks",
    "GroupSampler",
    "GroupSplits",
    "GroupedTasks",
    "ImageData",
    "MetaBatch",
    "OmniglotData",
    "PriorTasks",
    "RaggedBatch",
    "SineLineTasks",
    "SinusoidTasks",
    "TaskFamily",
    "TaskSampler",
    "TaskSplits",
    "digit_tasks",
    "from_frame",
    "from_parquet",
    "group_tasks",
    "load_cifar_fs",
    "load_images",
    "load_omniglot",
    "stack_images",
]
