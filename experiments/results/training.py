"""How the results on Omniglot and on neural processes are meta-trained, and the interval over seeds of all results."""

import math
import time
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

import pyrometa as pm

STUDENT = (math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 percent quantile of Student's t, by degrees of freedom: the number of seeds less one."""


def fit(meta: pm.MetaSVI, source: Any, first: Any, steps: int, *, clip_norm: float) -> float:
    """Meta-train on what ``source`` gives, with rates that fall to zero; returns CPU seconds."""
    began = time.process_time()
    meta.init(first)
    trainer = pm.Trainer(
        max_steps=steps,
        schedule=lambda optimizer: CosineAnnealingLR(optimizer, steps),
        clip_norm=clip_norm,
        progress=False,
        seed=None,
    )
    trainer.fit(meta, source)
    return time.process_time() - began


def finite(value: Tensor) -> float | None:
    return value.item() if value.isfinite() else None


def half_width(seeds: Tensor) -> float | None:
    """Of the 95% interval over seeds' means by Student's t; None for a single seed."""
    if not 1 < len(seeds) <= len(STUDENT):
        return None
    return finite(STUDENT[len(seeds) - 1] * seeds.std() / len(seeds) ** 0.5)
