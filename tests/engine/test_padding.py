"""Tasks of different sizes, padded to one shape, say what they say one by one."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from programs import Case, modules
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn

import pyrometa as pm
from pyrometa.guides import AttentionPooling, SetEncoderGuide

pytestmark = pytest.mark.gpu

LOOP = pm.Engine(vectorize=False)
SIZES = (4, 2, 7, 1, 4)


def ragged(*shape, sizes=SIZES):
    return [torch.randn(n, *shape, dtype=torch.float64) for n in sizes]


def pairs(sizes=SIZES):
    return [(torch.randn(n, 2, dtype=torch.float64), torch.randn(n, dtype=torch.float64)) for n in sizes]


def meta_svi(case, engine, **options):
    options = {"inner": pm.SGD(0.01), "steps": 3, "adapt": "both", "reduction": "mean", **options}
    return pm.MetaSVI(case.model, case.guide, pyro.optim.Adam({"lr": 0.01}), engine=engine, **options)


def results(meta, case):
    torch.manual_seed(3)
    loss, grads = meta.loss_and_grads(case.support, case.query)
    losses = meta.evaluate(case.support, case.query, steps=(0, 3))
    adapted = [value for guide in meta.adapt_many(case.support) for value in guide.state_dict().values()]
    return loss, grads, losses, adapted


def assert_same(case, engine=None, **options):
    engine = engine or pm.Engine(vectorize=True)
    (loss, grads, losses, adapted), expected = (results(meta_svi(case, e, **options), case) for e in (engine, LOOP))
    close = {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(loss, expected[0], **close)
    assert_equal(grads, expected[1], **close)
    torch.testing.assert_close(losses, expected[2], **close)
    torch.testing.assert_close(adapted, expected[3], **close)


def regression(x, y):
    """Global weights, a local effect a row, and a nested plate."""
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 0.3))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, noise), obs=y)
        with pyro.plate("two", 2, dim=-2):
            pyro.sample("z", dist.Normal(x.T, 1.0), obs=y.expand(2, -1))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_local_latents(elbo, reduction):
    case = modules()
    assert_same(
        Case(case.model, case.guide, ragged(2), ragged(2)), loss=elbo(), reduction=reduction, inner=pm.SGD(1e-3)
    )


@pytest.mark.thinned(2)
@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDiagonalNormal])
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_global_latents(autoguide, steps):
    assert_same(Case(regression, autoguide(regression), pairs(), pairs(SIZES[::-1])), steps=steps)


def test_only_the_query_sets_differ():
    assert_same(Case(regression, AutoNormal(regression), pairs([4] * len(SIZES)), pairs()))


@pytest.mark.parametrize(
    ("engine", "steps"),
    [
        (pm.Engine(vectorize=True, low_rank=True), 3),
        (pm.Engine(chunk_size=2), 3),
        pytest.param(pm.Engine(record=True), 1, marks=pytest.mark.slow),
    ],
    ids=["low-rank", "chunks", "recorded"],
)
def test_low_rank_chunks_and_recordings(engine, steps):
    case = modules()
    assert_same(Case(case.model, case.guide, ragged(2), ragged(2)), engine, steps=steps)


def test_densities_that_padding_by_zeros_would_break():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.LogNormal(x.new_zeros(()), scale), obs=x)

    positive = [torch.rand(n, dtype=torch.float64) + 0.5 for n in SIZES]
    assert_same(Case(model, AutoNormal(model), positive, positive[::-1]))


def test_few_shapes_serve_all_sizes():
    case = modules()
    engine = pm.Engine(vectorize=True)
    meta = meta_svi(case, engine)
    for size in range(1, 9):
        meta.loss_and_grads(*(ragged(2, sizes=(size, 5)) for _ in range(2)))
    assert len(meta._runner._plans.kept) <= 2


def unplated(x):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(()), 1.0))
    pyro.sample("x", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=x)


class Averaging(nn.Module):
    """A guide that mixes the rows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.linear(x - x.mean(0)).split(1, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (lambda: Case(unplated, AutoNormal(unplated), ragged(), ragged()), "no plate of the size of the data"),
        (lambda: Case(modules().model, Averaging(), ragged(2), ragged(2)), "rows that do not count change the loss"),
    ],
    ids=["no plate", "mixed rows"],
)
def test_what_can_not_be_padded_is_run_size_by_size(case, reason):
    case = case()
    meta = meta_svi(case, pm.Engine(), inner=pm.SGD(1e-3))
    torch.manual_seed(3)
    with pytest.warns(pm.LoopWarning, match=f"run size by size.*{reason}"):
        loss, _ = meta.loss_and_grads(case.support, case.query)
    torch.manual_seed(3)
    expected, _ = meta_svi(case, LOOP, inner=pm.SGD(1e-3)).loss_and_grads(case.support, case.query)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-11)
    with pytest.raises(pm.UnsupportedProgramError, match=reason):
        meta_svi(case, pm.Engine(vectorize=True)).step(case.support, case.query)


class Counted(nn.Module):
    """A pooling that keeps to its mask, or forgets it."""

    def __init__(self, heeds):
        super().__init__()
        self.heeds = heeds

    def forward(self, rows, mask):
        mask = mask if self.heeds else torch.ones_like(mask)
        return torch.where(mask[..., None], rows, 0.0).sum(-2) / mask.sum(-1, keepdim=True)


def reader(pooling):
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double()
    return SetEncoderGuide(regression, lambda x, y: encoder(torch.cat([x, y[:, None]], -1)), pooling=pooling)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize(
    "pooling", ["mean", "sum", "max", AttentionPooling(4, 2).double(), Counted(True)], ids=lambda p: str(p)[:9]
)
def test_a_guide_that_reads_the_support_set_reads_no_padding(pooling, steps):
    case = Case(regression, reader(pooling), pairs(), pairs(SIZES[::-1]))
    assert_same(case, loss=Trace_ELBO(), adapt="guide", steps=steps, inner=pm.SGD(1e-4))


def test_a_pooling_that_forgets_its_mask_is_not_padded():
    case = Case(regression, reader(Counted(False)), pairs(), pairs(SIZES[::-1]))
    with pytest.warns(pm.LoopWarning, match="can't be padded: rows that do not count change the loss"):
        assert_same(case, pm.Engine(), loss=Trace_ELBO(), adapt="guide")


def standardized(x, y):
    """Rows that are repeated change what each row is told of the others."""
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    z = (x - x.mean(0)) / x.std(0)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(z @ weight, 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
@pytest.mark.parametrize(
    "batches",
    [
        ([8, 8, 16, 16], [5, 6, 12, 13]),
        ([5, 6, 12, 13], [8, 8, 16, 16]),
        ([8, 16], [8, 7, 16], [5, 8, 9]),
        ([8, 7, 16, 15], [5, 8, 16, 16]),
    ],
    ids=str,
)
def test_a_plan_is_proved_on_the_padding_that_it_serves(batches):
    metas = [
        meta_svi(Case(standardized, AutoNormal(standardized), None, None), engine) for engine in (pm.Engine(), LOOP)
    ]
    for seed, sizes in enumerate(batches):
        found = []
        for meta in metas:
            torch.manual_seed(seed)
            found.append(meta.loss_and_grads(pairs(sizes), pairs(sizes[::-1])))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-9, atol=1e-11)
        assert_equal(found[0][1], found[1][1], rtol=1e-9, atol=1e-11)


def graph(a, y):
    weight = pyro.sample("weight", dist.Normal(y.new_zeros(()), 1.0))
    neighbours = a if a.dim() == 2 else a.sum(-1)
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(weight * (neighbours @ y), 1.0), obs=y)


@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
@pytest.mark.parametrize("sizes", [(5, 6, 7), (4, 8, 3), (1, 2)], ids=str)
@pytest.mark.parametrize("rest", [(), (2,)], ids=["n x n", "n x n x d"])
def test_square_arguments(rest, sizes):
    tasks = [(torch.rand(n, n, *rest, dtype=torch.float64), torch.randn(n, dtype=torch.float64)) for n in sizes]
    assert_same(Case(graph, AutoNormal(graph), tasks, tasks[::-1]), pm.Engine(), inner=pm.SGD(1e-3))


def correlated(x, y):
    """A field over the rows, for which no row may be there twice."""
    distances = (x[:, None] - x[None]).square().sum(-1)
    field = pyro.sample("field", dist.Normal(x.new_zeros(()), 1.0))
    root = torch.linalg.cholesky((-100 * distances).exp())
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(field * (root @ y), 1.0), obs=y)


def once_each(x, y):
    """Refuses rows that are there twice."""
    if len(x.unique(dim=0)) < len(x):
        raise ValueError("a row is there twice")
    regression(x, y)


@pytest.mark.parametrize("sizes", [(5, 6, 7), (5, 6, 8)], ids=str)
@pytest.mark.parametrize("model", [correlated, once_each], ids=lambda model: model.__name__)
def test_a_program_that_fails_on_repeated_rows_is_run_size_by_size(model, sizes):
    case = Case(model, AutoNormal(model), pairs(sizes), pairs(sizes[::-1]))
    with pytest.warns(pm.LoopWarning, match="run size by size.*can't be padded"):
        assert_same(case, pm.Engine(), steps=1)


def test_the_failure_on_repeated_rows_is_told():
    case = Case(once_each, AutoNormal(once_each), pairs((5, 6, 7)), pairs((5, 6, 7)))
    with pytest.raises(
        pm.UnsupportedProgramError, match="repeated the program fails, ValueError: a row is there twice"
    ):
        meta_svi(case, pm.Engine(vectorize=True)).step(case.support, case.query)
