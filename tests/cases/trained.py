"""A small program to train, here and by ``python trained.py CASES``, a JSON list of the arguments of :func:`case`."""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader

import pyrometa as pm
from pyrometa import saving
from pyrometa.recording import recordings
from pyrometa.saving.structure import taken_apart
from pyrometa.tasks import MetaBatch, SinusoidTasks, TaskSampler

ENGINES = {"loop": pm.Engine(vectorize=False), "engine": pm.Engine(), "recorded": pm.Engine(record=True)}
STEPS = 6
RANK = int(os.environ.get("RANK", "0"))
RESTARTS = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def model(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    scale = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("rows", x.shape[-2]):
        pyro.sample("y", dist.Normal(slope * x[..., 0], scale), obs=None if y is None else y[..., 0])


def guide(x, y=None):
    scale = pyro.param("scale", lambda: 0.5 + torch.rand(()), constraint=dist.constraints.positive)
    mean = pyro.param("mean", torch.tensor(0.3 + RANK))  # of several processes, the first one's is that of all
    pyro.sample("slope", dist.Normal(mean, scale))


def make_meta(engine="engine"):
    pyro.clear_param_store()
    inner = pm.SGD(0.01, learn="layer")
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), inner=inner, steps=2, engine=ENGINES[engine])


def sampler(seed=3):
    return TaskSampler(SinusoidTasks(), shots=4, queries=4, seed=seed)


def four_batches():
    drawn = sampler()
    return [drawn.sample(3) for _ in range(4)]


def tasks(loader, **options):
    """A loader of 12 tasks, four at a time, in another order each epoch."""
    batch = sampler().sample(12)
    return loader([batch[i] for i in range(12)], batch_size=4, shuffle=True, **options)


def stateful():
    from torchdata.stateful_dataloader import StatefulDataLoader

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated", UserWarning)  # of torchdata 0.11 on torch 2.15
        return tasks(StatefulDataLoader)


def noisy(step):
    """Tasks that depend on the step and on the generators."""
    support, query = sampler(torch.randint(99, ()).item()).sample(3)
    return MetaBatch(*(tuple(part + step / 10 for part in side) for side in (support, query)))


SOURCES = {
    "sampler": sampler,
    "list": four_batches,
    "generator": lambda: iter(four_batches() * 2),
    "loader": lambda: tasks(DataLoader),
    "seeded loader": lambda: tasks(DataLoader, generator=torch.Generator().manual_seed(5)),
    "stateful loader": stateful,
    "function": lambda: noisy,
}


def make_trainer(out=None, **options):
    given = {
        "max_steps": STEPS, "meta_batch": 3, "out": out, "validate_every": 2, "checkpoint_every": 1, "progress": False,
        "clip_norm": 5.0, "schedule": lambda optimizer: CosineAnnealingLR(optimizer, STEPS), "seed": 4, **options,
    }  # fmt: skip
    return pm.Trainer(**given)


def trained(out=None, source="sampler", engine="engine", resume=None, **options):
    """Train a new MetaSVI on a new source."""
    train = {**SOURCES, **REFUSED}[source]()
    return make_trainer(out, **options).fit(make_meta(engine), train, sampler(9), resume=resume)


def bits(path):
    """What a checkpoint holds, but for its times: structure, and each tensor as text."""
    state = saving.read(path, kind="meta")
    state["run"]["state"] = told(state["run"]["state"])
    structure, tensors = taken_apart(state)
    return json.dumps(structure), {name: tensor.tolist() for name, tensor in tensors.items()}


def told(nest):
    """A nest of plain values without what says how long something took."""
    if isinstance(nest, dict):
        return {key: told(value) for key, value in nest.items() if key not in ("seconds", "since", "tasks_per_second")}
    return [told(value) for value in nest] if isinstance(nest, list) else nest


def lines(out):
    return [told(json.loads(line)) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def wait_for(path, process, seconds=120):
    """Wait until a process has made a file."""
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)


class Watched:
    """A callback that shows that training has begun, takes its time, keeps a checkpoint, and kills its process once."""

    def __init__(self, ready=None, slow=0.0, killed=None, kept=None):
        self.ready, self.slow, self.killed, self.kept = ready, slow, killed, kept

    def on_step(self, moment):
        if self.ready is not None:
            Path(self.ready).touch()
        if self.killed == [RANK, moment.step] and RESTARTS == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)

    def on_checkpoint(self, moment):
        if self.kept is not None and self.kept[0] == moment.step and RANK == 0:
            shutil.copy(moment.checkpoint, self.kept[1])


def bad(step):
    """Tasks of which the last can't be learned from, after two steps."""
    support, query = sampler(step).sample(3)
    support[0][2] *= 1e30 if step == 2 else 1.0
    return support, query


def others(step):
    """Tasks that differ by process."""
    return sampler(RANK).sample(3)


def numbers(step):
    """Tasks that are the same, by a process that draws more numbers than the others."""
    torch.rand(RANK)
    return sampler(step).sample(3)


REFUSED = {"bad": lambda: bad, "others": lambda: others, "numbers": lambda: numbers}


def case(out=None, resume=None, source="sampler", engine="engine", late=None, **watched):
    """What a case comes to: why the run has ended and its losses, or an error."""
    if late == RANK and RESTARTS > 0:
        time.sleep(3.0)
    try:
        result = trained(out, source, engine, resume, checkpoint_every=out and 1, callbacks=[Watched(**watched)])
    except (pm.NonFiniteError, pm.ProcessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"ended": result.ended, "losses": [record["loss"] for record in result.history]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    recordings._PATIENCE = 4  # so that after a few steps some processes go over, and others do not
    results = [RANK, [case(**options) for options in json.loads(sys.argv[1])]]
    sys.stdout.write(json.dumps(results) + "\n")  # as one, whatever other processes write
