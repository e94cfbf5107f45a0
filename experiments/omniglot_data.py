"""What the experiments on Omniglot share: their options and their data."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pyrometa.tasks import Characters, DigitTasks, OmniglotData, load_images, load_omniglot


@dataclass(frozen=True)
class Drawings:
    """Drawings of one character or alphabet, each pixel ink with its grey value's probability."""

    family: DigitTasks

    def draw(self, tasks: int, rows: int, generator: torch.Generator) -> Tensor:
        """Draw tasks and binary drawings of each, ``(tasks, rows, pixels)``."""
        return torch.bernoulli(self.family.draw(tasks, rows, generator), generator=generator)


def parser(description: str, out: str) -> argparse.ArgumentParser:
    """The options that the experiments share."""
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


def binarized(images: Tensor, seed: int) -> Tensor:
    """Each pixel is ink with its grey value's probability, so that a Bernoulli is its likelihood."""
    return torch.bernoulli(images, generator=torch.Generator().manual_seed(seed))
