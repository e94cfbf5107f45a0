"""CIFAR-FS: CIFAR-100's classes, split into those to meta-train on and those to meet anew."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pyrometa.tasks.torchvision_files import read_dataset

__all__ = ["CifarFS", "ClassImages", "load_cifar_fs"]


class ClassImages(NamedTuple):
    """Colour images of some classes.

    Attributes:
        images: float32 in [0, 1], shape ``(n, 3, 32, 32)``.
        labels: which class it is, int64, shape ``(n,)``: its place among the names of all 100 in alphabetical order.
    """

    images: Tensor
    labels: Tensor


class CifarFS(NamedTuple):
    """CIFAR-FS's three parts, which share no class; 600 images of each.

    Attributes:
        train: 64 classes, for meta-training.
        validation: 16 classes, for choosing settings.
        test: 20 classes, for the final figures.
        classes: the name of each label, 100 of them.
    """

    train: ClassImages
    validation: ClassImages
    test: ClassImages
    classes: tuple[str, ...]


def load_cifar_fs(root: str | Path, *, download: bool = False) -> CifarFS:
    """Load CIFAR-100 by the classes of CIFAR-FS: 64 to meta-train on, 16 to validate on, 20 to test on.

    All 600 images of a class are taken, those of CIFAR-100's training file first.

    Args:
        root: the directory that holds torchvision's ``cifar-100-python``.
        download: whether torchvision may fetch missing files into ``root``; nothing is fetched otherwise.

    Returns:
        CifarFS: ``train``, ``validation`` and ``test``, float32 in [0, 1]; 740 MB in all.

    Raises:
        ModuleNotFoundError: if torchvision is not installed; says how to install it.
        FileNotFoundError: if torchvision's files are not under ``root`` and ``download`` is false.

    Reference:
        Bertinetto, Henriques, Torr, Vedaldi (2019), Meta-learning with differentiable closed-form solvers,
        https://arxiv.org/abs/1805.08136

    Example:
        Few-shot classification, and tasks of one class at one angle::

            data = load_cifar_fs("data", download=True)
            sampler = FewShotTasks(*data.train, ways=5).sampler(shots=1, queries=15, seed=0)

            everything = torch.arange(len(data.train.labels))
            turned = DigitTasks(*data.train, everything, angles=(-30.0, 30.0))
            sampler = TaskSampler(turned, shots=10, queries=10, seed=0)
    """
    parts = [
        read_dataset("CIFAR100", "cifar-fs", root, folder="cifar-100-python", train=train, download=download)
        for train in (True, False)
    ]
    names = parts[0].classes
    pixels = torch.cat([torch.from_numpy(part.data) for part in parts]).movedim(-1, 1)
    labels = torch.tensor([label for part in parts for label in part.targets])

    def of(classes: str) -> ClassImages:
        chosen = torch.isin(labels, torch.tensor([names.index(name) for name in classes.split()]))
        return ClassImages(pixels[chosen].float() / 255, labels[chosen])

    return CifarFS(of(_TRAIN), of(_VALIDATION), of(_TEST), tuple(names))


_TRAIN = """
    apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach couch
    cup dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster
    mountain mouse mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum rabbit raccoon
    ray road seal shrew skunk skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip
    turtle willow_tree wolf
"""
_VALIDATION = """
    beaver beetle butterfly camel cattle crab crocodile flatfish lamp maple_tree motorcycle otter sea shark
    television tractor
"""
_TEST = """
    baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy rocket rose snail sweet_pepper table
    telephone wardrobe whale woman worm
"""
