"""What the results on MNIST share: their options, their data, their intervals and their JSON."""

import argparse
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.files import write_json
from experiments.results.training import half_width
from pyrometa.tasks import load_images

BINARISED_BY = 0
"""The seed by which test images are binarised, the same for all runs."""


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options that the commands share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--root", type=Path, default=Path("data"), help="the directory of torchvision's files")
    parser.add_argument("--download", action="store_true", help="fetch missing files into --root")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("results/networks"), help="where trained networks are kept")
    parser.add_argument("--json", type=Path, default=Path(f"results/{name}.json"), help="where the figures go")
    parser.add_argument("--figure", type=Path, default=Path(f"results/{name}.png"), help="where the plot goes")
    parser.add_argument("--quick", action="store_true", help="4,000 digits, tiny sizes: proves nothing")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--latent", type=int, default=50)
    return parser


def load(name: str, args: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Grey images, training and test, as rows; with ``--quick`` digits, and their negatives for Fashion-MNIST."""
    if args.quick:
        data = load_images("digits")
        found = data.train_x.flatten(1), data.test_x.flatten(1)
        return found if name == "mnist" else (1 - found[0], 1 - found[1])
    data = load_images(name, root=args.root, download=args.download)
    return data.train_x.flatten(1), data.test_x.flatten(1)


def binarized(images: Tensor, seed: int = BINARISED_BY) -> Tensor:
    """Each pixel is white with its grey value's probability."""
    return torch.bernoulli(images, generator=torch.Generator().manual_seed(seed))


def over_seeds(values: Sequence[float]) -> dict[str, Any]:
    """Mean of the seeds' figures and the half width of its 95% interval by Student's t; None of a single seed."""
    found = torch.tensor(values, dtype=torch.double)
    return {"mean": found.mean().item(), "half_width": half_width(found), "seeds": found.tolist()}


def over_seeds_and_images(values: Sequence[Tensor]) -> dict[str, Any]:
    """The same of seeds' means over images, and the standard error over the images, which all seeds share."""
    images = torch.stack(list(values)).double()
    error = images.mean(0).std().item() / images.shape[1] ** 0.5
    return {**over_seeds(images.mean(1).tolist()), "image_error": error}


def write_report(args: argparse.Namespace, seconds: float, results: dict[str, Any]) -> None:
    """Settings, seeds, versions, CPU seconds and what came out."""
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("torch", "pyro-ppl", "zuko", "pyrometa")}
    places = ("root", "download", "out", "json", "figure")
    settings = {name: value for name, value in vars(args).items() if name not in places}
    head = {"settings": settings, "seeds": args.seeds, "versions": versions, "cpu_seconds_of_this_command": seconds}
    write_json(args.json, {**head, **results})
