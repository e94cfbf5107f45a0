"""Rules refuse bad numbers when they are made, and parameters that they can't do on first data."""

import subprocess
import sys

import inner_rules
import pytest
import torch
from torch import nn

import pyrometa as pm


@pytest.mark.parametrize("make", [pm.SGD, pm.Momentum, pm.Adam, pm.ProximalSGD, pm.LearnedOptimizer])
@pytest.mark.parametrize("lr", [0, -1.0, float("nan"), float("inf"), True, "0.1", None, {"a": 0.0}])
def test_rates_must_be_positive(make, lr):
    with pytest.raises(ValueError, match=r"lr.* must be positive and finite"):
        make(lr)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pm.Momentum(momentum=1.0), "momentum must be at least 0 and less than 1, got 1.0"),
        (lambda: pm.Momentum(momentum=-0.1), "momentum must be at least 0"),
        (lambda: pm.Momentum(momentum=0.0, nesterov=True), "nesterov=True looks ahead"),
        (lambda: pm.Momentum(learn="layers"), "learn must be None or one of 'rate', 'layer'"),
        (lambda: pm.Momentum({"*": 0.1}, learn="rate"), "give lr as one number"),
        (lambda: pm.Momentum(outer_lr=0), "outer_lr must be positive"),
        (lambda: pm.Adam(betas=(0.9,)), "betas must be two decays"),
        (lambda: pm.Adam(betas=0.9), "betas must be two decays"),
        (lambda: pm.Adam(betas=(0.9, 1.0)), r"betas\[1\] must be at least 0 and less than 1"),
        (lambda: pm.Adam(betas=(float("nan"), 0.9)), r"betas\[0\] must be"),
        (lambda: pm.Adam(eps=0.0), "eps must be positive"),
        (lambda: pm.Adam(learn="all"), "learn must be None or one of"),
        (lambda: pm.ProximalSGD(strength=0), "strength must be positive"),
        (lambda: pm.ProximalSGD(strength=-1.0), "strength must be positive"),
        (lambda: pm.Preconditioned("kfac"), "transform must be one of 'meta_curvature', 'kronecker'"),
        (lambda: pm.Preconditioned(lr=0.0), "lr must be positive"),
        (lambda: pm.Preconditioned(outer_lr=-1.0), "outer_lr must be positive"),
        (lambda: pm.LearnedOptimizer(hidden=0), "hidden must be a whole number of at least 1, got 0"),
        (lambda: pm.LearnedOptimizer(hidden=2.0), "hidden must be a whole number"),
        (lambda: pm.LearnedOptimizer(seed=-1), "seed must be a whole number of at least 0"),
        (lambda: pm.LearnedOptimizer(decays=()), "decays must be at least one number"),
        (lambda: pm.LearnedOptimizer(decays=0.9), "decays must be at least one number"),
        (lambda: pm.LearnedOptimizer(decays=(0.5, 1.5)), r"decays\[1\] must be"),
    ],
)
def test_bad_values(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pm.Momentum(nesterov=1), "nesterov must be True or False, got 1"),
        (lambda: pm.Preconditioned(nn.Identity()), "transform=lambda param: module"),
        (lambda: pm.Preconditioned(3), "transform must be a function of a parameter to a module, got int"),
    ],
)
def test_bad_types(make, message):
    with pytest.raises(TypeError, match=message):
        make()


@pytest.mark.parametrize(
    "rule",
    [
        pm.Momentum({"net.*": 0.1}),
        pm.Adam({"net.*": 0.1}, learn="layer"),
        pm.ProximalSGD({"net.*": 0.1}),
        pm.Preconditioned(lr={"net.*": 0.1}),
        pm.LearnedOptimizer({"net.*": 0.1}),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_parameter_without_a_rate_is_found_on_first_data(rule):
    with pytest.raises(ValueError, match=r"lr has no rate for 'scale': its patterns are net\.\*; add one"):
        rule.learned(inner_rules.start(), 1)


@pytest.mark.parametrize("transform", ["meta_curvature", "kronecker"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 2, 3, 4, 5)])
def test_shapes_that_a_transform_cannot_do(transform, shape):
    with pytest.raises(ValueError, match=r"the transform can't do 'w' of shape .*: adapt other parameters, or give"):
        pm.Preconditioned(transform).learned({"w": torch.zeros(shape)}, 1)


def test_what_a_transform_returns():
    with pytest.raises(TypeError, match="transform must return a module or None, got float for 'w'"):
        pm.Preconditioned(lambda p: 1.0).learned({"w": torch.zeros(2)}, 1)
    with pytest.raises(ValueError, match=r"the transform of 'w' maps shape \(2,\) to \(3,\): keep the shape"):
        pm.Preconditioned(lambda p: nn.Linear(2, 3)).learned({"w": torch.zeros(2)}, 1)


def test_an_update_before_the_transforms_are_made():
    with pytest.raises(ValueError, match=r"no transform of 'w' with shape \(2,\) is known: learned\(params, steps\)"):
        pm.Preconditioned().update({"w": torch.zeros(2)}, {"w": torch.ones(2)}, None, {}, 0)


LAZY = """
import sys, warnings
import torch, pyrometa as pm
rule = pm.Preconditioned("kronecker")
loaded, filters = "learn2learn" in sys.modules, list(warnings.filters)
names = list(rule.learned({"w": torch.zeros(2, 2)}, 1))
print(loaded, "learn2learn" in sys.modules, filters == warnings.filters, names)
"""


def test_learn2learn_is_imported_when_it_is_needed_and_changes_no_filter():
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False True True ['transform.w.transform.left', 'transform.w.transform.right']"


def test_without_learn2learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.nn", None)
    with pytest.raises(ImportError, match=r"pip install 'pyrometa\[learn2learn\]'"):
        pm.Preconditioned().learned({"w": torch.zeros(2)}, 1)
