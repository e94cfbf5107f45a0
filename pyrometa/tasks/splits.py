"""Disjoint meta-train, meta-validation and meta-test tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrometa.tasks.digits import Angles, DigitTasks, check_angles, check_images
from pyrometa.tasks.images import every_fifth_of_each_class

__all__ = ["TaskSplits", "digit_tasks"]


class TaskSplits(NamedTuple):
    """Families of tasks that share no task and no image.

    Attributes:
        train: for meta-training.
        validation: for choosing settings.
        test: for the final figures.
    """

    train: DigitTasks
    validation: DigitTasks
    test: DigitTasks


def digit_tasks(
    images: Tensor,
    labels: Tensor,
    *,
    train_classes: Sequence[int] = (0, 1, 2, 3, 4, 5, 6),
    test_classes: Sequence[int] = (7, 8, 9),
    train_angles: Angles = (-90.0, 90.0),
    validation_angles: Angles = (90.0, 180.0),
    test_angles: Angles = (-180.0, 180.0),
) -> TaskSplits:
    """Split digits into disjoint meta-train, meta-validation and meta-test tasks.

    ========== ================= ===================== ===========================================
    split      classes           angles                images
    ========== ================= ===================== ===========================================
    train      ``train_classes`` ``train_angles``      four fifths of each class
    validation ``train_classes`` ``validation_angles`` every fifth of each class, never trained on
    test       ``test_classes``  ``test_angles``       all of these classes
    ========== ================= ===================== ===========================================

    Meta-test tasks are new by their class, at any angle; meta-validation tasks by their angle and images.
    Images of other classes are left out.

    Args:
        images: square images in [0, 1], shape ``(n, size, size)`` or ``(n, channels, size, size)``.
        labels: their classes, int64, shape ``(n,)``.
        train_classes: the classes of meta-train and meta-validation.
        test_classes: the classes of meta-test.
        train_angles: ``(low, high)`` in degrees, counter-clockwise, ``low`` included and ``high`` not.
        validation_angles: the same; must not overlap ``train_angles``.
        test_angles: the same; free to overlap, as the classes differ.

    Returns:
        TaskSplits: three :class:`DigitTasks`; ``classes``, ``angles`` and ``index`` show what each holds.

    Raises:
        TypeError: see :class:`DigitTasks`.
        ValueError: if classes or angles overlap, or a class has no image (for a training class, fewer than
            two); and see :class:`DigitTasks`.

    Example:
        >>> from pyrometa.tasks import digit_tasks, load_images
        >>> data = load_images("digits")
        >>> splits = digit_tasks(data.train_x, data.train_y)
        >>> [(family.classes, family.angles, len(family.index)) for family in splits]
        [([0, 1, 2, 3, 4, 5, 6], (-90.0, 90.0), 2240),
         ([0, 1, 2, 3, 4, 5, 6], (90.0, 180.0), 560),
         ([7, 8, 9], (-180.0, 180.0), 1200)]
    """
    check_images(images, labels)
    _check_classes(labels, train_classes, test_classes)
    check_angles("train_angles", train_angles)
    check_angles("validation_angles", validation_angles)
    check_angles("test_angles", test_angles)
    if _overlap(train_angles, validation_angles):
        raise ValueError(
            f"train_angles {train_angles} and validation_angles {validation_angles} overlap: give ranges that are apart"
        )
    seen = torch.isin(labels, torch.tensor(train_classes))
    unseen = torch.isin(labels, torch.tensor(test_classes))
    held_out = every_fifth_of_each_class(labels)
    masks = {"train": seen & ~held_out, "validation": seen & held_out, "test": unseen}
    angles = {"train": train_angles, "validation": validation_angles, "test": test_angles}
    index = {split: mask.nonzero().squeeze(1) for split, mask in masks.items()}
    return TaskSplits(**{split: DigitTasks(images, labels, index[split], angles[split]) for split in masks})


def _overlap(a: Angles, b: Angles) -> bool:
    """Whether two arcs meet on the circle: one of them starts within the other."""

    def starts_within(inner: Angles, outer: Angles) -> bool:
        offset = (inner[0] - outer[0]) % 360
        return offset == 0 or offset < outer[1] - outer[0]

    return starts_within(a, b) or starts_within(b, a)


def _check_classes(labels: Tensor, train: Sequence[int], test: Sequence[int]) -> None:
    if shared := sorted(set(train) & set(test)):
        raise ValueError(f"train_classes and test_classes share {shared}: a meta-test class must be unseen")
    for name, classes, least in (("train_classes", train, 2), ("test_classes", test, 1)):
        if len(classes) == 0:
            raise ValueError(f"{name} is empty: name at least one class")
        for label in classes:
            if (count := int((labels == label).sum())) < least:
                raise ValueError(f"{name} names class {label}, of which there are {count} images")
