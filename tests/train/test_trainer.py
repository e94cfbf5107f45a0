"""What a run learns from, by the steps that one takes by hand, and what it validates on."""

import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset
from trained import STEPS, make_meta, make_trainer, noisy, sampler

import pyrometa as pm
from pyrometa.tasks import MetaBatch
from pyrometa.train.loop import clip


def steps_by_hand(batches, seed=4, clip_norm=5.0):
    """The losses of meta-steps without a trainer, whose schedule is the learning rate's halving after step 3."""
    if seed is not None:
        torch.manual_seed(seed)
    meta = make_meta()
    losses = []
    for step in range(STEPS):
        support, query = batches(step)
        loss, grads = meta.loss_and_grads(support, query)
        for name, leaf in meta.named_parameters():
            leaf.grad = grads[name]
        torch.nn.utils.clip_grad_norm_([leaf for _, leaf in meta.named_parameters()], clip_norm)
        meta.optimizer.step()
        for _, leaf in meta.named_parameters():
            leaf.grad = None
        if step == 2:
            for group in meta.optimizer.param_groups:
                group["lr"] *= 0.5
        losses.append(loss.item())
    return losses, {name: leaf.tolist() for name, leaf in meta.named_parameters()}


def halved(optimizer):
    return StepLR(optimizer, 3, 0.5)


def losses_of(result):
    return [record["loss"] for record in result.history]


def validations_of(result):
    return {record["step"]: record["validation"] for record in result.history if "validation" in record}


def test_its_steps_are_those_by_hand():
    meta = make_meta()
    result = make_trainer(checkpoint_every=None, schedule=halved).fit(meta, noisy, sampler(9))
    losses, parameters = steps_by_hand(noisy)
    assert losses_of(result) == losses
    assert {name: leaf.tolist() for name, leaf in meta.named_parameters()} == parameters


def drawing(step):
    """Tasks that depend on all three generators."""
    batch = noisy(step)
    shift = np.random.rand() + random.random()  # noqa: NPY002 -- the one that programs share
    return MetaBatch(*(tuple(part + shift for part in side) for side in batch))


def in_a_program(train):
    """What training gives after a program has drawn, and what the program draws then."""
    torch.manual_seed(7), np.random.seed(8), random.seed(9)  # noqa: NPY002
    torch.rand(3), np.random.rand(2), random.random()  # noqa: NPY002
    return train(), torch.rand(2).tolist(), np.random.rand(), random.random()  # noqa: NPY002


def test_without_a_seed_it_goes_on_and_ends_where_a_loop_by_hand_does():
    by_hand = in_a_program(lambda: steps_by_hand(drawing, seed=None)[0])
    meta = make_meta()
    trainer = make_trainer(checkpoint_every=None, schedule=halved, seed=None)
    result, *after = in_a_program(lambda: trainer.fit(meta, drawing, sampler(9)))
    assert by_hand == (losses_of(result), *after)
    batch = sampler(9).sample(3)
    torch.manual_seed(0)
    assert result.history[-1]["adaptation"] == meta.evaluate(*batch).double().mean(1).tolist()


def test_the_norm_is_of_the_whole_meta_gradient():
    grads = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    clip(grads, 0.5)
    assert [grad.item() for grad in grads.values()] == pytest.approx([0.3, 0.4], rel=1e-5)
    clip(grads, 5.0)
    assert [grad.item() for grad in grads.values()] == pytest.approx([0.3, 0.4], rel=1e-5)


@pytest.mark.parametrize("form", [MetaBatch, lambda *pair: pair, lambda *pair: [pair], lambda *pair: lambda step: pair])
def test_a_meta_batch_may_be_given_in_several_forms(form):
    pair = tuple(sampler().sample(3))
    result = make_trainer(checkpoint_every=None, schedule=halved).fit(make_meta(), form(*pair), sampler(9))
    assert losses_of(result) == steps_by_hand(lambda step: pair)[0]


def test_tuples_that_torch_has_collated_as_lists_are_tuples_again():
    (x, y), (x_query, y_query) = sampler().sample(3)
    loader = DataLoader([((x[i], y[i]), (x_query[i], y_query[i])) for i in range(3)], batch_size=3)
    result = make_trainer(checkpoint_every=None, schedule=halved).fit(make_meta(), loader, sampler(9))
    assert losses_of(result) == steps_by_hand(lambda step: tuple(map(tuple, next(iter(loader)))))[0]


@pytest.mark.parametrize("form", [lambda data: data, lambda data: (data, None), lambda data: [data]])
def test_support_alone_is_scored_with_fresh_noise(form):
    data = torch.randn(6, 5)
    meta = mean_of_normals()
    torch.manual_seed(0)
    losses = [meta.step(data) for _ in range(3)]
    assert losses_of(pm.Trainer(max_steps=3, progress=False).fit(mean_of_normals(), form(data))) == losses


def test_a_collated_batch_of_one_tensor_is_support():
    loader = DataLoader(TensorDataset(torch.randn(6, 5)), batch_size=6)
    assert pm.Trainer(max_steps=2, progress=False).fit(mean_of_normals(), loader).steps == 2


def mean_of_normals():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 0.5))

    pyro.clear_param_store()
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), steps=1)


def test_validation_is_the_mean_over_all_tasks_on_one_noise():
    fixed = sampler(9).sample(5)
    meta = make_meta()
    result = make_trainer(checkpoint_every=None, validate_every=6).fit(meta, sampler(), fixed)
    torch.manual_seed(4)
    curve = meta.evaluate(*fixed).double().mean(1)
    (record,) = [record for record in result.history if "validation" in record]
    assert record["adaptation"] == curve.tolist()
    assert record["validation"] == curve[-1].item()
    chunks = [fixed[:2], fixed[2:]]
    torch.manual_seed(4)
    curve = torch.cat([meta.evaluate(*chunk).double() for chunk in chunks], 1).mean(1)
    other = make_trainer(checkpoint_every=None, validate_every=6).fit(make_meta(), sampler(), chunks)
    assert validations_of(other)[6] == curve[-1].item()


def test_validation_moves_nothing():
    drawn = sampler(9)
    before = drawn.state_dict()["generator"]
    often = make_trainer(checkpoint_every=None, validate_every=1).fit(make_meta(), noisy, drawn)
    assert torch.equal(drawn.state_dict()["generator"], before)
    never = make_trainer(checkpoint_every=None, validate_every=None).fit(make_meta(), noisy)
    assert losses_of(often) == losses_of(never)
    by_function = make_trainer(checkpoint_every=None).fit(make_meta(), noisy, lambda step: sampler(step).sample(2))
    assert losses_of(by_function) == losses_of(never)


def test_a_scheduler_that_waits_for_the_validation_loss_gets_it():
    meta = make_meta()

    def plateau(optimizer):
        return ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=1e9)

    make_trainer(checkpoint_every=None, schedule=plateau).fit(meta, noisy, sampler(9))
    assert [group["lr"] for group in meta.optimizer.param_groups] == pytest.approx([0.05 * 0.1**3] * 2)
