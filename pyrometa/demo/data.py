"""The demo's tasks: binarised digits, one class at one angle a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrometa.demo.config import DemoConfig
from pyrometa.tasks import DigitTasks, MetaBatch, TaskSampler, digit_tasks, load_images

__all__ = ["DemoTasks", "demo_tasks"]


@dataclass(frozen=True)
class _Binarized:
    """Images whose pixels are white with the grey value's probability, so that a Bernoulli is their likelihood."""

    family: DigitTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        return torch.bernoulli(self.family.draw(tasks, rows, generator), generator=generator)


class DemoTasks(NamedTuple):
    """Tasks of the demo.

    Attributes:
        pooled: draws the minibatches of SVI.
        train: draws the meta-batches.
        validation: fixed tasks, to choose an inner rate on.
        test: fixed tasks of unseen classes.
    """

    pooled: TaskSampler
    train: TaskSampler
    validation: MetaBatch
    test: MetaBatch


def demo_tasks(config: DemoConfig) -> DemoTasks:
    """Split the embedded digits: 0-6 from -90 to 90 degrees to train on, 7-9 at any angle to test on."""
    data = load_images("digits")
    images, labels = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    splits = digit_tasks(images, labels)

    def sampler(family: DigitTasks, stream: int) -> TaskSampler:
        return TaskSampler(
            _Binarized(family), shots=config.support, queries=config.query, seed=4 * config.seed + stream
        )

    return DemoTasks(
        pooled=sampler(splits.train, 0),
        train=sampler(splits.train, 1),
        validation=sampler(splits.validation, 2).sample(config.validation_tasks),
        test=sampler(splits.test, 3).sample(config.test_tasks),
    )
