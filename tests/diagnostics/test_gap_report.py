"""Where nats are lost, on models of which every number is known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.distributions import kl_divergence

import pyrometa as pm
from pyrometa.diagnostics import ais_log_evidence, gap_report

NOISE = 0.5


def line(x, y):
    with pyro.plate("coefficients", 2):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(w[..., :1] + w[..., 1:] * x, NOISE), obs=y)


def design(x):
    return torch.stack([torch.ones_like(x), x], 1)


def line_evidence(x, y):
    covariance = design(x) @ design(x).T + NOISE**2 * torch.eye(len(x))
    return dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(y)


def line_posterior(x, y):
    precision = design(x).T @ design(x) / NOISE**2 + torch.eye(2)
    mean = torch.linalg.solve(precision, design(x).T @ y / NOISE**2)
    return dist.MultivariateNormal(mean, precision_matrix=precision)


def lines(tasks=2, rows=6):
    x = 1.0 + torch.randn(tasks, rows)
    return x, 1.0 - 0.5 * x + NOISE * torch.randn(tasks, rows)


def learned(model, guide, steps=0, **options):
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), steps=steps, **options)


@pytest.fixture(scope="module")
def mean_field():
    """A mean field on correlated coefficients: its report, its data, and what it starts from."""
    torch.manual_seed(0)
    guide = AutoNormal(line)
    support, query = lines(), lines()
    report = gap_report(learned(line, guide, 1, inner=pm.SGD(0.005)), support, query, evidence=line_evidence)
    return report, support, query, dist.Normal(guide.locs.w.detach(), guide.scales.w.detach())


def test_gaps_are_the_known_ones(mean_field):
    report, support, _, start = mean_field
    for i, task in enumerate(zip(*support, strict=True)):
        posterior = line_posterior(*task)
        precision = posterior.precision_matrix
        of_family = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
        joint = dist.MultivariateNormal(start.mean, start.stddev.square().diag())
        at_start = kl_divergence(joint, posterior)
        assert report.log_evidence[i].item() == pytest.approx(line_evidence(*task).item(), abs=1e-5)
        assert report.approximation[i].item() == pytest.approx(of_family.item(), abs=0.15)  # 4 s.e. of 1,000 draws
        error = 4 * report.elbo_error[i, 0].item()
        assert report.inference[i, 0].item() == pytest.approx(at_start.item(), abs=error)
        assert report.amortization[i, 0].item() == pytest.approx((at_start - of_family).item(), abs=error + 0.15)
    assert report.converged.all()
    assert set(report.evidence_by) == {"given"}
    assert torch.allclose(report.inference, report.approximation[:, None] + report.amortization)
    assert report.verdict.startswith("amortisation: ")
    assert "by stopping after 1 step" in report.verdict


def test_the_query_set_pays_for_no_divergence_again(mean_field):
    report, _, query, start = mean_field
    for i, (x, y) in enumerate(zip(*query, strict=True)):
        moments = (y - design(x) @ start.mean).square() + design(x).square() @ start.variance
        expected = dist.Normal(0.0, NOISE).log_prob(moments.sqrt()).sum()
        assert report.query[i, 0].item() == pytest.approx(expected.item(), rel=0.02)


def test_divergences_and_active_units(mean_field):
    report, *_ = mean_field
    assert report.kl["w"].shape == (2, 2)
    assert report.active["w"].shape == (2,)
    assert "approximation" in report.table().splitlines()[0]
    assert len(report.table().splitlines()) == 4
    axes = report.plot().axes
    assert torch.allclose(torch.as_tensor(axes[0].lines[-1].get_ydata()), report.inference.mean(0))
    assert torch.allclose(torch.as_tensor(axes[1].lines[-1].get_ydata()), (report.query - report.query[:, :1]).mean(0))
    assert [bar.get_height() for bar in axes[2].patches] == pytest.approx(
        report.kl["w"].mean(0).sort(descending=True).values.tolist()
    )


def test_a_family_that_does_not_hold_the_posterior(mean_field):
    """From the best guide on, what is lost is the family's."""
    report, support, *_ = mean_field
    elbo = Trace_ELBO(num_particles=64, vectorize_particles=True, max_plate_nesting=1)
    noise = pm.Noise("sobol", shared=True)
    meta = learned(line, AutoNormal(line), steps=5, loss=elbo, inner=pm.Newton(), noise=noise)
    found = gap_report(meta, support, evidence=line_evidence, search=500)
    assert found.verdict.startswith("approximation: ")
    assert torch.allclose(found.approximation, report.approximation, atol=0.15)
    assert "too narrow in" in found.verdict


def test_the_evidence_without_being_told(mean_field):
    """Annealed, as draws of a mean field have weights of no variance here; each within 4 standard errors."""
    _, support, *_ = mean_field
    task = tuple(part[0] for part in support)
    found = ais_log_evidence(line, *task, temperatures=30)
    assert abs(found.log_evidence - line_evidence(*task).item()) < 4 * found.standard_error
    assert 0.02 < found.standard_error < 0.4
    wide = gap_report(learned(line, Wide()), support, evidence="importance", search=0)
    errors = wide.log_evidence - torch.stack([line_evidence(*one) for one in zip(*support, strict=True)])
    assert (errors.abs() < 4 * wide.evidence_error).all()
    assert (wide.evidence_error < 0.2).all()
    assert wide.reliable.all()


class Wide(nn.Module):
    """The prior, more or less."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x, y):
        mean = line_posterior(x, y).mean
        with pyro.plate("coefficients", 2):
            pyro.sample("w", dist.Normal(mean, self.scale.abs()))


def kinds(x):
    kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 1.0])[kind], 1.0), obs=x)


class Kind(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        pyro.sample("kind", dist.Categorical(logits=self.logits))


def test_what_can_be_summed_is_exact():
    x = torch.randn(2, 4)
    found = gap_report(learned(kinds, Kind(), loss=Trace_ELBO()), x, search=0)
    likelihood = dist.Normal(torch.tensor([-1.0, 0.0, 1.0]), 1.0).log_prob(x[..., None]).sum(1)
    joint = likelihood + torch.tensor([0.2, 0.3, 0.5]).log()
    assert torch.allclose(found.log_evidence.float(), joint.logsumexp(1), atol=1e-5)
    assert found.evidence_by == ("exact", "exact")
    assert (found.evidence_error == 0).all()
    expected = kl_divergence(dist.Categorical(logits=torch.zeros(3)), dist.Categorical(logits=joint))
    assert torch.allclose(found.inference[:, 0].float(), expected, atol=0.2)


def means(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Posterior(nn.Module):
    """The exact one, that many times as wide and so many of its standard deviations off at first."""

    def __init__(self, width, shift):
        super().__init__()
        self.log_width = nn.Parameter(torch.tensor(width).log())
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x):
        deviation = (len(x) + 1) ** -0.5
        mean = x.sum() / (len(x) + 1) + self.shift * deviation
        pyro.sample("mean", dist.Normal(mean, self.log_width.exp() * deviation))


@pytest.mark.parametrize(
    ("width", "shift", "words"),
    [(1.0, 0.0, ""), (0.5, 0.0, "too narrow"), (2.0, 0.0, "too wide"), (1.0, 1.0, "shifted")],
)
def test_the_four_are_told_apart(width, shift, words):
    """In 4 of 4 tasks each: over all four, fewer than 18% of tasks are mistaken, with 95% confidence."""
    found = gap_report(learned(means, Posterior(width, shift)), torch.randn(4, 4))
    assert found.verdict.startswith("amortisation: " if words else "none: ")
    assert (f"{words} in 4 of 4 tasks" if words else "0.00 nats") in found.verdict
    expected = kl_divergence(dist.Normal(shift, width), dist.Normal(0.0, 1.0))
    error = 4 * found.elbo_error[:, 0] + 0.01
    assert ((found.amortization[:, 0] - expected).abs() < error).all()
    assert (found.approximation.abs() < 0.01).all()


def factors(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(2 * z, 1.0), obs=x)


class Encoder(nn.Module):
    """The exact posterior of each row."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.4))

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.weight * x, 0.2**0.5))


def test_rows_with_latents_of_their_own():
    support, query = 2 * torch.randn(2, 5), torch.randn(2, 7)
    found = gap_report(learned(factors, Encoder()), support, query, search=0)
    evidence = dist.Normal(0.0, 5**0.5)
    assert torch.allclose(found.query[:, 0].float(), evidence.log_prob(query).sum(1), atol=1e-4)
    assert torch.allclose(found.log_evidence.float(), evidence.log_prob(support).sum(1), atol=1e-4)
    of_rows = kl_divergence(dist.Normal(0.4 * support, 0.2**0.5), dist.Normal(0.0, 1.0))
    assert torch.allclose(found.kl["z"], of_rows.mean(1))
    assert found.active["z"].shape == ()
    assert found.active_units == 1


def test_over_fitting_is_told():
    """The step is for the support set, which is all noise to the query set."""
    support, query = torch.full((2, 1), 5.0), torch.zeros(2, 10)
    meta = learned(means, AutoNormal(means), steps=3, inner=pm.SGD(0.3))
    found = gap_report(meta, support, query, evidence=lambda x: dist.Normal(0.0, 2**0.5).log_prob(x).sum(), search=0)
    assert "over-fitting: the query set is best off after 0 steps" in found.verdict


@pytest.mark.parametrize("tasks", [lambda x: x, lambda x: [x[0], x[1, :3]]])
def test_guides_along_the_steps_end_where_adaptation_does(tasks):
    meta, x = learned(means, AutoNormal(means), steps=2, inner=pm.SGD(0.05)), torch.randn(2, 4)
    torch.manual_seed(1)
    along = meta.adapt_along(tasks(x))
    torch.manual_seed(1)
    ends = meta.adapt_many(tasks(x))
    assert [len(guides) for guides in along] == [3, 3]
    for guides, end in zip(along, ends, strict=True):
        assert [p.item() for p in guides[-1].parameters()] == pytest.approx([p.item() for p in end.parameters()])
        assert next(guides[0].parameters()).item() == meta.guide.locs.mean.item()


def test_nothing_is_left_behind():
    meta, x = learned(means, Posterior(2.0, 0.0)), torch.randn(1, 4)
    meta.adapt(x[0])
    store = {name: value.clone() for name, value in pyro.get_param_store().items()}
    before = torch.get_rng_state()
    first, second = (gap_report(meta, x, search=0) for _ in range(2))
    assert torch.equal(first.elbo, second.elbo)
    assert torch.equal(before, torch.get_rng_state())
    assert pyro.get_param_store().keys() == store.keys()
    assert meta.guide.log_width.exp().item() == pytest.approx(2.0)


def test_bad_input_is_refused():
    meta, x = learned(means, Posterior(1.0, 0.0)), torch.randn(2, 4)
    for match, given in {
        "support has 2 tasks and query has 1": {"query": x[:1]},
        "draws must be at least 25, got 3": {"draws": 3},
        "search must be at least 0, got -1": {"search": -1},
        "evidence must be a function of a task's data, 'importance', 'annealed' or None, got 'exact'": {
            "evidence": "exact"
        },
    }.items():
        with pytest.raises(ValueError, match=match):
            gap_report(meta, x, **given)
    with pytest.raises(TypeError, match="meta must be a MetaSVI, got Encoder"):
        gap_report(Encoder(), x)
    with pytest.raises(ValueError, match="no parameter of the guide adapts"):
        gap_report(learned(factors_of_scale, Encoder(), adapt="model"), x, draws=30)
    with pytest.raises(ValueError, match="chains must be at least 2, got 1"):
        ais_log_evidence(means, x[0], chains=1)
    with pytest.raises(ValueError, match="no finite number in any draw of the prior"):
        ais_log_evidence(means, torch.full((4,), 1e30))
    with pytest.raises(ValueError, match="site 'count' is discrete and has no list of values"):
        ais_log_evidence(counts, x[0])


def factors_of_scale(x):
    scale = pyro.param("scale", torch.tensor(2.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(scale * z, 1.0), obs=x)


def counts(x):
    count = pyro.sample("count", dist.Poisson(1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(count, 1.0), obs=x)
