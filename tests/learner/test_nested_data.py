"""Data as people hold it: a nest of tensors says what the same tensors say as positional arguments."""

import dataclasses
import types
from collections import OrderedDict, UserDict, defaultdict, namedtuple
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoNormal
from torch.utils.data import DataLoader, TensorDataset

import pyrometa as pm
from pyrometa import nest
from pyrometa.guides import SetEncoderGuide
from pyrometa.tasks import MetaBatch

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass(frozen=True)
class Frozen:
    x: torch.Tensor
    y: torch.Tensor
    name: str | None = None


@dataclasses.dataclass
class Derived:
    """The number of rows is that of the data at hand, whatever they were made from."""

    y: torch.Tensor
    x: torch.Tensor
    rows: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.rows = len(self.x)


@dataclasses.dataclass(slots=True, frozen=True)
class Slots:
    pair: tuple[torch.Tensor, dict[str, Any]]


NESTS = {
    "dict": (lambda x, y: {"x": x, "y": y}, lambda d: (d["x"], d["y"])),
    "deep": (
        lambda x, y: {"x": [None, (x, "text")], "of": {"y": y, "n": 3}},
        lambda d: (d["x"][1][0], d["of"]["y"]),
    ),
    "named tuple": (Pair, lambda d: (d.x, d.y)),
    "frozen dataclass": (Frozen, lambda d: (d.x, d.y)),
    "derived field": (lambda x, y: Derived(y, x), lambda d: (d.x[: d.rows], d.y)),
    "slots": (lambda x, y: Slots((x, {"y": y})), lambda d: (d.pair[0], d.pair[1]["y"])),
    "OrderedDict": (lambda x, y: OrderedDict(x=x, y=y), lambda d: (d["x"], d["y"])),
    "defaultdict": (lambda x, y: defaultdict(list, x=x, y=y), lambda d: (d["x"], d["y"] if d["z"] == [] else None)),
    "UserDict": (lambda x, y: UserDict(x=x, y=y), lambda d: (d["x"], d["y"])),
    "mapping proxy": (lambda x, y: types.MappingProxyType({"x": x, "y": y}), lambda d: (d["x"], d["y"])),
}


def regression(x, y):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def model_of(parts):
    return lambda data: regression(*parts(data))


def rows(*sizes):
    return [(torch.randn(n, 3, dtype=torch.float64), torch.randn(n, dtype=torch.float64)) for n in sizes]


def stacked(tasks):
    return tuple(torch.stack(column) for column in zip(*tasks, strict=True))


def meta_svi(model, guide=None, **options):
    pyro.clear_param_store()
    guide = AutoNormal(model) if guide is None else guide
    options = {"inner": pm.SGD(0.01), "steps": 2, "reduction": "mean", **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), **options)


def results(meta, support, query):
    """All that a user gets: loss, gradients, losses of all steps, adapted parameters; and the loss of a step."""
    torch.manual_seed(3)
    loss, grads = meta.loss_and_grads(support, query)
    losses = meta.evaluate(support, query, steps=(0, 2))
    adapted = [value for guide in meta.adapt_many(support) for value in guide.state_dict().values()]
    return loss, list(grads.values()), losses, adapted, meta.step(support, query)


def assert_same(make, parts, supports, queries, engine=None, join=lambda tasks, make: make(*stacked(tasks))):
    flat, loop = (lambda x, y: (x, y)), pm.Engine(vectorize=False)
    expected = results(meta_svi(regression, engine=loop), join(supports, flat), join(queries, flat))
    meta = meta_svi(model_of(parts), engine=engine or pm.Engine(vectorize=True))
    found = results(meta, join(supports, make), join(queries, make))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", NESTS)
def test_any_nest_is_a_task(kind):
    assert_same(*NESTS[kind], rows(5, 5, 5), rows(4, 4, 4))


@pytest.mark.parametrize("kind", ["deep", "named tuple", "derived field"])
@pytest.mark.parametrize("engine", [pm.Engine(vectorize=False), pm.Engine(chunk_size=2)], ids=["loop", "chunks"])
def test_in_every_engine(kind, engine):
    assert_same(*NESTS[kind], rows(5, 5, 5), rows(4, 4, 4), engine)


def evaluations(metas, *calls):
    """What each evaluation says under one seed, for a recorded program and one that is not."""
    for data, kwargs in calls:
        found = []
        for meta in metas:
            torch.manual_seed(1)
            found.append(meta.evaluate(data, kwargs=kwargs))
        yield found


def pair_of(model):
    return [meta_svi(model, steps=1, engine=pm.Engine(record=record)) for record in (True, False)]


def test_recorded():
    make, parts = NESTS["deep"]
    metas = pair_of(model_of(parts))
    for found in evaluations(metas, *((make(*stacked(rows(5, 5))), None) for _ in range(2))):
        torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
    assert len(metas[0].recordings()) == 1


@pytest.mark.parametrize("kind", ["deep", "frozen dataclass", "named tuple"])
@pytest.mark.parametrize("sizes", [(4, 2, 7), (3, 3, 3)])
def test_a_list_of_nests_is_tasks_of_any_sizes(kind, sizes):
    def join(tasks, make):
        return [make(*task) for task in tasks]

    assert_same(*NESTS[kind], rows(*sizes), rows(*sizes[::-1]), join=join)


def test_a_nest_among_positional_arguments():
    def model(data, y):
        regression(data["x"], y)

    x, y = stacked(rows(5, 5))
    torch.manual_seed(0)
    expected = meta_svi(regression).evaluate((x, y))
    torch.manual_seed(0)
    torch.testing.assert_close(meta_svi(model).evaluate(({"x": x}, y)), expected)


def test_low_rank_layers_on_a_nest():
    """The layer's input is known to be data: its rank does not grow with the steps."""
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).double()

    def guide(data):
        pyro.module("net", net)
        loc = net(data["x"]).mean(0)
        pyro.sample("w", dist.Normal(torch.cat([loc, loc[:1]]), 1.0).to_event(1))

    meta = meta_svi(model_of(NESTS["dict"][1]), guide, engine=pm.Engine(vectorize=True, low_rank=True))
    x, y = stacked(rows(5, 5))
    assert meta.plan({"x": x, "y": y})["guide.net.weight"] == "low-rank: rank 5"


def test_a_set_encoder_reads_a_nest():
    make, parts = NESTS["deep"]
    supports, queries = rows(4, 2, 7), rows(3, 3, 3)
    found = []
    for vectorize in (False, True):
        torch.manual_seed(0)
        encoder = torch.nn.Linear(4, 4).double()

        def features(data, encoder=encoder):
            x, y = parts(data)
            return encoder(torch.cat([x, y[:, None]], -1))

        model = model_of(parts)
        meta = meta_svi(model, SetEncoderGuide(model, features), engine=pm.Engine(vectorize=vectorize))
        found.append(results(meta, [make(*task) for task in supports], [make(*task) for task in queries]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


def test_an_adapted_guide_takes_a_nest():
    make, parts = NESTS["frozen dataclass"]
    (x, y), *_ = rows(5)
    guide = meta_svi(model_of(parts)).adapt(make(x, y))
    drawn = Predictive(guide.model, guide=guide, num_samples=3)(make(x, None))
    assert drawn["y"].shape == (3, 5)


def test_a_batch_of_a_loader_of_dictionaries():
    tasks = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(rows(5, 5, 5))]
    batch = next(iter(DataLoader(tasks, batch_size=3)))
    assert batch["id"].shape == (3,)
    losses = meta_svi(model_of(NESTS["dict"][1])).evaluate(batch)
    assert losses.shape == (3, 3)


def test_tasks_with_values_of_their_own_are_not_mixed():
    """What is not a tensor is each task's own in a list, padded or not."""

    def model(data):
        regression(data["x"] * data["scale"], data["y"])

    tasks = [{"x": x, "y": y, "scale": float(i + 1)} for i, (x, y) in enumerate(rows(4, 2, 7, 3))]
    found = []
    for engine in (pm.Engine(vectorize=False), pm.Engine()):
        torch.manual_seed(1)
        with (
            pytest.warns(pm.LoopWarning, match="differ in what is not a tensor") if engine.vectorize else nullcontext()
        ):
            found.append(meta_svi(model, engine=engine).evaluate(tasks))
    torch.testing.assert_close(*found)


def prior_model(x, y, loc, scale):
    w = pyro.sample("w", dist.Normal(loc, scale).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def test_a_recording_follows_tensors_in_nested_keyword_arguments():
    def model(x, y, prior):
        prior_model(x, y, **prior)

    data, loc, scale = stacked(rows(5, 5)), torch.zeros(3).double(), torch.ones(3).double()
    calls = [(data, {"prior": {"loc": loc + shift, "scale": scale}}) for shift in (0.0, 2.0)]
    for found in evaluations(pair_of(model), *calls):
        torch.testing.assert_close(*found)


def test_a_recording_tells_keyword_arguments_by_name():
    data, loc, scale = stacked(rows(5, 5)), torch.zeros(3).double(), torch.full((3,), 2.0).double()
    calls = [(data, {"loc": loc, "scale": scale}), (data, {"scale": scale, "loc": loc})]
    for found in evaluations(pair_of(prior_model), *calls):
        torch.testing.assert_close(*found)


X, Y = stacked(rows(5, 5, 5))

BAD = {
    "NaN": ({"x": X, "y": torch.where(Y[1].min() < Y, Y, torch.nan)}, r"support\['y'\] holds NaN"),
    "task counts": (Frozen(X, Y[:2]), r"support\.x: 3, support\.y: 2"),
    "a scalar": (Pair(X, torch.tensor(1.0)), r"support\.y is a scalar"),
    "no rows": ({"x": X[:, :0], "y": Y}, r"support\['x'\] is empty"),
    "no tasks": ({"x": X[:0], "y": Y[:0]}, "support holds no tasks"),
    "a place less": ({"x": X}, r"support\['y'\] has no tensor a task where the first meta-batch has 1 dimension"),
    "a place more": ({"x": X, "y": Y, "z": Y}, r"support\['z'\] has 1 dimension a task .* has no tensor"),
    "another rank": ({"x": X, "y": X}, r"support\['y'\] has 2 dimensions a task"),
    "NaN in a list": ([{"x": X[0], "y": Y[0]}, {"x": X[1] / 0, "y": Y[1]}], r"support\[1\]\['x'\] holds NaN"),
    "differing nests": ([{"x": X[0], "y": Y[0]}, {"x": X[1]}], r"support\[1\]\['y'\] has no tensor"),
    "within a tuple": (({"x": X, "y": Y / 0}, Y), r"support\[0\]\['y'\] holds NaN"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_data_is_refused_by_its_place(what):
    given, message = BAD[what]
    meta = meta_svi(model_of(NESTS["dict"][1]))
    meta.init({"x": X, "y": Y})
    for use in (meta.step, meta.evaluate):
        with pytest.raises(ValueError, match=message):
            use(given)


LOADED = {
    "unequal ranks": TensorDataset(X.float(), Y.float()),
    "labels": TensorDataset(Y.float(), Y.long()),
    "equal ranks": TensorDataset(X.float(), Y[..., None].float()),
    "a dictionary and a tensor": [({"x": x}, y) for x, y in zip(X, Y, strict=True)],
}


@pytest.mark.parametrize("what", LOADED)
def test_a_loaders_list_of_arguments_is_told_to_be_a_tuple(what):
    batch = next(iter(DataLoader(LOADED[what], batch_size=3)))
    assert isinstance(batch, list)
    with pytest.raises((TypeError, ValueError), match="use a tuple"):
        meta_svi(regression).step(batch)


def test_a_list_that_may_be_tasks_or_arguments_is_told_to_be_a_tuple():
    def model(x, y=None):
        scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(x, scale), obs=y)

    batch = next(iter(DataLoader(TensorDataset(Y, 2 * Y), batch_size=3)))
    for use in (lambda meta: meta.step, lambda meta: meta.init, lambda meta: meta.adapt_many):
        with pytest.raises(TypeError, match=r"a model of \(x, y=None\).* use a tuple.*\[\(x,\) for x in tasks\]"):
            use(meta_svi(model))(batch)
    meta = meta_svi(model)
    meta.init(tuple(batch))
    with pytest.raises(ValueError, match="1 arguments and the first meta-batch has 2"):
        meta.step(batch)
    meta_svi(model).step([(x, 2 * x) for x in Y])


def test_arguments_that_a_model_does_not_take():
    with pytest.raises(TypeError, match=r"2 arguments for a model of \(data\), too many.* use a tuple"):
        meta_svi(model_of(NESTS["dict"][1])).init((X, Y))


def test_rows_without_columns_are_data():
    def model(y, covariates):
        level = pyro.sample("level", dist.Normal(0.0, 10.0))
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([covariates.shape[-1]]).to_event(1))
        with pyro.plate("time", len(y)):
            pyro.sample("y", dist.Normal(level + covariates @ weights, 1.0), obs=y)

    meta, none = meta_svi(model), torch.zeros(3, 5, 0)
    meta.step((Y.float(), none))
    meta.step([(y.float(), n) for y, n in zip(Y, none, strict=True)])
    meta.adapt((Y[0].float(), none[0]))
    with pytest.raises(ValueError, match=r"support\[1\] is empty: shape \(3, 0, 5\)"):
        meta.step((Y.float(), torch.zeros(3, 0, 5)))


def test_a_meta_batch_of_nests():
    batch = MetaBatch({"x": X, "y": Y}, Frozen(X, Y, "query"))
    assert len(batch) == 3
    support, query = batch[1]
    assert torch.equal(support["y"], Y[1])
    assert (query.name, query.x.shape) == ("query", (5, 3))
    assert batch[:2].to(torch.float32).support["x"].dtype == torch.float32
    with pytest.raises(ValueError, match="support has 3 and 2"):
        MetaBatch({"x": X, "y": Y[:2]}, X)


def test_what_holds_no_tensor_stays_itself():
    inner = {"a": [1, 2]}
    moved = nest.mapped(lambda tensor: tensor + 1, {"x": X, "inner": inner, "empty": (), "size": X.shape})
    assert moved["inner"] is inner
    assert isinstance(moved["size"], torch.Size)
    assert_equal({"x": moved["x"]}, {"x": X + 1})


def test_layouts_are_equal_where_nests_are_alike():
    def layout(value):
        return nest.layout(value, lambda tensor: tensor.shape)

    assert layout({"x": X, "n": 1.5, "none": {}}) == layout({"x": X + 1, "n": 1.5, "none": {}})
    for other in ({"x": X}, {"x": X, "n": 2.5}, {"n": 1.5, "x": X}, Pair(X, 1.5), [X, 1.5]):
        assert layout({"x": X, "n": 1.5}) != layout(other)
    assert hash(layout({"x": X, "f": print})) == hash(layout({"x": X, "f": print}))
