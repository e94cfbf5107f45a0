"""The inference gaps of linear-Gaussian programs, where all three bounds are known in closed form."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyrometa import SGD
from pyrometa.diagnostics import inference_gaps
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide

CORRELATED = torch.tensor([[1.0, 0.8], [0.0, 0.6], [0.5, 0.5]], dtype=torch.double)
ORTHOGONAL = torch.tensor([[1.0, 0.0], [0.0, 0.7], [0.0, 0.0]], dtype=torch.double)
NOISE = 0.5


class Program:
    """z ~ Normal(0, I) in two dimensions, x ~ Normal(A z, NOISE) in three; and a guide that is a shift off."""

    def __init__(self, a, shift=0.0, widen=1.0):
        self.a, self.shift, self.widen = a, shift, widen
        self.precision = torch.eye(2, dtype=a.dtype) + a.T @ a / NOISE**2

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.a.T, NOISE).to_event(1), obs=x)

    def propose(self, x):
        loc = x @ self.a / NOISE**2 @ torch.linalg.inv(self.precision) + self.shift
        scale = self.widen * self.precision.diagonal().rsqrt()  # the best of the mean field
        return {"loc": loc, "log_scale": scale.log().expand(len(x), 2)}

    def sample(self, proposal):
        with pyro.plate("data", len(proposal["loc"])):
            pyro.sample("z", dist.Normal(proposal["loc"], proposal["log_scale"].exp()).to_event(1))

    def log_marginal(self, x):
        covariance = self.a @ self.a.T + NOISE**2 * torch.eye(3, dtype=x.dtype)
        return MultivariateNormal(x.new_zeros(3), covariance).log_prob(x)

    def approximation(self):
        """KL from the best mean field to the posterior."""
        return 0.5 * (self.precision.diagonal().log().sum() - self.precision.logdet())

    def kl(self, x):
        """KL from what is proposed to the posterior."""
        proposal = self.propose(x)
        posterior = MultivariateNormal(proposal["loc"] - self.shift, precision_matrix=self.precision)
        return kl_divergence(
            MultivariateNormal(proposal["loc"], proposal["log_scale"].exp().square().diag_embed()), posterior
        )


@pytest.fixture
def x():
    return torch.randn(8, 3, dtype=torch.double)


def test_within_the_family_all_that_is_lost_is_the_encoders(x):
    program = Program(ORTHOGONAL, shift=0.3, widen=1.5)
    gaps = inference_gaps(program.model, program, x, steps=600, num_samples=2000, chunk_size=1000)
    torch.testing.assert_close(gaps.log_marginal, program.log_marginal(x), atol=0.005, rtol=0)
    torch.testing.assert_close(gaps.optimal, program.log_marginal(x), atol=0.03, rtol=0)
    error = 5 * 1.5 / 2000**0.5  # of an estimate of the ELBO of what is proposed
    torch.testing.assert_close(gaps.amortization, program.kl(x), atol=error, rtol=0)
    assert program.kl(x).mean() > 0.5


def test_a_mean_field_loses_what_the_correlation_is_worth_whatever_the_encoder(x):
    for shift in (0.0, 0.4):
        program = Program(CORRELATED, shift=shift)
        gaps = inference_gaps(program.model, program, x, steps=600, num_samples=4000, chunk_size=1000)
        assert gaps.approximation.mean().item() == pytest.approx(program.approximation().item(), abs=0.03)
        assert gaps.amortization.mean().item() == pytest.approx(
            (program.kl(x) - program.approximation()).mean().item(), abs=0.06
        )
    assert program.approximation() > 0.1


def test_the_two_parts_add_up(x):
    program = Program(CORRELATED, shift=0.2)
    gaps = inference_gaps(program.model, program, x, steps=5, num_samples=10)
    torch.testing.assert_close(gaps.approximation + gaps.amortization, gaps.inference)
    assert gaps.inference.shape == (8,)


@pytest.mark.parametrize("refined", [False, True])
def test_nothing_is_changed(x, refined):
    program, scale = Program(CORRELATED), torch.nn.Linear(1, 1).double()

    def model(x):
        pyro.module("scale", scale)
        program.model(x * scale(x.new_ones(1, 1)))

    guide = AmortizedGuide(model, torch.nn.Linear(3, 4).double())
    with torch.random.fork_rng():
        guide(x)  # makes the heads
    guide.double()
    guide = SemiAmortizedGuide(guide, steps=2, rule=SGD(0.01)) if refined else guide
    guide(x)
    before = {name: value.clone() for name, value in [*guide.state_dict().items(), *scale.state_dict().items()]}
    pyro.clear_param_store()
    gaps = inference_gaps(model, guide, x, steps=3, num_samples=3)
    after = {**guide.state_dict(), **scale.state_dict()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in [*guide.parameters(), *scale.parameters()])
    assert list(pyro.get_param_store().keys()) == []
    assert not gaps.amortized.requires_grad


def test_bad_input_is_refused(x):
    program = Program(CORRELATED)
    with pytest.raises(TypeError, match="propose"):
        inference_gaps(program.model, lambda x: None, x)
    with pytest.raises(ValueError, match="steps=0"):
        inference_gaps(program.model, program, x, steps=0)
    with pytest.raises(ValueError, match="lr=-1"):
        inference_gaps(program.model, program, x, lr=-1.0)
    with pytest.raises(ValueError, match="num_samples"):
        inference_gaps(program.model, program, x, steps=1, num_samples=0)
