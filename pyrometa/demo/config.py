"""Every count and rate of the demo, in one place."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DemoConfig"]


@dataclass(frozen=True)
class DemoConfig:
    """All that decides the demo's numbers; the defaults are the full demo.

    A budget is counted in images x gradient evaluations, a second-order pass counted twice.

    Args:
        seed: seeds everything.
        hidden: width of the VAE's hidden layers.
        latent: number of its latent variables.
        pooled_steps: SVI steps to the pooled start of meta-training.
        pooled_batch: images of an SVI step.
        pooled_lr: Adam's rate up to there.
        meta_steps: MetaSVI steps from there.
        meta_batch: tasks of a meta-step.
        extra_lr: Adam's rate from there on, in the outer loop of meta-training and in the pooled VAE's SVI.
        support: images a task adapts to.
        query: further images of the task that it is scored on.
        inner_steps: inner steps K of meta-training.
        rate: where the learned rates of the layers start.
        rate_lr: their own outer step size.
        rates: candidates for the one inner rate of the random and the pooled start, ascending.
        validation_tasks: tasks on which that rate is chosen.
        test_tasks: unseen tasks of the comparison.
        adaptation_steps: numbers of steps after which it is made; 0, 5 and ``inner_steps`` among them.
    """

    seed: int = 0
    hidden: int = 200
    latent: int = 20
    pooled_steps: int = 8000
    pooled_batch: int = 128
    pooled_lr: float = 1e-3
    meta_steps: int = 300
    meta_batch: int = 16
    extra_lr: float = 3e-4
    support: int = 10
    query: int = 10
    inner_steps: int = 5
    rate: float = 2e-4
    rate_lr: float = 0.05
    rates: tuple[float, ...] = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2)
    validation_tasks: int = 24
    test_tasks: int = 100
    adaptation_steps: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50)

    @classmethod
    def quick(cls, seed: int = 0) -> DemoConfig:
        """The same code with counts for the plumbing: its numbers prove nothing."""
        return cls(
            seed=seed,
            hidden=50,
            latent=5,
            pooled_steps=150,
            meta_steps=6,
            meta_batch=4,
            rates=(1e-4, 1e-3, 2e-3),
            validation_tasks=4,
            test_tasks=8,
        )

    @property
    def meta_budget(self) -> int:
        """Budget of meta-training: K second-order passes over the support set, one pass over the query set."""
        return self.meta_steps * self.meta_batch * (2 * self.inner_steps * self.support + self.query)

    @property
    def extra_pooled_steps(self) -> int:
        """SVI steps that the pooled VAE trains on for, to have had the same budget (rounded up)."""
        return -(-self.meta_budget // self.pooled_batch)

    @property
    def budget(self) -> dict[str, int]:
        """Budget of all training, by start."""
        shared = self.pooled_steps * self.pooled_batch
        return {"pooled": shared + self.extra_pooled_steps * self.pooled_batch, "meta": shared + self.meta_budget}
