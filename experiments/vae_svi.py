"""A variational autoencoder of handwritten digits, trained by ordinary SVI.

    python -m experiments.vae_svi                                   # 5,000 embedded digits
    python -m experiments.vae_svi --data mnist --root data --download
    python -m experiments.vae_svi --data fashion-mnist --root data --download --conv

Images are binarised, so that a Bernoulli is a proper likelihood of them and nats an image can be compared:
each grey value is the probability of a white pixel, drawn afresh in every epoch for training and once for
testing (Burda, Grosse and Salakhutdinov, 2016). Each epoch reports the test ELBO and the importance-weighted
estimate of the negative log likelihood of the held-out images, and rewrites in --out: metrics.json,
reconstructions.png (test images above their reconstructions) and samples.png (decoded draws from the prior).
The seconds are those of training.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from torchvision.utils import save_image
from tqdm.auto import tqdm

from benchmarks.files import write, write_json
from pyrometa.diagnostics import elbo, iwae_nll
from pyrometa.models import VAE, ConvVAE
from pyrometa.tasks import load_images

TEST_BATCH = 1000


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    args = parse(argv)
    torch.manual_seed(args.seed)
    data = load_images(args.data, root=args.root, download=args.download)
    train_x, test_x = rows(data.train_x, args.conv), rows(data.test_x, args.conv).bernoulli()
    vae = ConvVAE(latent=args.latent) if args.conv else VAE(hidden=args.hidden, latent=args.latent)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": args.lr}), TraceMeanField_ELBO())

    epochs: list[dict[str, float]] = []
    for epoch in range(1, args.epochs + 1):
        start = time.perf_counter()
        train_epoch(svi, train_x, args.batch_size, f"epoch {epoch}/{args.epochs}")
        seconds = time.perf_counter() - start
        epochs.append({**evaluate(vae, test_x, args.iwae_samples), "seconds": seconds})
        summary = "test ELBO {test_elbo:.2f}, IWAE NLL {iwae_nll:.2f} nats an image, {seconds:.1f} s"
        tqdm.write(f"epoch {epoch}: " + summary.format(**epochs[-1]))
        write_results(args, vae, test_x, epochs)
    return epochs


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["digits", "mnist", "fashion-mnist"], default="digits")
    parser.add_argument("--root", type=Path, help="the directory of MNIST or Fashion-MNIST")
    parser.add_argument("--download", action="store_true", help="fetch missing files into --root")
    parser.add_argument("--out", type=Path, default=Path("vae_svi"))
    parser.add_argument("--epochs", type=positive, default=5)
    parser.add_argument("--conv", action="store_true", help="the convolutional VAE")
    parser.add_argument("--hidden", type=positive, default=400, help="hidden units (not with --conv)")
    parser.add_argument("--latent", type=positive, default=20)
    parser.add_argument("--batch-size", type=positive, default=32)
    parser.add_argument("--lr", type=float, default=2e-3, help="Adam's learning rate")
    parser.add_argument("--iwae-samples", type=positive, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.data != "digits" and args.root is None:
        parser.error(f"--data {args.data} is read from files: pass --root DIR, and --download to fetch them")
    return args


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def rows(images: Tensor, conv: bool) -> Tensor:
    return images.unsqueeze(1) if conv else images.flatten(1)


def train_epoch(svi: SVI, x: Tensor, batch_size: int, description: str) -> None:
    batches = torch.randperm(len(x)).split(batch_size)
    with tqdm(batches, desc=description, unit="batch", leave=False) as bar:
        for batch in bar:
            loss = svi.step(x[batch].bernoulli())
            bar.set_postfix(nats=f"{loss / len(batch):.1f}")


def evaluate(vae: VAE | ConvVAE, x: Tensor, iwae_samples: int) -> dict[str, float]:
    test_elbo = nll = 0.0
    for batch in x.split(TEST_BATCH):
        share = len(batch) / len(x)
        test_elbo += share * elbo(vae.model, vae.guide, batch, num_samples=10)
        nll += share * iwae_nll(vae.model, vae.guide, batch, num_samples=iwae_samples)
    return {"test_elbo": test_elbo, "iwae_nll": nll}


@torch.no_grad()
def write_results(args: argparse.Namespace, vae: VAE | ConvVAE, test_x: Tensor, epochs: list[dict[str, float]]) -> None:
    shown = test_x[:40]
    grid = torch.stack([tens(shown), tens(vae.reconstruct(shown))], dim=1)  # a row of ten, its reconstructions
    write_png(grid, args.out / "reconstructions.png")
    write_png(vae.sample(100), args.out / "samples.png")
    result = {"epochs": epochs, "settings": vars(args)}
    write_json(args.out / "metrics.json", result)


def tens(images: Tensor) -> Tensor:
    return images.reshape(-1, 10, 28, 28)


def write_png(images: Tensor, path: Path) -> None:
    images = images.reshape(-1, 1, 28, 28)
    write(path, lambda temporary: save_image(images, temporary, format="png", nrow=10, pad_value=0.5))


if __name__ == "__main__":
    main()
