"""Simplified graphs make the same outputs, from fewer operations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx

from pyrometa.recording.simplify import simplified

aten = torch.ops.aten


def recorded(function, *inputs):
    graph = simplified(make_fx(function)(*inputs), inputs)
    others = [torch.randn_like(x) for x in inputs]  # a constant that is none would show
    for given_inputs in (inputs, others):
        expected = function(*given_inputs)
        found = graph(*given_inputs)
        for f, e in zip(found, expected, strict=True):
            torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-14 * max(1.0, e.abs().max().item()))
    return graph


def is_call(node, name):
    return node.op == "call_function" and name in node.target.__name__  # its repr has an address, such as 0x7fadd0


def calls(graph, name):
    return sum(is_call(node, name) for node in graph.graph.nodes)


def operations(graph):
    return sum(node.op == "call_function" for node in graph.graph.nodes)


SEEDED = torch.Generator().manual_seed(0)
X, Y = torch.randn(2, 3, 4, dtype=torch.float64, generator=SEEDED)


def test_what_is_known_is_not_computed_again():
    graph = recorded(lambda x, y: [torch.exp(x * y) + torch.exp(x * y)], X, Y)
    assert (calls(graph, "mul"), calls(graph, "exp")) == (1, 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x.neg().neg()],
        lambda x: [x + torch.zeros(4, dtype=x.dtype)],
        lambda x: [torch.zeros_like(x) + x],
        lambda x: [x * torch.ones(3, 1, dtype=x.dtype)],
        lambda x: [x / 1.0],
        lambda x: [x - 0.0],
        lambda x: [x.view(12).view(3, 4)],
        lambda x: [x.t().transpose(0, 1).clone()],
        lambda x: [torch.cat(x.split([1, 3], -1), -1)],
        lambda x: [x.expand(3, 4).contiguous()],
    ],
)
def test_nothing_is_left_of_what_changes_nothing(function):
    assert operations(recorded(function, X)) <= 1  # a view may remain


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x + torch.zeros(2, 3, 4, dtype=x.dtype)],
        lambda x: [x * torch.ones(2, 1, 1, dtype=x.dtype)],
        lambda x: [x.float() + torch.zeros(4, dtype=torch.float64)],
        lambda x: [x.view(4, 3)],
        lambda x: [torch.cat(x.split([1, 3], -1)[::-1], -1)],
        lambda x: [x.transpose(0, 1)],
    ],
)
def test_what_changes_shape_or_order_stays(function):
    recorded(function, X)


def test_constants_are_made_once():
    graph = recorded(lambda x: [x + (torch.arange(4.0, dtype=x.dtype) * 2).exp()], X)
    assert operations(graph) == 1


def test_a_number_that_is_made_a_tensor_goes_with_the_others():
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    number = graph.call_function(aten._to_copy.default, (0.5,), {"dtype": X.dtype})  # has no device of its own
    total = graph.call_function(aten.sum.default, (graph.call_function(aten.mul.Tensor, (x, number)),))
    totals = graph.call_function(aten.expand.default, (total, [2, 3, 4]))
    graph.output([graph.call_function(aten.mul.Tensor, (totals, x))])
    (found,) = simplified(torch.fx.GraphModule(torch.nn.Module(), graph), (X,))(X)
    torch.testing.assert_close(found, (0.5 * X.sum() * X).expand(2, 3, 4))


def test_negated_terms_are_subtracted():
    graph = recorded(lambda x, y: [x + y.neg(), y.neg() + x, x - y.neg()], X, Y)
    assert [calls(graph, name) for name in ("neg", "sub", "add")] == [0, 1, 1]


def test_constants_full_of_a_number_are_numbers():
    graph = recorded(lambda x: [torch.full((3, 4), 0.5, dtype=x.dtype) * x, x * torch.full((2, 1, 4), 3.0)], X)
    (half, three) = (node for node in graph.graph.nodes if is_call(node, "mul"))
    assert half.args[1] == 0.5
    assert not isinstance(three.args[1], float)  # it has another shape


def test_numbers_in_a_row_are_one():
    graph = recorded(lambda x, y: [(2 * x * 3.0).neg(), y.neg() * -0.5, x.pow(0) * y, x.neg().neg() * -1.0], X, Y)
    numbers = [node.args[1] for node in graph.graph.nodes if is_call(node, "mul")]
    assert (numbers, operations(graph)) == ([-6.0, 0.5, -1.0], 3)


@pytest.mark.parametrize("number", [0.0, 1.0])
def test_a_number_less_something(number):
    graph = recorded(lambda x: [torch.full_like(x, number) - x, torch.rsub(x, number)], X)
    assert calls(graph, "neg") == (number == 0)


def elements(graph, name, *inputs):
    """Of the results of some operations."""
    made = {}

    class Sizes(torch.fx.Interpreter):
        def run_node(self, node):
            made[node] = super().run_node(node)
            return made[node]

    Sizes(graph).run(*inputs)
    return [value.numel() for node, value in made.items() if is_call(node, name) and value.numel() > 1]


def test_operations_are_on_what_is_expanded_not_on_what_it_is_expanded_to():
    def scaled(x, y):
        scale = x[:, :1].expand(3, 4).exp()
        return [(y - x) / scale.square() - scale.log(), torch.full_like(x, 2.0) / scale, scale.t()]

    graph = recorded(scaled, X, Y)
    assert [elements(graph, name, X, Y) for name in ("pow", "log")] == [[3], [3]]
    assert sorted(elements(graph, "div", X, Y)) == [3, 12]


def test_results_can_be_written_to():
    def constants(x, y):
        parts = torch.arange(6.0).split([2, 4])[1], torch.arange(4000.0)[::1000]  # the latter is too large to be kept
        return [torch.zeros_like(x), *parts, x[:, :1].expand(3, 4), y[0].exp().expand(3, 4).neg()]

    graph = recorded(constants, X, Y)
    before = [value.clone() for value in graph(X, Y)]
    for value in graph(X, Y):
        value.add_(1.0)
    assert all(map(torch.equal, graph(X, Y), before))


def test_what_is_smaller_goes_first():
    def density(x, y):
        small = y[:, :1]
        return [x.square().neg() / small - small.exp() - 0.9, x.neg() * small]

    graph = recorded(density, X, Y)
    assert sum(len([n for n in elements(graph, name, X, Y) if n == 12]) for name in ("add", "sub", "neg")) == 1


def since_the_first(x):
    return x - x[:, :1] + 0.01


def below_the_first(x):
    return x / 10.0 - x[:, :1] / 10.0 - 0.01


def small_twice(x):
    return (x + 1e30) * 1e-25 * 1e-25


@pytest.mark.parametrize("function", [since_the_first, below_the_first, small_twice])
def test_digits_that_numbers_have_alone_are_not_lost(function):
    x = torch.arange(12.0).view(3, 4)
    graph = simplified(make_fx(lambda x: [function(x)])(x), (x,))
    torch.testing.assert_close(graph(x + 1e5)[0], function(x + 1e5), rtol=1e-6, atol=0.0)


def test_a_scalar_that_is_expanded_keeps_its_say_in_the_precision():
    graph = recorded(lambda x, y: [x.sum().expand(3, 4) + y.float()], X, Y)
    (total,) = graph(X, Y)
    assert total.dtype == torch.float64


COLUMNS = torch.randn(40, 50, 1, dtype=torch.float64, generator=SEEDED)
DATA = torch.randn(2, 50, 60, dtype=torch.float64, generator=SEEDED)


def columns(t, xy):
    """Sums over data of what is linear in columns, as in a Hessian."""
    x, y = xy
    s = y[:, :1].exp()
    a = t * x.sin()
    b = t.neg() * x + 0.5 * (t * 2.0 * y) / s
    c = (t * t.sum(0)).expand(40, 50, 60) * (y * s)
    return [(a * y).sum(-1), (a - b).sum([-1], True), ((b + c) * x / s - c).sum(-1), (a + c).sum([0, 2])]


def test_what_does_not_change_along_a_sum_is_taken_out_of_it():
    graph = recorded(columns, COLUMNS, DATA)
    largest = max(max(elements(graph, name, COLUMNS, DATA), default=0) for name in ("mul", "div", "add", "sub", "neg"))
    assert largest == 50 * 60  # not 40 * 50 * 60


def test_digits_that_cancel_before_they_are_summed_still_do():
    x, m = 1e8 + torch.rand(40, 60, 70, dtype=torch.float64), 1e8 + torch.rand(40, 60, 1, dtype=torch.float64)
    graph = simplified(make_fx(lambda x, m: [((x - m) * 2.0 * m).sum(-1)])(x, m), (x, m))
    exact = ((x - m) * 2.0).sum(-1) * m[..., 0]
    torch.testing.assert_close(graph(x, m)[0], exact, rtol=1e-12, atol=0.0)
    assert calls(graph, "sub") == 1


def test_what_is_used_besides_is_not_made_twice():
    def used(t, xy):
        product = t * xy[0]
        return [product.sum(-1), product.exp().mean()]

    graph = recorded(used, COLUMNS, DATA)
    assert calls(graph, "mul") == 1


def test_nothing_stays_of_what_turns_out_dearer():
    graph = recorded(lambda x, y: [(x.neg() * y[:1]).sum([0, 1]), x.sum(None)], X, Y)
    assert all(node.users for node in graph.graph.nodes if node.op == "call_function")


def test_random_operations_stay_random():
    def two_draws(x):
        return [x + torch.rand(4, dtype=x.dtype), x + torch.rand(4, dtype=x.dtype)]

    graph = simplified(make_fx(two_draws)(X), (X,))
    first, second = graph(X)
    assert not torch.equal(first, second)
    assert not torch.equal(graph(X)[0], graph(X)[0])


def test_writes_in_place_are_kept():
    def write(x):
        y = x.clone()
        y[0] = 0.0
        y.mul_(2.0)
        return [y + x]

    recorded(write, X)


def test_a_blank_that_is_filled_for_nobody_is_dropped():
    def fill(x):
        torch.empty_like(x).fill_(2.0)
        return [x.neg().neg()]

    assert operations(recorded(fill, X)) == 0


def sites(*flat):
    """The same operations on each part of a few tensors, as the sites of a program make them."""
    sizes = [4, 1, 6]
    parts = [
        [p.view(3, *shape) for p, shape in zip(x.split(sizes, -1), [(2, 2), (1,), (6,)], strict=True)] for x in flat
    ]
    done = [(loc + scale.exp() * noise).tanh() for loc, scale, noise in zip(*parts, strict=True)]
    used = [value.flatten(1).sum(1) for value in done]
    return [torch.cat([value.flatten(1) for value in done], -1) / 2, *used]


def test_like_operations_on_parts_are_one_on_the_whole():
    flat = [torch.randn(3, 11, dtype=torch.float64) for _ in range(3)]
    graph = recorded(sites, *flat)
    assert [calls(graph, name) for name in ("exp", "mul", "tanh", "add", "cat")] == [1, 1, 1, 1, 0]


def test_one_part_alone_is_not_made_whole():
    graph = recorded(lambda x: [x.split([10, 1], -1)[1].exp()], torch.randn(3, 11, dtype=torch.float64))
    (exp,) = (node for node in graph.graph.nodes if is_call(node, "exp"))
    assert exp.args[0].op == "call_function"


OPERATIONS = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / (1 + b * b),
    "neg": lambda a, b: -a,
    "double": lambda a, b: a + a,
    "sigmoid": lambda a, b: torch.sigmoid(a),
    "softplus": lambda a, b: torch.nn.functional.softplus(a) + b,
    "zero": lambda a, b: a + torch.zeros_like(b),
    "one": lambda a, b: a * torch.ones_like(b),
    "turn": lambda a, b: a.transpose(0, 1).reshape(4, 6) @ b.reshape(6, 4) @ a.reshape(4, 6),
    "view": lambda a, b: a.reshape(2, 12).reshape(4, 6),
    "parts": lambda a, b: torch.cat(
        [p * q for p, q in zip(a.split([1, 2, 3], -1), b.split([1, 2, 3], -1), strict=True)], -1
    ),
}


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=10
    )
)
def programs_and_their_second_derivatives(program):
    def run(*inputs):
        inputs = [x.detach().requires_grad_() for x in inputs]
        values = list(inputs)
        for name, i, j in program:
            values.append(OPERATIONS[name](values[i % len(values)], values[j % len(values)]).reshape(4, 6))
        loss = values[-1].tanh().square().sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True, allow_unused=True)
        first = [g if g is not None else torch.zeros_like(x) for g, x in zip(first, inputs, strict=True)]
        second = torch.autograd.grad(sum((g * g).sum() for g in first) + loss, inputs, allow_unused=True)
        return [loss.detach(), *(g for g in second if g is not None)]

    torch.manual_seed(0)
    recorded(run, *torch.randn(3, 4, 6, dtype=torch.float64))


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_programs_and_their_second_derivatives(examples):
    settings(max_examples=examples, deadline=None, derandomize=True)(programs_and_their_second_derivatives)()


def written_over(function, *inputs):
    """A graph that may write in place: what it makes is the same to the last bit, and its inputs stay what they are."""
    before = [x.clone() for x in inputs]
    plain, graph = (simplified(make_fx(function)(*inputs), inputs, in_place=way) for way in (False, True))
    assert all(torch.equal(f, p) for _ in range(2) for f, p in zip(graph(*inputs), plain(*inputs), strict=True))
    assert all(torch.equal(x, b) for x, b in zip(inputs, before, strict=True))
    return sum(node.op == "call_function" and node.target.__name__.endswith("_") for node in graph.graph.nodes)


@pytest.mark.parametrize(
    ("function", "in_place"),
    [
        (lambda x, y: [(x.exp() * y).tanh() + 1.5], 3),
        (lambda x, y: [y / (x @ y.t()).sigmoid().sum()], 1),
        (lambda x, y: [x - y.exp()], 0),  # the first operand is an input
        (lambda x, y: [x + y.exp()], 1),
        (lambda x, y: [x.neg(), y.cos()], 0),
        (lambda x, y: [x.exp(), x.exp().sin() * 2], 1),  # what is a result is left alone
        (lambda x, y: [(x * y).view(12).exp(), y], 0),  # a view may be seen by another name
        (lambda x, y: [(e := x.exp()).sin() + e.t().sum() + e * y], 2),
        (lambda x, y: [x[:1].exp() + y], 0),  # too small to hold the result
        (lambda x, y: [(x.exp() > 1) * y], 0),  # of another type
        (lambda x, y: [x.exp().t() * y.t()], 0),
        (lambda x, y: [(x.exp() * 2).expand(2, 3, 4)], 1),
    ],
)
def test_results_are_written_over_what_nothing_else_needs(function, in_place):
    assert written_over(function, X, Y) == in_place
