"""One call for all small leaves gives the bits that one call for each gives."""

import pytest
import torch
from torch import optim

from pyrometa.outer.many_leaves import many_at_once

OPTIMIZERS = {
    "adam": lambda leaves: optim.Adam(leaves, lr=0.01, weight_decay=0.1, amsgrad=True),
    "adamw": lambda leaves: optim.AdamW(leaves, lr=0.01, maximize=True),
    "momentum": lambda leaves: optim.SGD(leaves, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "sgd": lambda leaves: optim.SGD(leaves, lr=0.01),
    "rmsprop": lambda leaves: optim.RMSprop(leaves, lr=0.01, centered=True, momentum=0.5),
    "adagrad": lambda leaves: optim.Adagrad(leaves, lr=0.01, lr_decay=0.1),
    "adamax": lambda leaves: optim.Adamax(leaves, lr=0.01),
    "adadelta": lambda leaves: optim.Adadelta(leaves, lr=0.01),
}
SHAPES = ((7, 5), (40,), (), (3, 3), (1,), (33,))


def leaves_of(shapes=SHAPES, dtype=torch.float32):
    torch.manual_seed(0)
    leaves = [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]
    for leaf in leaves:
        leaf.grad = torch.randn_like(leaf)
    return leaves


def form_of(optimizer):
    """What a step under the context sees of the option."""
    with many_at_once(optimizer):
        return [group["foreach"] for group in optimizer.param_groups]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_same_bits(kind, dtype):
    ours, theirs = leaves_of(dtype=dtype), leaves_of(dtype=dtype)
    first, second = OPTIMIZERS[kind](ours), OPTIMIZERS[kind](theirs)
    before = first.state_dict()["param_groups"]
    for _ in range(20):
        with many_at_once(first):
            assert first.param_groups[0]["foreach"] is True
            first.step()
        second.step()
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one, other)
            one.grad, other.grad = one.grad.roll(1), other.grad.roll(1)
    assert first.state_dict()["param_groups"] == before


def test_only_where_it_gains_and_nobody_said_otherwise():
    assert form_of(optim.Adam(leaves_of())) == [True]
    assert form_of(optim.Adam(leaves_of(), foreach=False)) == [False]
    assert form_of(optim.Adam(leaves_of(), fused=True)) == [None]
    assert form_of(optim.Adam(leaves_of(SHAPES[:3]))) == [None]
    assert form_of(optim.Adam(leaves_of((*SHAPES, (300, 300))))) == [None]
    assert form_of(optim.NAdam(leaves_of())) == [None]
    assert form_of(optim.Adam(leaves_of(), lr=torch.tensor(0.01))) == [None]


def test_an_error_in_the_step_leaves_the_option_as_it_was():
    optimizer = optim.Adam(leaves_of())
    with pytest.raises(KeyboardInterrupt), many_at_once(optimizer):
        raise KeyboardInterrupt
    assert optimizer.param_groups[0]["foreach"] is None
