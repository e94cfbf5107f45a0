"""A torchvision-style dataset as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["stack_images"]


def stack_images(dataset: Any) -> tuple[Tensor, Tensor]:
    """Read a torchvision-style dataset into tensors, as :class:`FewShotTasks` and :class:`DigitTasks` take them.

    Args:
        dataset: has a length, and an ``(image, label)`` at each index: the image a PIL image, an array or a tensor,
            all of one shape (a ``transform=`` of the dataset can see to that).

    Returns:
        images, float32, shape ``(n, *image)``, and labels, int64, shape ``(n,)``. Bytes are divided by 255; a PIL image
        or an array with channels has them moved to the front.

    Raises:
        ValueError: if the dataset is empty, or images differ in shape.

    Example:
        >>> import torch
        >>> from pyrometa.tasks import stack_images
        >>> dataset = [(torch.full((1, 8, 8), 255, dtype=torch.uint8), 3)] * 10
        >>> images, labels = stack_images(dataset)
        >>> images.shape, images.max(), labels[0]
        (torch.Size([10, 1, 8, 8]), tensor(1.), tensor(3))
    """
    if len(dataset) == 0:
        raise ValueError("the dataset is empty: it holds no image")
    images, labels = [], []
    for i in range(len(dataset)):
        image, label = dataset[i]
        images.append(_pixels(image))
        labels.append(int(label))
        if images[i].shape != images[0].shape:
            got, first = tuple(images[i].shape), tuple(images[0].shape)
            raise ValueError(f"image {i} has shape {got} and image 0 has {first}: resize them by a transform")
    return torch.stack(images), torch.tensor(labels)


def _pixels(image: Any) -> Tensor:
    if not isinstance(image, Tensor):
        image = torch.from_numpy(np.array(image))
        image = image.movedim(-1, 0) if image.ndim == 3 else image
    return image.float() / 255 if image.dtype == torch.uint8 else image.float()
