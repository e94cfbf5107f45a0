"""A classifier between two sets of draws: its errors of both kinds."""

import pytest
import torch

from pyrometa.diagnostics import c2st

OTHERS = {"half as wide": (0.5, 0.0), "twice as wide": (2.0, 0.0), "shifted": (1.0, 1.0)}


def normal(count=300, width=1.0, shift=0.0):
    return width * torch.randn(count, 2) + shift


def test_draws_of_one_distribution_are_alike():
    """At a rate of false alarms of 1%, more than one in eight has a probability of 0.3%."""
    torch.manual_seed(0)
    assert sum(not c2st(normal(), normal()).verdict.startswith("alike") for _ in range(8)) <= 1


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_told_apart_and_named(name):
    torch.manual_seed(0)
    width, shift = OTHERS[name]
    for _ in range(2):
        found = c2st({"z": normal(width=width, shift=shift)}, {"z": normal()})
        assert found.verdict.startswith("different")
        told = found.verdict.split("; ")[1].split(" ")
        assert told[0] in ("z[0]", "z[1]")
        number = float(next(word for word in told if word.lstrip("+-")[0].isdigit()))
        assert number == pytest.approx(shift or width, rel=0.25)


def test_a_difference_that_no_mean_or_width_shows():
    torch.manual_seed(0)
    correlated = normal(800) @ torch.linalg.cholesky(torch.tensor([[1.0, 0.9], [0.9, 1.0]])).T
    assert c2st(correlated, normal(800)).accuracy > 0.6


def test_accuracy_is_the_optimal_classifiers():
    """Of two normals two deviations apart, the one between the means: 0.841."""
    torch.manual_seed(0)
    found = c2st(torch.randn(2000, 1), torch.randn(1000, 1) + 2.0)  # of unequal numbers
    assert found.accuracy == pytest.approx(0.841, abs=4 * (0.841 * 0.159 / 2000) ** 0.5)
    assert found.told.shape == (2, 1000)
    assert found.plot().get_suptitle().startswith("different: accuracy 0.8")


def test_one_seed_one_result_and_no_draw_of_torch():
    first, second = normal(100), normal(100)
    before = torch.get_rng_state()
    assert c2st(first, second, seed=3) == c2st(first, second, seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_bad_input():
    told = r"the two have other sites: a\[0\], a\[1\] and b\[0\], b\[1\]; give draws of the same ones"
    with pytest.raises(ValueError, match=told):
        c2st({"a": normal()}, {"b": normal()})
    with pytest.raises(ValueError, match="first must hold at least 50 draws, all finite, got 10"):
        c2st(normal(10), normal())
    with pytest.raises(ValueError, match="second must hold"):
        c2st(normal(), normal() * float("nan"))
