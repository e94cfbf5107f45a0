"""Every ELBO that runs vectorised over tasks gives what Pyro's own gives, one task at a time."""

import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from elbo_cases import (
    auxiliary,
    blocked,
    chain,
    counts,
    discrete_mixture,
    encoded,
    encoded_and_enumerated,
    factored,
    flips_guide,
    flips_model,
    groups,
    impossible,
    in_a_plate_one_by_one,
    in_both,
    in_sequence,
    in_the_guide,
    in_the_guide_one_by_one,
    in_the_model,
    masked,
    nested,
    normal_case,
    plain,
    sampled,
    sampled_categorical,
    sampled_many_times,
    scaled,
    scaled_by_data,
    scaled_flips,
    subsampled,
)
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch.func import vmap

import pyrometa as pm
from pyrometa.elbos import loss_of, traced
from pyrometa.noise.batched_noise import BatchedNoise

LOOP, TOGETHER = pm.Engine(vectorize=False), pm.Engine(vectorize=True)
FIRST, SECOND = pm.Unrolled(first_order=True), pm.Unrolled()

pytestmark = pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites:UserWarning")


def gradients(case, engine, **options):
    pyro.clear_param_store()
    meta = meta_cases.meta_svi(case, **{"inner": pm.SGD(0.02), "engine": engine, **options})
    torch.manual_seed(3)
    return meta.loss_and_grads(case.support, case.query)


def assert_same(case, loss, engine=TOGETHER, **options):
    """``loss`` makes an ELBO, which Pyro may write its plate nesting to."""
    value, grads = gradients(case, engine, loss=loss(), **options)
    expected_value, expected = gradients(case, LOOP, loss=loss(), **options)
    torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(grads, expected, rtol=1e-9, atol=1e-11)
    assert any(grad.abs().sum() > 0 for grad in grads.values())


FEATURES = [plain, scaled, scaled_by_data, masked, blocked, subsampled, nested, in_sequence, factored, auxiliary]
KINDS = {
    "Trace": Trace_ELBO,
    "MeanField": TraceMeanField_ELBO,
    "Enum": TraceEnum_ELBO,
    "Renyi": lambda **options: RenyiELBO(alpha=0.5, **options),
    "importance-weighted": RenyiELBO,
}


ONE_ALPHA = [*list(KINDS)[:-1], pytest.param("importance-weighted", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", ONE_ALPHA)
@pytest.mark.parametrize("make", FEATURES, ids=lambda p: p.__name__)
def test_features_of_pyro(make, kind):
    assert_same(make(), lambda: KINDS[kind](num_particles=2))


@pytest.mark.parametrize("kind", ONE_ALPHA)
@pytest.mark.parametrize(
    "make", [plain, scaled, masked, subsampled, nested, factored, auxiliary], ids=lambda p: p.__name__
)
def test_vectorised_particles(make, kind):
    assert_same(make(), lambda: KINDS[kind](num_particles=3, vectorize_particles=True))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("meta_gradient", [SECOND, FIRST], ids=["second", "first"])
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_orders_and_steps(kind, steps, meta_gradient):
    options = {"steps": steps, "meta_gradient": meta_gradient}
    assert_same(subsampled(), lambda: KINDS[kind](num_particles=2), **options)
    if kind == "Enum":
        for make in (in_the_model, in_the_guide, sampled_categorical):
            assert_same(make(), TraceEnum_ELBO, **options)


ENUMERATED = [
    in_the_model,
    in_the_guide,
    in_the_guide_one_by_one,
    in_a_plate_one_by_one,
    in_both,
    sampled,
    sampled_many_times,
    sampled_categorical,
    impossible,
    chain,
    groups,
]


@pytest.mark.thinned(2)
@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("make", ENUMERATED, ids=lambda p: p.__name__)
def test_enumeration(make, particles):
    assert_same(make(), lambda: TraceEnum_ELBO(num_particles=particles))


@pytest.mark.parametrize("make", [in_the_guide, in_both, sampled, chain], ids=lambda p: p.__name__)
def test_enumeration_with_vectorised_particles(make):
    assert_same(make(), lambda: TraceEnum_ELBO(num_particles=3, vectorize_particles=True))


@pytest.mark.thinned(2)
@pytest.mark.parametrize("particles", [{}, {"num_particles": 2}, {"num_particles": 3, "vectorize_particles": True}])
@pytest.mark.parametrize("elbo", [Trace_ELBO, KINDS["Renyi"]], ids=["Trace", "Renyi"])
@pytest.mark.parametrize(
    "make", [sampled, scaled_flips, sampled_categorical, counts, discrete_mixture], ids=lambda p: p.__name__
)
def test_score_functions(make, elbo, particles):
    assert_same(make(), lambda: elbo(**particles), meta_gradient=FIRST)


@pytest.mark.filterwarnings("ignore:.*Found sample sites configured for enumeration:UserWarning")
@pytest.mark.parametrize("elbo", [Trace_ELBO, RenyiELBO])
@pytest.mark.parametrize("infer", [{}, {"enumerate": "parallel"}])
def test_score_functions_have_no_second_order(elbo, infer):
    """A site that is marked for enumeration is sampled all the same by these."""
    case = normal_case(flips_model, flips_guide(**infer))
    with pytest.raises(pm.UnsupportedProgramError, match=rf"'whole' is not reparam.*{elbo.__name__}.*TraceEnum_ELBO"):
        gradients(case, pm.Engine(), loss=elbo())


def derivatives(loss, x):
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    return slope, torch.autograd.grad(slope, x, retain_graph=True)[0]


def test_dice_is_right_at_second_order():
    """In expectation, which is the sum over a flip's two values; Trace_ELBO is not (Foerster et al. 2018)."""
    logit = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([0.0, 1.0], dtype=torch.float64)
    prior, likelihood = dist.Bernoulli(logits=torch.zeros_like(logit)), dist.Normal(values, 1.0)

    class Fixed(dist.Bernoulli):
        def sample(self, sample_shape=()):
            return self.value

    def model(z):
        pyro.sample("x", dist.Normal(pyro.sample("z", prior), 1.0), obs=2.0 * torch.ones_like(z))

    def guide(z):
        q = Fixed(logits=logit)
        q.value = z
        pyro.sample("z", q)

    def expected(elbo):
        with pyro.validation_enabled(False), BatchedNoise(()):
            losses = vmap(lambda z: traced(elbo)(model, guide, z))(values)
        return (dist.Bernoulli(logits=logit.detach()).log_prob(values).exp() * losses).sum()

    log_q = dist.Bernoulli(logits=logit).log_prob(values)
    exact = (log_q.exp() * (log_q - prior.log_prob(values) - likelihood.log_prob(torch.tensor(2.0)))).sum()
    dice, score = expected(TraceEnum_ELBO(max_plate_nesting=0)), expected(Trace_ELBO())
    for loss in (dice, score):
        torch.testing.assert_close(loss, exact, rtol=1e-12, atol=0)
        torch.testing.assert_close(derivatives(loss, logit)[0], derivatives(exact, logit)[0], rtol=1e-12, atol=0)
    torch.testing.assert_close(derivatives(dice, logit)[1], derivatives(exact, logit)[1], rtol=1e-12, atol=0)
    assert (derivatives(score, logit)[1] - derivatives(exact, logit)[1]).abs() > 0.1


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize(
    "make", [plain, scaled, masked, subsampled, nested, auxiliary, sampled, counts], ids=lambda p: p.__name__
)
def test_renyi_is_pyros(make, vectorized, alpha):
    case = make()
    elbo = RenyiELBO(alpha=alpha, num_particles=3, vectorize_particles=vectorized)
    x = case.support[0]
    elbo.loss(case.model, case.guide, x)  # guesses the plate nesting, with draws of its own
    results = []
    for evaluate in (elbo.loss, elbo.loss_and_grads, loss_of(elbo)):
        params = {n: p.unconstrained() for n, p in pyro.get_param_store().items()}
        for leaf in params.values():
            leaf.grad = None
        torch.manual_seed(5)
        loss = evaluate(case.model, case.guide, x)
        if isinstance(loss, torch.Tensor):
            loss.backward()
            loss = loss.item()
        results.append((loss, {n: p.grad for n, p in params.items()}))
    (value, _), (same, expected), (found, grads) = results
    assert found == pytest.approx(value, rel=1e-12)
    assert found == pytest.approx(same, rel=1e-12)
    meta_cases.assert_equal(grads, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("engine", [LOOP, TOGETHER], ids=["loop", "vectorised"])
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (in_the_model, TraceEnum_ELBO),
        (in_the_guide, TraceEnum_ELBO),
        (subsampled, lambda: RenyiELBO(alpha=0.5)),
        (plain, lambda: RenyiELBO(num_particles=3, vectorize_particles=True)),
    ],
    ids=["Enum in model", "Enum in guide", "Renyi", "importance-weighted"],
)
def test_finite_differences(make, loss, engine):
    eps = 1e-6
    case = make()
    meta = meta_cases.meta_svi(case, inner=pm.SGD(0.02), engine=engine, loss=loss())

    def value():
        torch.manual_seed(3)
        return meta.loss_and_grads(case.support, case.query)

    _, grads = value()
    leaves = {name: leaf.detach() for name, leaf in meta.named_parameters()}
    directions = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}
    ends = []
    for step in (eps, -2 * eps):
        for name, leaf in leaves.items():
            leaf += step * directions[name]
        ends.append(value()[0])
    slope = sum((grads[name] * directions[name]).sum() for name in grads)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / (2 * eps), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (encoded, lambda: RenyiELBO(num_particles=3, vectorize_particles=True)),
        (encoded_and_enumerated, lambda: TraceEnum_ELBO(num_particles=3, vectorize_particles=True)),
    ],
    ids=["importance-weighted", "Enum"],
)
def test_linear_layers(make, loss, low_rank):
    """With another bound as the score."""
    engine = pm.Engine(vectorize=True, low_rank=low_rank)
    assert_same(make(), loss, engine=engine, score=TraceEnum_ELBO(max_plate_nesting=1))


@pytest.mark.parametrize("engine", [LOOP, TOGETHER], ids=["loop", "vectorised"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_guess_of_plates_makes_no_difference(kind, engine):
    """Pyro runs the program once more the first time that an ELBO is used, and never again."""
    case, elbo = subsampled(), KINDS[kind](num_particles=2, vectorize_particles=True)
    first, _ = gradients(case, engine, loss=elbo)
    assert elbo.max_plate_nesting == 2
    again, _ = gradients(case, engine, loss=elbo)
    assert first == again
