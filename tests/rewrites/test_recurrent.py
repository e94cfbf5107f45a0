"""GRU, LSTM and RNN run side by side, by formula: against torch's own, to every order, and faster than the loop."""

import statistics
import time
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pyrometa as pm
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.rewrites import recurrences

KINDS = {
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "tanh": nn.RNN,
    "ReLU": lambda *sizes, **options: nn.RNN(*sizes, nonlinearity="relu", **options),
}
SHAPES = {
    "plain": {},
    "deep": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without bias": {"bidirectional": True, "bias": False},
}
CELLS = {
    "GRU": nn.GRUCell,
    "LSTM": nn.LSTMCell,
    "tanh": nn.RNNCell,
    "ReLU": lambda *sizes, **options: nn.RNNCell(*sizes, nonlinearity="relu", **options),
}


def double(*shape):
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def weighed(values):
    return sum((v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).view(v.shape)).sum() for v in values)


def flat(result):
    return [part for value in result for part in (value if isinstance(value, tuple) else (value,))]


def to_second_order(run, leaves):
    """Values, and the first and a second derivative of a function of them."""
    values = flat(run())
    first = torch.autograd.grad(weighed([v.sin() for v in values]), leaves, create_graph=True)
    return [*values, *first, *torch.autograd.grad(weighed(first), leaves)]


def assert_formula_is_torchs(run, leaves):
    expected = to_second_order(run, leaves)
    with BatchedNoise(()):
        found = to_second_order(run, leaves)
    for f, e in zip(found, expected, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


def state_of(net, rows):
    depth = net.num_layers * (2 if net.bidirectional else 1)
    state = (double(depth, rows, net.proj_size or net.hidden_size), double(depth, rows, net.hidden_size))
    return state if isinstance(net, nn.LSTM) else state[0]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_is_torchs(kind, shape):
    net = KINDS[kind](3, 4, **SHAPES[shape]).double()
    x, state = double(5, 5, 3), state_of(net, 5)
    assert_formula_is_torchs(lambda: net(x), [*net.parameters(), x])
    assert_formula_is_torchs(lambda: net(x, state), [*net.parameters(), x, *flat([state])])
    assert_formula_is_torchs(lambda: net(x[0]), [*net.parameters(), x])


def test_the_formula_of_a_projected_lstm_is_torchs():
    net = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2).double()
    x, state = double(5, 2, 3), state_of(net, 2)
    assert_formula_is_torchs(lambda: net(x, state), [*net.parameters(), x, *state])


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_of_packed_sequences_is_torchs(kind):
    net = KINDS[kind](3, 4, num_layers=2, bidirectional=True, batch_first=True).double()
    x, state = double(4, 4, 3), state_of(net, 4)

    def run():
        packed = pack_padded_sequence(x, torch.tensor([2, 4, 1, 4]), batch_first=True, enforce_sorted=False)
        output, end = net(packed, state)
        padded, lengths = pad_packed_sequence(output, batch_first=True, padding_value=0.5, total_length=6)
        assert lengths.tolist() == [2, 4, 1, 4]
        return padded, end

    assert_formula_is_torchs(run, [*net.parameters(), x])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_the_formula_of_a_cell_is_torchs(kind, bias):
    cell, x = CELLS[kind](3, 4, bias=bias).double(), double(5, 3)
    assert_formula_is_torchs(lambda: (cell(x),), [*cell.parameters(), x])


@pytest.mark.parametrize(
    ("cell", "gates", "parts"),
    [
        (recurrences.GRU, 3, 1),
        (recurrences.LSTM, 4, 2),
        (recurrences.RNN_TANH, 1, 1),
        (recurrences.RNN_RELU, 1, 1),
    ],
)
def test_recurrences_have_derivatives_of_every_order(cell, gates, parts):
    batch, steps, rows, units = 2, 3, 1, 2
    behind = 1 if cell is recurrences.GRU else 0
    leaves = [double(batch, units, gates * units), double(batch, steps, rows, (gates + behind) * units)]
    leaves += [double(batch, rows, units) for _ in range(parts)]

    def run(weight, given, *start):
        return recurrences.recurrence(cell, weight, start, given)

    def second(*leaves):
        return torch.autograd.grad(weighed([part.sin() for part in run(*leaves)]), leaves, create_graph=True)

    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(second, leaves, fast_mode=True)


class SequenceVAE(nn.Module):
    """A VAE of sequences whose guide reads them by one recurrent network."""

    def __init__(self, net, steps=4, features=2):
        super().__init__()
        self.net, self.shape = net, (steps, features)
        width = net.hidden_size * (2 if net.bidirectional else 1)
        self.out, self.decoder = nn.Linear(width, 4), nn.Linear(2, steps * features)

    def model(self, x, *lengths):
        pyro.module("vae", self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.decoder(z).unflatten(-1, self.shape)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(2), obs=x)

    def guide(self, x, *lengths):
        pyro.module("vae", self)
        loc, scale = self.out(self.read(x, *lengths)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    def read(self, x):
        return self.net(x)[0][:, -1]


class PackedVAE(SequenceVAE):
    def read(self, x):
        packed = pack_padded_sequence(x, [4, 3, 1], batch_first=True)
        return pad_packed_sequence(self.net(packed)[0], batch_first=True)[0].mean(1)


class CellVAE(SequenceVAE):
    def read(self, x):
        h = self.net(x[:, 0])
        for step in range(1, 4):
            h = self.net(x[:, step], h)
        return h


def gru(**options):
    return nn.GRU(2, 3, batch_first=True, **options)


def gru_cell():
    cell = nn.GRUCell(2, 3)
    cell.bidirectional = False
    return cell


PROGRAMS = {
    "GRU": lambda: SequenceVAE(gru()),
    "LSTM": lambda: SequenceVAE(nn.LSTM(2, 3, batch_first=True, bidirectional=True)),
    "RNN": lambda: SequenceVAE(nn.RNN(2, 3, num_layers=2, batch_first=True)),
    "dropout": lambda: SequenceVAE(gru(num_layers=2, dropout=0.4)),
    "packed, dropout": lambda: PackedVAE(gru(num_layers=2, dropout=0.4)),
    "cell": lambda: CellVAE(gru_cell()),
}


def meta_svi(make, engine):
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = make().double()
    optim, inner = pyro.optim.Adam({"lr": 1e-3}), pm.SGD(1e-2)
    return pm.MetaSVI(vae.model, vae.guide, optim, inner=inner, steps=2, adapt="both", engine=engine)


def sets():
    return torch.sin(torch.arange(2 * 3 * 3 * 4 * 2.0, dtype=torch.float64)).view(2, 3, 3, 4, 2)


def loss_and_grads(make, engine):
    meta, (support, query) = meta_svi(make, engine), sets()
    meta.init(support)
    torch.manual_seed(7)
    loss, grads = meta.loss_and_grads(support, query)
    return loss, torch.cat([grad.flatten() for grad in grads.values()])


@pytest.mark.parametrize("name", PROGRAMS)
def test_engines_agree(name):
    loss, grads = loss_and_grads(PROGRAMS[name], pm.Engine(vectorize=False))
    for engine in (pm.Engine(vectorize=True), pm.Engine(vectorize=True, chunk_size=2)):
        found, found_grads = loss_and_grads(PROGRAMS[name], engine)
        torch.testing.assert_close(found, loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(found_grads, grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", [pm.Engine(vectorize=False), pm.Engine(vectorize=True)], ids=["loop", "vmap"])
def test_the_meta_gradient_is_that_of_central_differences(engine):
    meta, (support, query) = meta_svi(PROGRAMS["GRU"], engine), sets()
    meta.init(support)
    leaves = dict(meta.named_parameters())

    def loss():
        torch.manual_seed(7)
        return meta.loss_and_grads(support, query)

    _, grads = loss()
    way = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    ends = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf += step * way[name]
        ends.append(loss()[0])
    along = sum((grads[name] * way[name]).sum() for name in leaves)
    torch.testing.assert_close(along, (ends[0] - ends[1]) / 2e-5, rtol=1e-7, atol=0)


class RaggedVAE(SequenceVAE):
    """Reads sequences of lengths that each task has of its own."""

    total_length = 4

    def read(self, x, lengths):
        sequences, end = self.net(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
        whole, _ = pad_packed_sequence(sequences, batch_first=True, total_length=self.total_length)
        return whole.sum(1) + torch.cat([end[-2], end[-1]], -1)


def ragged_sets():
    lengths = torch.tensor([[[4, 3, 1], [4, 4, 4], [2, 3, 2]], [[1, 1, 2], [2, 4, 3], [3, 1, 1]]])
    return list(zip(sets(), lengths, strict=True))


@pytest.mark.parametrize("engine", [pm.Engine(vectorize=True), pm.Engine(record=True)], ids=["vmap", "record"])
def test_sequences_of_each_tasks_own_lengths(engine):
    """Recorded, too."""
    found = []
    for each in (pm.Engine(vectorize=False), engine):
        meta = meta_svi(lambda: RaggedVAE(gru(bidirectional=True)), each)
        meta.init(ragged_sets()[0])
        torch.manual_seed(7)
        loss, grads = meta.loss_and_grads(*ragged_sets())
        found.append(torch.cat([loss[None], *(grad.flatten() for grad in grads.values())]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-10)


def test_what_is_padded_to_each_tasks_own_longest_is_run_one_by_one():
    class Longest(RaggedVAE):
        total_length = None

    with pytest.warns(pm.LoopWarning, match="longest of its own(?s:.*)total_length="):
        meta_svi(lambda: Longest(gru(bidirectional=True)), pm.Engine()).step(ragged_sets()[0])


def test_what_torch_would_not_pack_is_never_counted():
    class CountsAll(RaggedVAE):
        def read(self, x, lengths):
            sequences = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            return self.net(sequences)[0].data.sum(0).expand(3, -1)

    with pytest.warns(pm.LoopWarning, match="differs from the reference"):
        meta_svi(lambda: CountsAll(gru(bidirectional=True)), pm.Engine()).step(ragged_sets()[0])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["GRU", "LSTM", "tanh"])
def test_sixteen_tasks_are_four_times_faster_than_the_loop(kind):
    """In CPU time on one thread, medians of five meta-steps each, in turn."""
    support, query = torch.randn(2, 16, 10, 12, 3)
    times = {}
    metas = {}
    for name, engine in {"side by side": pm.Engine(), "loop": pm.Engine(vectorize=False)}.items():
        pyro.clear_param_store()
        vae = SequenceVAE(KINDS[kind](3, 16, batch_first=True), steps=12, features=3)
        metas[name] = pm.MetaSVI(
            vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-4}), inner=pm.SGD(1e-3), steps=5, engine=engine
        )
        times[name] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(6):
                for name, meta in metas.items():
                    started = time.process_time()
                    meta.step(support, query)
                    times[name].append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    ratio = statistics.median(times["loop"][1:]) / statistics.median(times["side by side"][1:])
    assert ratio >= 4, ratio
