"""What every algorithm must do: the same properties for each row of the table, with no special cases."""

import pyro
import pytest
import torch
from algorithm_rows import LR
from by_hand import ByHand
from meta_cases import as_args, assert_equal, store, task, values
from programs import Case, Decoder, Encoder, modules, rows
from pyro.infer import Predictive, TraceMeanField_ELBO

import pyrometa as pm

pytestmark = pytest.mark.gpu


def two_tasks():
    case = modules()
    return Case(case.model, case.guide, case.support[:2], case.query[:2])


def built(row, case, **options):
    """An algorithm that has seen data, with what its rule learns away from its start, where derivatives are zero."""
    meta = row.build(case, **options)
    meta.init(case.support)
    with torch.no_grad():
        for name, leaf in meta.named_parameters():
            if name.startswith("inner."):
                leaf.mul_(1 + 0.1 * torch.randn_like(leaf)).add_(0.1 * LR * torch.randn_like(leaf))
    return meta


def seeded(meta, case, seed=1):
    torch.manual_seed(seed)
    return meta.loss_and_grads(case.support, case.query)


def slope(function, at, direction, eps=1e-6):
    """The central difference of a function of named values, along a direction."""
    ends = [function({**at, **{n: at[n] + e * d for n, d in direction.items()}}) for e in (eps, -eps)]
    return (ends[0] - ends[1]).item() / (2 * eps)


def directions(meta, names):
    """One direction in the program's leaves, one in the rule's."""
    leaves = dict(meta.named_parameters())
    for inner in (False, True):
        group = {n: torch.randn_like(leaves[n]) for n in sorted(names) if n.startswith("inner.") == inner}
        if group:
            yield group


def along(grads, direction):
    return sum((grads[n] * d).sum().item() for n, d in direction.items())


@pytest.mark.thinned(2)
@pytest.mark.usefixtures("zero_noise", "module_local_params")
def test_the_meta_gradient_is_what_it_is_by_definition(row):
    """Against central differences of steps taken by hand, those that count as constants held at their values."""
    case = two_tasks()
    meta = built(row, case)
    loss, grads = meta.loss_and_grads(case.support, case.query)
    hand, at = ByHand(meta, case), values(meta)
    assert grads.keys() == at.keys()
    paths = [hand.path(at, t) for t in range(2)]
    held = [taken[: 0 if row.live is None else meta.steps - row.live] for _, taken in paths]
    weights = row.weights or (*[0.0] * (meta.steps - 1), 1.0)

    def learned_from(values):
        return sum(w * score for w, score in zip(weights, hand.scores(values, held)[1:], strict=True))

    assert loss.item() == pytest.approx(hand.scores(at, held)[-1].item(), rel=1e-10)
    for direction in directions(meta, grads.keys() - (hand.adapted if row.displaced else [])):
        assert along(grads, direction) == pytest.approx(slope(learned_from, at, direction), rel=2e-6, abs=2e-7)
    if row.displaced:
        moved = {n: sum(at[n] - points[-1][n] for points, _ in paths) / 2 for n in hand.adapted}
        assert_equal({n: grads[n] for n in hand.adapted}, moved, rtol=1e-9, atol=1e-12)
    assert all(grads[n].abs().max() > 0 for n in hand.adapted)


def test_unbiased_meta_gradients_against_finite_differences(row):
    """With real noise; what is biased by design differs."""
    case = two_tasks()
    meta = built(row, case)
    grads, leaves, at = seeded(meta, case)[1], dict(meta.named_parameters()), values(meta)

    @torch.no_grad()
    def loss_at(values):
        for name, leaf in leaves.items():
            leaf.copy_(values[name])
        torch.manual_seed(1)
        return meta.evaluate(case.support, case.query, (meta.steps,)).mean()

    for direction in directions(meta, grads):
        agree = along(grads, direction) == pytest.approx(slope(loss_at, at, direction), rel=2e-6, abs=2e-7)
        assert agree == row.exact


@pytest.mark.thinned(2, shift=1)
@pytest.mark.usefixtures("module_local_params")
def test_side_by_side_and_one_by_one_agree(row):
    case, found = two_tasks(), []
    for vectorize in (True, False):
        torch.manual_seed(2)
        meta = built(row, case, engine=pm.Engine(vectorize=vectorize))
        loss, grads = seeded(meta, case)
        losses = meta.evaluate(case.support, case.query, (0, 1, meta.steps))
        found.append({**grads, "loss": loss, "losses": losses})
    assert_equal(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.thinned(2, shift=1)
@pytest.mark.usefixtures("zero_noise", "module_local_params")
def test_without_steps_it_is_plain_svi(row):
    case = two_tasks()
    meta = row.build(case, steps=0)
    loss, grads = meta.loss_and_grads(case.support, case.query)
    elbo = TraceMeanField_ELBO()
    plain = sum(elbo.differentiable_loss(case.model, case.guide, *as_args(task(case.query, t))) for t in range(2)) / 2
    leaves = dict(meta.named_parameters())
    expected = dict(zip(leaves, torch.autograd.grad(plain, list(leaves.values())), strict=True))
    torch.testing.assert_close(loss, plain.detach(), rtol=1e-12, atol=1e-12)
    assert_equal(grads, expected, rtol=1e-10, atol=1e-12)


def trained(row, state=None, steps=2, seed=4):
    torch.manual_seed(seed)
    pyro.clear_param_store()
    case = two_tasks()
    meta = row.build(case)
    meta.init(case.support)
    if state is not None:
        meta.load_state_dict(state)
    return meta, [meta.step(case.support, case.query) for _ in range(steps)]


def test_one_seed_gives_one_result_and_its_state_goes_on_where_it_was(row):
    (first, losses), (meta, same) = trained(row), trained(row)
    assert losses == same
    assert_equal(values(first), values(meta), rtol=0, atol=0)
    other, _ = trained(row, meta.state_dict(), steps=0, seed=5)
    assert_equal(values(other), values(meta), rtol=0, atol=0)
    support, query = rows()[:2], rows()[:2]
    for each in (meta, other):
        torch.manual_seed(6)
        each.step(support, query)
    assert_equal(values(other), values(meta), rtol=0, atol=0)


@pytest.mark.thinned(2)
@pytest.mark.usefixtures("module_local_params")
def test_nothing_leaks(row):
    case = two_tasks()
    slots = {(m, key): p for f in (case.model, case.guide) for m in f.modules() for key, p in m._parameters.items()}
    meta = row.build(case)
    generator = torch.get_rng_state()
    meta.init(case.support)
    assert torch.equal(torch.get_rng_state(), generator)
    params = store()
    meta.step(case.support, case.query)
    meta.evaluate(case.support, case.query)
    meta.adapt(task(case.support, 0))
    assert all(module._parameters[key] is p and p.grad is None for (module, key), p in slots.items())
    assert store().keys() == params.keys()
    assert all(store()[name] is leaf for name, leaf in params.items())
    ends = []
    for _ in range(2):
        seeded(meta, case)
        ends.append(torch.get_rng_state())
    assert torch.equal(*ends)


def test_constraints_hold_and_the_adapted_guide_is_a_guide(row):
    case = two_tasks()
    meta = row.build(case, optim=pyro.optim.Adam({"lr": 0.05}))
    for _ in range(5):
        meta.step(case.support, case.query)
    guide = meta.adapt(task(case.support, 0))
    for each in (case.guide, guide):
        traced = pyro.poutine.trace(each).get_trace(task(case.support, 0))
        assert (traced.nodes["z"]["fn"].base_dist.scale > 0).all()
    sample = Predictive(guide.model, guide=guide, num_samples=3)(task(case.support, 0))
    assert torch.isfinite(sample["z"]).all()


class Steep(Decoder):
    """Infinitely far from data that are far from zero."""

    def forward(self, x):
        super().forward(x)
        pyro.factor("steep", -x.sum().exp())


@pytest.mark.thinned(2)
@pytest.mark.parametrize("vectorize", [True, False])
def test_what_is_not_finite_is_reported_with_task_and_step(row, vectorize):
    case = Case(Steep().double(), Encoder().double(), rows(), rows())
    meta = row.build(case, engine=pm.Engine(vectorize=vectorize))
    meta.step(case.support, case.query)
    before = values(meta)
    bad = case.support.clone()
    bad[1] = 100.0
    for support, query, step in ((bad, case.query, 0), (case.support, bad, meta.steps)):
        with pytest.raises(pm.NonFiniteError) as caught:
            meta.step(support, query)
        assert (caught.value.task, caught.value.step) == (1, step)
    assert_equal(values(meta), before, rtol=0, atol=0)
