"""A VAE by plain SVI, then meta-learned: digits of classes it has never seen, after five gradient steps.

    pip install ".[digits]"
    python examples/rotated_digits.py    # under a minute on one core

A task is ten images of one digit, all turned by one angle. Training sees the digits 0 to 6; the test tasks are 7, 8
and 9, at any angle. SVI gives a start that is pooled over all tasks. MetaSVI goes on from there: it meta-learns the
encoder, the decoder, and a rate for each of their layers at each step, so that five steps on ten images count.
(What SVI makes of as much training is in `make demo`, which compares at equal cost.)
"""

import copy

import pyro
import torch
from pyro.infer import SVI, TraceMeanField_ELBO

import pyrometa as pm
from pyrometa.models import VAE
from pyrometa.tasks import TaskSampler, digit_tasks, load_images


def main(svi_steps: int = 1500, meta_steps: int = 150, test_tasks: int = 50) -> dict[str, list[float]]:
    torch.manual_seed(0)
    data = load_images("digits")
    families = digit_tasks(data.train_x, data.train_y)
    train = TaskSampler(families.train, shots=10, queries=10, seed=0)
    unseen = TaskSampler(families.test, shots=10, queries=10, seed=1).sample(test_tasks)
    support, query = (images.bernoulli() for images in unseen)  # binary pixels, for a Bernoulli likelihood

    vae = VAE(hidden=200, latent=20, activation=torch.tanh)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-3}), TraceMeanField_ELBO())
    for _ in range(svi_steps):
        svi.step(train.pooled(128).bernoulli())
    pooled = copy.deepcopy(vae)

    def adapting(vae: VAE, inner: pm.Adam | pm.SGD) -> pm.MetaSVI:
        optim = pyro.optim.Adam({"lr": 1e-3})
        return pm.MetaSVI(vae.model, vae.guide, optim, inner=inner, steps=5, adapt="both", reduction="mean")

    meta = adapting(vae, pm.SGD(lr=2e-4, learn="layer_step", outer_lr=0.05))
    trainer = pm.Trainer(max_steps=meta_steps, seed=None)  # draws on, under the seed above
    trainer.fit(meta, lambda step: tuple(images.bernoulli() for images in train.sample(16)))

    rows = {"VAE by SVI, then Adam": adapting(pooled, pm.Adam(3e-4)), "meta-learned": meta}
    losses = {name: row.evaluate(support, query, steps=(0, 5)).mean(1).tolist() for name, row in rows.items()}
    print(f"negative ELBO of ten more images, nats an image, mean of {test_tasks} unseen tasks")
    for name, (before, after) in losses.items():
        print(f"{name:24}before {before:6.2f}   after five steps {after:6.2f}")
    return losses


if __name__ == "__main__":
    main()
