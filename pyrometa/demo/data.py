"""The demo's tasks: one class of digits at one angle a task, taken by a camera with stuck pixels of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrometa.demo.config import DemoConfig
from pyrometa.tasks import DigitTasks, MetaBatch, TaskSampler, digit_tasks, load_images

__all__ = ["STUCK", "DemoTasks", "demo_tasks"]

STUCK = 0.1
"""The share of a camera's pixels that are stuck."""


@dataclass(frozen=True)
class _Camera:
    """Binary images of a task, in which the same pixels are stuck: half of them white, half of them black.

    Any other pixel is white with the grey value's probability, so that a Bernoulli is its likelihood.
    """

    family: DigitTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        images = torch.bernoulli(self.family.draw(tasks, rows, generator), generator=generator)
        luck = torch.rand(tasks, 1, images.shape[-1], generator=generator, device=generator.device)
        return images.masked_fill(luck < STUCK, 0.0).masked_fill(luck < STUCK / 2, 1.0)


class DemoTasks(NamedTuple):
    """Tasks of the demo.

    Attributes:
        pooled: draws the minibatches of SVI.
        train: draws the meta-batches.
        validation: fixed tasks, to choose on how the pooled VAE adapts.
        test: fixed tasks of unseen classes.
    """

    pooled: TaskSampler
    train: TaskSampler
    validation: MetaBatch
    test: MetaBatch


def demo_tasks(config: DemoConfig) -> DemoTasks:
    """Split the embedded digits: 0-6 from -90 to 90 degrees to train on, 7-9 at any angle to test on.

    Every task has a camera of its own.
    """
    data = load_images("digits")
    images, labels = torch.cat([data.train_x, data.test_x]), torch.cat([data.train_y, data.test_y])
    splits = digit_tasks(images, labels)

    def sampler(family: DigitTasks, stream: int) -> TaskSampler:
        return TaskSampler(_Camera(family), shots=config.support, queries=config.query, seed=4 * config.seed + stream)

    return DemoTasks(
        pooled=sampler(splits.train, 0),
        train=sampler(splits.train, 1),
        validation=sampler(splits.validation, 2).sample(config.validation_tasks),
        test=sampler(splits.test, 3).sample(config.test_tasks),
    )
