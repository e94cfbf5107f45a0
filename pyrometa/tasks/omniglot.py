"""Omniglot's characters, with the split of its authors."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pyrometa.tasks.checks import positive
from pyrometa.tasks.optional import import_package

__all__ = ["Characters", "OmniglotData", "load_omniglot"]


class Characters(NamedTuple):
    """Handwritten characters: each one a class of its own, and each of an alphabet.

    Attributes:
        images: ink 1 on paper 0, float32 in [0, 1], shape ``(n, size, size)``.
        labels: which character it is, int64, shape ``(n,)``.
        alphabets: which alphabet that belongs to, int64, shape ``(n,)``.
    """

    images: Tensor
    labels: Tensor
    alphabets: Tensor


class OmniglotData(NamedTuple):
    """Omniglot's two parts, which share no character and no alphabet.

    Attributes:
        background: 964 characters of 30 alphabets (labels 0 to 963), each by 20 drawers: for meta-training.
        evaluation: 659 characters of 20 alphabets (labels 964 to 1622), each by 20 drawers: for the final figures.
    """

    background: Characters
    evaluation: Characters


def load_omniglot(root: str | Path, *, size: int = 28, download: bool = False) -> OmniglotData:
    """Load Omniglot with its official split, scaled down and inverted.

    Characters are numbered in the order of their alphabets' and their own names, whatever the file system's order.
    Meta-validation characters are some of the background ones: ``FewShotTasks(..., classes=range(800, 964))``.

    Args:
        root: the directory that holds torchvision's ``omniglot-py``.
        size: pixels along a side; scaled down from 105 by antialiased bilinear interpolation.
        download: whether torchvision may fetch missing files into ``root``.

    Returns:
        OmniglotData: ``background`` and ``evaluation``, float32 in [0, 1].

    Raises:
        TypeError: if ``size`` is not an integer.
        ValueError: if ``size`` is below 1.
        ModuleNotFoundError: if torchvision is not installed; says how to install it.
        FileNotFoundError: if torchvision's files are not under ``root`` and ``download`` is false.

    Reference:
        Lake, Salakhutdinov, Tenenbaum (2015), Human-level concept learning through probabilistic program induction,
        https://doi.org/10.1126/science.aab3050

    Example:
        Few-shot classification, and one-character generation tasks::

            background, evaluation = load_omniglot("data", download=True)
            train = FewShotTasks(background.images[:, None], background.labels, ways=5, quarter_turns=True)
            sampler = train.sampler(shots=1, queries=15, seed=0)

            everything = torch.arange(len(background.labels))
            characters = DigitTasks(background.images, background.labels, everything, angles=(0.0, 0.0))
            sampler = TaskSampler(characters, shots=10, queries=10, seed=0)

        With ``background.alphabets`` as the labels, each task is an alphabet.
    """
    positive("size", size)
    background = _read(root, size, background=True, download=download)
    evaluation = _read(root, size, background=False, download=download)
    return OmniglotData(
        background,
        Characters(
            evaluation.images,
            evaluation.labels + 1 + background.labels.max(),
            evaluation.alphabets + 1 + background.alphabets.max(),
        ),
    )


def _read(root: str | Path, size: int, *, background: bool, download: bool) -> Characters:
    datasets = import_package("torchvision.datasets", "the image set 'omniglot'", "pyrometa[digits]")
    try:
        dataset = datasets.Omniglot(root, background=background, download=download)
    except RuntimeError as error:
        if download:
            raise
        raise FileNotFoundError(
            f"no archives of 'omniglot' that torchvision accepts in {Path(root, 'omniglot-py')}: pass another root=, "
            "or download=True (the zip files must stay beside the images)"
        ) from error
    characters = sorted(path for path in Path(dataset.target_folder).glob("*/*") if path.is_dir())
    images, labels, alphabets = [], [], []
    names = sorted({path.parent.name for path in characters})
    for label, character in enumerate(characters):
        drawings = _drawings(character, size)
        images.append(drawings)
        labels += [label] * len(drawings)
        alphabets += [names.index(character.parent.name)] * len(drawings)
    return Characters(torch.cat(images), torch.tensor(labels), torch.tensor(alphabets))


def _drawings(folder: Path, size: int) -> Tensor:
    """One character's drawings in the order of their names, shape ``(drawers, size, size)``."""
    from PIL import Image  # comes with torchvision

    pixels = [np.array(Image.open(path).convert("L")) for path in sorted(folder.glob("*.png"))]
    paper = torch.from_numpy(np.stack(pixels)).float() / 255
    ink = interpolate(1 - paper[:, None], (size, size), mode="bilinear", antialias=True)
    return ink[:, 0].clamp(0, 1)
