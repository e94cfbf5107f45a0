"""Pyro programs, one for each feature that an ELBO has to understand: scales, masks, plates, enumeration."""

import meta_cases
import pyro
import pyro.distributions as dist
import torch
from programs import Case
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn
from torch.distributions import constraints

TASKS, ROWS = 2, 3


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def param(name, *values, **options):
    return pyro.param(name, tensor(*values) if len(values) > 1 else tensor(*values)[0], **options)


def normal_case(model, guide):
    return Case(model, guide, *torch.randn(2, TASKS, ROWS, 2, dtype=torch.float64))


def local_guide(x):
    mean, scale = param("mean", 0.3, -0.4), param("scale", 0.7, constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x @ mean, scale))


def local_model(x):
    gain = param("gain", 0.8, 0.5)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(tensor(0.0)[0], 1.0))
        pyro.sample("x", dist.Normal(z[..., None] * gain, 1.0).to_event(1), obs=x)


def plain():
    return normal_case(local_model, local_guide)


def scaled():
    return normal_case(poutine.scale(local_model, 2.5), poutine.scale(local_guide, 2.5))


def scaled_by_data():
    def by_task(program):
        def run(x):
            with poutine.scale(scale=x.square().mean()):
                program(x)

        return run

    return normal_case(by_task(local_model), by_task(local_guide))


def masked():
    def by_sign(program):
        def run(x):
            with poutine.mask(mask=x[:, 0] > 0):
                program(x)

        return run

    return normal_case(by_sign(local_model), by_sign(local_guide))


def blocked():
    def guide(x):
        with poutine.block():
            pyro.sample("hidden", dist.Normal(param("hidden_mean", 0.2), 1.0))
        local_guide(x)

    return normal_case(local_model, guide)


def subsampled():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            z = pyro.sample("z", dist.Normal(tensor(0.0)[0], 1.0))
            mean = loc + z[..., None] * param("gain", 0.8, 0.5)
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x[rows])

    def guide(x):
        pyro.sample("loc", dist.Normal(param("loc_mean", 0.1, 0.2), 0.5).to_event(1))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("z", dist.Normal(x[rows] @ param("mean", 0.3, -0.4), 0.7))

    return normal_case(model, guide)


def nested():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(tensor(0.0)[0], 2.0))
        with pyro.plate("columns", 2, dim=-1):
            shift = pyro.sample("shift", dist.Normal(loc, param("spread", 1.0, constraint=constraints.positive)))
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("x", dist.Normal(shift, 1.0), obs=x)

    def guide(x):
        loc = pyro.sample("loc", dist.Normal(param("loc_mean", 0.1), 0.5))
        with pyro.plate("columns", 2, dim=-1):
            pyro.sample("shift", dist.Normal(param("mean", 0.3, -0.4) + loc, 0.6))

    return normal_case(model, guide)


def in_sequence():
    def model(x):
        for i in pyro.plate("columns", 2):
            z = pyro.sample(f"z{i}", dist.Normal(tensor(0.0)[0], 1.0))
            with pyro.plate(f"data{i}", len(x)):
                pyro.sample(f"x{i}", dist.Normal(z * param("gain", 0.8), 1.0), obs=x[:, i])

    def guide(x):
        for i in pyro.plate("columns", 2):
            pyro.sample(f"z{i}", dist.Normal(param("mean", 0.3, -0.4)[i], 0.7))

    return normal_case(model, guide)


def factored():
    def model(x):
        local_model(x)
        pyro.factor("regular", -param("gain", 0.8, 0.5).pow(4).sum())
        with pyro.plate("rows", len(x)):
            pyro.factor("by row", x.sum(-1) * param("gain", 0.8, 0.5).sum())

    return normal_case(model, local_guide)


def auxiliary():
    def guide(x):
        u = pyro.sample("u", dist.Normal(param("u_mean", 0.2), 0.5), infer={"is_auxiliary": True})
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ param("mean", 0.3, -0.4) + u, 0.7))

    return normal_case(local_model, guide)


def in_the_model():
    @config_enumerate
    def model(x):
        centers = pyro.sample("centres", dist.Normal(x.new_zeros(3, 2), 2.0).to_event(2))
        with pyro.plate("data", len(x)):
            weight = param("weight", 0.2, 0.3, 0.5, constraint=constraints.simplex)
            kind = pyro.sample("kind", dist.Categorical(weight))
            far = pyro.sample("far", dist.Bernoulli(tensor(0.3)[0]))
            pyro.sample("x", dist.Normal(centers[kind], 1.0 + far[..., None]).to_event(1), obs=x)

    def guide(x):
        loc = param("loc", -1.0, 0.2, 1.0)
        pyro.sample("centres", dist.Normal(loc[:, None].expand(3, 2), 0.3).to_event(2))

    return normal_case(model, guide)


def flips_model(x):
    def draw(name, logits):
        return pyro.sample(name, dist.Bernoulli(logits=logits))

    whole = draw("whole", param("prior", 0.1))
    with pyro.plate("data", len(x)):
        each = draw("each", whole - 0.4)
        z = pyro.sample("z", dist.Normal(each, 1.0))
        pyro.sample("x", dist.Normal((z + whole)[..., None] * param("gain", 0.8, 0.5), 1.0).to_event(1), obs=x)


def flips_guide(**infer):
    def guide(x):
        whole = pyro.sample("whole", dist.Bernoulli(logits=param("top", 0.3)), infer=infer)
        with pyro.plate("data", len(x)):
            logits = x @ param("weight", 0.5, -0.3) + 0.7 * whole
            each = pyro.sample("each", dist.Bernoulli(logits=logits), infer=infer)
            pyro.sample("z", dist.Normal(each * param("mean", 0.6), 0.8))

    return guide


def in_the_guide():
    return normal_case(flips_model, flips_guide(enumerate="parallel"))


def in_the_guide_one_by_one():
    """All rows share one flip, for each of which the program is run."""

    def guide(x):
        whole = pyro.sample("whole", dist.Bernoulli(logits=param("top", 0.3)), infer={"enumerate": "sequential"})
        with pyro.plate("data", len(x)):
            logits = x @ param("weight", 0.5, -0.3) + 0.7 * whole
            each = pyro.sample("each", dist.Bernoulli(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal(each * param("mean", 0.6), 0.8))

    return normal_case(flips_model, guide)


def in_a_plate_one_by_one():
    """A draw outside the plate is counted once for each value of the flips within it."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(tensor(0.0)[0], 2.0))
        with pyro.plate("data", len(x)):
            each = pyro.sample("each", dist.Bernoulli(logits=param("prior", 0.1)))
            pyro.sample("x", dist.Normal((loc + each)[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(param("mean", 0.6), 0.5))
        with pyro.plate("data", len(x)):
            logits = x @ param("weight", 0.5, -0.3)
            pyro.sample("each", dist.Bernoulli(logits=logits), infer={"enumerate": "sequential"})

    return normal_case(model, guide)


def in_both():
    def guide(x):
        whole = pyro.sample("whole", dist.Bernoulli(logits=param("top", 0.3)), infer={"enumerate": "parallel"})
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ param("mean", 0.6, 0.1) + whole, 0.8))

    return normal_case(config_enumerate(flips_model), guide)


def sampled():
    return normal_case(flips_model, flips_guide())


def sampled_many_times():
    return normal_case(flips_model, flips_guide(enumerate="parallel", num_samples=3))


def sampled_categorical():
    def model(x):
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(param("weight", 0.2, 0.3, 0.5, constraint=constraints.simplex)))
            pyro.sample("x", dist.Normal(param("centres", -1.0, 0.2, 1.0)[kind][..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            logits = x[:, :1] * param("slope", 0.5, -0.3, 0.1)
            pyro.sample("kind", dist.Categorical(logits=logits))

    return normal_case(model, guide)


def impossible():
    """A value that the model rules out has no weight in the guide."""

    def model(x):
        with pyro.plate("data", len(x)):
            kind = pyro.sample("kind", dist.Categorical(tensor(0.4, 0.4, 0.2)))
            pyro.factor("no", torch.where(kind == 2, -torch.inf, tensor(0.0)[0]))
            pyro.sample("x", dist.Normal(param("centres", -1.0, 0.2, 1.0)[kind][..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            odds = param("odds", 0.3)
            logits = torch.stack([odds, -odds, torch.full_like(odds, -torch.inf)])
            pyro.sample("kind", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})

    return normal_case(model, guide)


def chain():
    """A hidden Markov model, whose dimensions are used again and again."""

    @config_enumerate
    def model(x):
        switch = param("switch", 0.3, 0.8, constraint=constraints.unit_interval)
        center = pyro.sample("centre", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        state = 0
        for t in pyro.markov(range(len(x))):
            state = pyro.sample(f"state{t}", dist.Bernoulli(switch[torch.as_tensor(state).long()]))
            pyro.sample(f"x{t}", dist.Normal(center + state[..., None], 1.0).to_event(1), obs=x[t])

    def guide(x):
        pyro.sample("centre", dist.Normal(param("loc", 0.4, -0.2), 0.5).to_event(1))

    return normal_case(model, guide)


def groups():
    """Enumerated at two depths of nested plates, scaled and masked."""

    @config_enumerate
    def model(x):
        scores = param("scores", 0.2, -0.5)
        with poutine.scale(scale=1.7), pyro.plate("columns", 2, dim=-1):
            group = pyro.sample("group", dist.Bernoulli(logits=scores))
            with pyro.plate("data", len(x), dim=-2), poutine.mask(mask=x > -1.0):
                kind = pyro.sample("kind", dist.Bernoulli(logits=group - 0.3))
                pyro.sample("x", dist.Normal(kind * param("gain", 0.8) + group, 1.0), obs=x)

    def guide(x):
        pass

    return normal_case(model, guide)


def counts():
    """Nested plates around draws that have no gradient, one of them with its value pinned."""

    class Pinned(dist.Poisson):
        def sample(self, sample_shape=()):
            return torch.arange(5.0, dtype=torch.float64)[: self.batch_shape[-2], None].expand(self.shape(sample_shape))

    def model(x):
        with pyro.plate("columns", 2, dim=-1):
            group = pyro.sample("group", dist.Bernoulli(tensor(0.3)[0]))
            with pyro.plate("data", len(x), dim=-2):
                count = pyro.sample("count", dist.Poisson(2.0 + group))
                pyro.sample("x", dist.Normal(count * param("gain", 0.2) + group, 1.0), obs=x)

    def guide(x):
        with pyro.plate("columns", 2, dim=-1):
            group = pyro.sample("group", dist.Bernoulli(logits=param("logits", 0.4, -0.3)))
            with pyro.plate("data", len(x), dim=-2):
                pyro.sample("count", Pinned(param("rate", 0.5).exp() * (1 + group)))

    return normal_case(model, guide)


def discrete_mixture():
    return meta_cases.discrete()


def scaled_flips():
    return normal_case(poutine.scale(flips_model, 0.5), poutine.scale(flips_guide(), 0.5))


class Encoder(nn.Module):
    def __init__(self, flip, **infer):
        super().__init__()
        self.hidden, self.logit, self.mean = nn.Linear(2, 3), nn.Linear(3, 1), nn.Linear(3, 1)
        self.flip, self.infer = flip, infer

    def forward(self, x):
        hidden = torch.tanh(self.hidden(x))
        with pyro.plate("data", len(x)):
            each = pyro.sample("each", self.flip(self.logit(hidden)[:, 0]), infer=self.infer)
            pyro.sample("z", dist.Normal(self.mean(hidden)[:, 0] + each, 0.8))


def _encoded(flip, **infer):
    def model(x):
        with pyro.plate("data", len(x)):
            each = pyro.sample("each", flip(tensor(0.2)[0]))
            z = pyro.sample("z", dist.Normal(each, 1.0))
            pyro.sample("x", dist.Normal((z + each)[..., None] * param("gain", 0.8, 0.5), 1.0).to_event(1), obs=x)

    return normal_case(model, Encoder(flip, **infer).double())


def encoded():
    """Linear layers in the guide."""
    return _encoded(lambda logits: dist.RelaxedBernoulli(tensor(0.7)[0], logits=logits))


def encoded_and_enumerated():
    """Linear layers in the guide, one of them above a site that is summed out."""
    return _encoded(lambda logits: dist.Bernoulli(logits=logits), enumerate="parallel")
