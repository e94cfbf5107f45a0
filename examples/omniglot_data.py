"""What the Omniglot examples share: their options, their data, and means."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pyrometa.tasks import Characters, OmniglotData, load_images, load_omniglot


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options that the examples share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path("data"), help="the directory of torchvision's Omniglot")
    parser.add_argument("--download", action="store_true", help="fetch Omniglot into --root if it is not there")
    parser.add_argument("--quick", action="store_true", help="ten digits for Omniglot and tiny counts: proves nothing")
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--seed", type=int, default=0)
    return parser


def load(args: argparse.Namespace) -> OmniglotData:
    """Omniglot at 28x28, or with ``--quick`` its stand-in: digits 0-4 to learn from and 5-9 unseen."""
    if not args.quick:
        return load_omniglot(args.root, download=args.download)
    data = load_images("digits")
    seen = data.train_y < 5
    return OmniglotData(*(_characters(data.train_x[rows], data.train_y[rows]) for rows in (seen, ~seen)))


def _characters(images: Tensor, labels: Tensor) -> Characters:
    return Characters(images, labels, labels % 2)  # two "alphabets"


def mean_and_error(values: Tensor) -> dict[str, float]:
    """A mean and its standard error."""
    return {"mean": values.mean().item(), "se": (values.std() / len(values) ** 0.5).item()}


def binarised(images: Tensor, seed: int) -> Tensor:
    """Each pixel is ink with its grey value's probability, so that a Bernoulli is its likelihood."""
    return torch.bernoulli(images, generator=torch.Generator().manual_seed(seed))
