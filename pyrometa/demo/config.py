"""Every count and rate of the demo, in one place."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Candidate", "DemoConfig"]

Candidate = tuple[str, str, float]
"""How the pooled VAE may adapt: an inner rule of pyrometa by its name, what adapts, and the rule's rate."""

DECODER, OUTPUT_BIAS = "model", "model.decoder.output.bias"


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
        pooled_lr: Adam's rate there, which falls to a hundredth of it.
        meta_steps: MetaSVI steps from there.
        meta_batch: tasks of a meta-step.
        extra_lr: Adam's rate from there on, of the outer loop and of the pooled VAE's further SVI; it falls too.
        support: images a task adapts to.
        query: further images of the task that it is scored on.
        inner_steps: inner steps K of meta-training.
        rate: where the learned rates, one a layer and step, start.
        rate_lr: their own outer step size.
        usual: how the pooled VAE may adapt as a whole decoder; the best for each number of steps is chosen on
            validation tasks.
        picked: how it may adapt what was picked by hand, the bias of its last layer; chosen likewise.
        validation_tasks: tasks on which that is chosen.
        test_tasks: unseen tasks of the comparison.
        trusted_tasks: those of them of which one image's posterior is diagnosed.
        adaptation_steps: numbers of steps after which the comparison is made; 0 and ``inner_steps`` among them.
    """

    seed: int = 0
    hidden: int = 200
    latent: int = 20
    pooled_steps: int = 1000
    pooled_batch: int = 128
    pooled_lr: float = 3e-3
    meta_steps: int = 120
    meta_batch: int = 16
    extra_lr: float = 1e-3
    support: int = 10
    query: int = 10
    inner_steps: int = 5
    rate: float = 0.02
    rate_lr: float = 0.2
    usual: tuple[Candidate, ...] = (
        ("SGD", DECODER, 0.003),
        ("SGD", DECODER, 0.01),
        ("SGD", DECODER, 0.03),
        ("SGD", DECODER, 0.1),
    )
    picked: tuple[Candidate, ...] = (
        ("SGD", OUTPUT_BIAS, 0.3),
        ("SGD", OUTPUT_BIAS, 1.0),
        ("SGD", OUTPUT_BIAS, 3.0),
        ("SGD", OUTPUT_BIAS, 6.0),
        ("SGD", OUTPUT_BIAS, 12.0),
        ("SGD", OUTPUT_BIAS, 24.0),
    )
    validation_tasks: int = 24
    test_tasks: int = 100
    trusted_tasks: int = 40
    adaptation_steps: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 10, 20, 50)

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
            usual=(("SGD", DECODER, 0.01), ("Adam", DECODER, 3e-3)),
            picked=(("SGD", OUTPUT_BIAS, 3.0),),
            validation_tasks=4,
            test_tasks=8,
            trusted_tasks=4,
        )

    @property
    def candidates(self) -> dict[str, tuple[Candidate, ...]]:
        """How the pooled VAE may adapt, by the name of its curve."""
        return {"pooled": self.usual, "picked": self.picked}

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
