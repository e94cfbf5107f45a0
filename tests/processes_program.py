"""What each of several processes runs: ``python FILE STORE RANK COUNT CASES``; prints its results as JSON."""

import json
import sys

import pyro
import pyro.distributions as dist
import torch
from torch import distributed

import pyrometa as pm

ENGINES = {"loop": pm.Engine(vectorize=False), "engine": pm.Engine(), "recorded": pm.Engine(record=True)}


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def guide(x):
    scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
    pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.3)), scale))


def data(tasks, ragged):
    generator = torch.Generator().manual_seed(5)
    sizes = [4 + (i % 3 if ragged else 0) for i in range(tasks)]
    drawn = [torch.randn(size, generator=generator) + i for i, size in enumerate(sizes)]
    return drawn if ragged else torch.stack(drawn)


def changed(batch, by):
    """The meta-batch as one process has it that does not do as the others do."""
    if by == "rows":
        return batch + 1.0
    if by == "tasks":
        return torch.cat([batch, batch])
    if by == "numbers":
        torch.rand(1)
    if by == "data":
        batch[1, 0] = torch.nan
    return batch


def attempt(function, *args):
    """What a function gives, or how it fails."""
    try:
        return {"gives": function(*args)}
    except (ValueError, pm.ProcessError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


def apart(by, rank):
    """A step and an evaluation that process 1 takes otherwise, and a step after them."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), inner=pm.SGD(0.01), steps=2)
    meta.processes = pm.Processes.of_group()
    theirs = [changed(data(4, False), by if rank == 1 else None) for _ in range(2)]
    return [attempt(meta.step, theirs[0]), attempt(meta.evaluate_loss, theirs[1]), attempt(meta.step, data(4, False))]


def run(engine="engine", tasks=5, ragged=False, steps=3, bad=None, breaks=None, rank=0):
    torch.manual_seed(0)
    meta = pm.MetaSVI(
        model, guide, pyro.optim.Adam({"lr": 0.05}), inner=pm.SGD(0.01, learn="layer"), steps=2, engine=ENGINES[engine]
    )
    meta.processes = pm.Processes.of_group()
    batch = data(tasks, ragged)
    if bad is not None:
        batch[bad][0] = 1e200
    if breaks == rank:
        meta._runner.run = None
    try:
        losses, grads = meta.loss_and_grads(batch)
        trained = [meta.step(batch) for _ in range(steps)]
        scores = meta.evaluate(batch).tolist()
    except (pm.NonFiniteError, pm.ProcessError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}", **vars(error)}
    return {
        "loss": losses.item(),
        "grads": {name: grad.tolist() for name, grad in grads.items()},
        "trained": trained,
        "scores": scores,
        "parameters": {name: leaf.tolist() for name, leaf in meta.named_parameters()},
        "generator": torch.get_rng_state().sum().item(),
    }


if __name__ == "__main__":
    store, rank, count, cases = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    results = [(apart if "by" in case else run)(**case, rank=rank) for case in cases]
    distributed.destroy_process_group()
    print(json.dumps(results))
