"""Hessians in blocks: as few products as there are, and steps by Schur complements, against dense matrices."""

from typing import ClassVar

import pytest
import torch
from torch.autograd import gradcheck

from pyrometa.inner import Arrow, Blocks, Newton, Surface, TaskRows
from pyrometa.inner.curvature import InBlocks, Whole

F64 = torch.float64
ELEMENTS = torch.tensor([-1, 0, 1, 2, 2, 1, -1, 0, 3, 3, 3, -1])  # of two numbers each, but the last of three
SIZE = len(ELEMENTS)
TOGETHER = (ELEMENTS[:, None] == ELEMENTS) | (ELEMENTS < 0) | (ELEMENTS[:, None] < 0)


def matrices(elements=ELEMENTS, tasks=2, *, positive=False):
    together = (elements[:, None] == elements) | (elements < 0) | (elements[:, None] < 0)
    h = torch.randn(tasks, len(elements), len(elements), dtype=F64)
    h = torch.where(together, h + h.mT, 0.0)
    return h + 30 * torch.eye(len(elements), dtype=F64) if positive else h


def products(arrow, h):
    return (arrow.vectors(h) @ h).movedim(1, 0)


def test_a_matrix_from_few_products():
    arrow, h = Arrow.of(ELEMENTS), matrices()
    assert arrow.products == 6
    assert torch.equal(arrow.dense(products(arrow, h)), h)
    a, b, c = arrow.parts(products(arrow, h))
    torch.testing.assert_close(a[:, 3], h[:, 8:11, 8:11])
    torch.testing.assert_close(b[:, 0, :2], h[:, [1, 7]][..., [0, 6, 11]])
    torch.testing.assert_close(c, h[:, [0, 6, 11]][..., [0, 6, 11]])
    assert (a[:, :3, 2] == 0).all()
    assert (a[:, :3, :, 2] == 0).all()


@pytest.mark.parametrize("at", [(1, 2), (3, 9), (7, 10)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_whatever_else_is_in_it_is_seen(at, dtype):
    """In the task that has it; a thousandth of the diagonal in single precision."""
    arrow, h = Arrow.of(ELEMENTS), matrices(positive=True).to(dtype)
    assert not arrow.is_apart(products(arrow, h)).any()
    h[1][at] = h[1].mT[at] = 0.03 if dtype == torch.float32 else 1e-5
    assert arrow.is_apart(products(arrow, h)).tolist() == [False, True]


def test_neighbours_that_pull_alike_do_not_cancel():
    """A random walk couples each element with the two beside it by the same number."""
    arrow = Arrow.of(torch.arange(8))
    h = 3 * torch.eye(8, dtype=F64) - torch.diag(torch.ones(7, dtype=F64), 1) - torch.diag(torch.ones(7, dtype=F64), -1)
    assert arrow.is_apart(products(arrow, h[None])).all()


NONE_SHARED, ALL_SHARED = ELEMENTS.clamp(min=0), torch.full_like(ELEMENTS, -1)


@pytest.mark.parametrize("elements", [ELEMENTS, NONE_SHARED, torch.arange(4).repeat(3), ALL_SHARED])
def test_a_step_by_schur_complements_is_the_dense_one(elements):
    arrow, h, slope = Arrow.of(elements), matrices(elements, positive=True), torch.randn(2, SIZE, dtype=F64)
    found = InBlocks.of(arrow, arrow.parts(products(arrow, h)))
    expected = torch.linalg.solve(h, slope)
    torch.testing.assert_close(found.divided(slope, torch.zeros(1, 1, 1, dtype=F64))[0], expected)
    for damping in (0.0, 0.3):
        damped = h + damping * found.largest[:, None, None] * torch.eye(SIZE, dtype=F64)
        step = found.step(slope, torch.full((2, 1), damping, dtype=F64), torch.tensor([[True], [False]]))
        torch.testing.assert_close(step[0], torch.linalg.solve(damped[0], slope[0]))
        assert (step[1] == 0).all()


def test_a_step_by_schur_complements_goes_down_where_the_loss_curves_down():
    """With the sizes of the blocks' eigenvalues and of what is left over."""
    arrow, h, slope = Arrow.of(ELEMENTS), matrices(), torch.randn(2, SIZE, dtype=F64)
    found = InBlocks.of(arrow, arrow.parts(products(arrow, h)))

    def size(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ torch.diag_embed(values.abs()) @ vectors.mT

    shared = ELEMENTS < 0
    for task in range(2):
        own = h[task][~shared][:, ~shared]
        assert torch.linalg.eigvalsh(own).min() < -1
        border, stiff = h[task][~shared][:, shared], torch.zeros(SIZE, SIZE, dtype=F64)
        left = h[task][shared][:, shared] - border.T @ torch.linalg.solve(size(own), border)
        rows, columns = shared.nonzero().flatten(), (~shared).nonzero().flatten()
        stiff[columns[:, None], columns] = size(own)
        stiff[columns[:, None], rows], stiff[rows[:, None], columns] = border, border.T
        stiff[rows[:, None], rows] = size(left) + border.T @ torch.linalg.solve(size(own), border)
        assert torch.linalg.eigvalsh(stiff).min() > 0
        for damping in (0.0, 0.2):
            damped = stiff + damping * found.largest[task] * torch.eye(SIZE, dtype=F64)
            step = found.divided(slope, torch.full((1, 1, 1), damping, dtype=F64))[0, task]
            torch.testing.assert_close(step, torch.linalg.solve(damped, slope[task]), rtol=1e-6, atol=1e-9)


def test_the_derivative_by_the_damping():
    arrow, h, slope = Arrow.of(ELEMENTS), matrices(), torch.randn(2, SIZE, dtype=F64)
    found, taken = InBlocks.of(arrow, arrow.parts(products(arrow, h))), torch.ones(2, 1, dtype=torch.bool)
    damping = torch.tensor([[0.1], [0.5]], dtype=F64, requires_grad=True)
    assert gradcheck(lambda each: found.step(slope, each, taken), damping, eps=1e-6, atol=1e-6)


def loss(x, coupling=0.0):
    """Elements and what all share; with a coupling, the first two elements as well."""
    own = (x[ELEMENTS >= 0] - torch.linspace(-1, 1, 9, dtype=F64)).cosh().sum() + 0.1 * (x[1] * x[7]) ** 3
    shared = (x[0] + x[6]).square() + x[0].cosh() + x[11].square() + 0.3 * x[11] * x[3:6].sum() + x[6] * x[8] * x[9]
    return own + shared + coupling * (x[1] - x[2]).square()


class Counted(TaskRows):
    """Notes how many products with the Hessian are taken at once."""

    noted: ClassVar[list[int]] = []

    def gradients(self, output, along, **options):
        self.noted.append(len(along))
        return super().gradients(output, along, **options)


def moved(rule, rows, couplings, *, exact=False, seen=True):
    losses = torch.stack([loss(row, c) for row, c in zip(rows, couplings, strict=True)])
    fast = Counted([rows], len(rows))
    slope = fast.gradient(losses.sum(), create_graph=True)

    def losses_at(candidates):
        return torch.stack([torch.stack([loss(*p) for p in zip(some, couplings, strict=True)]) for some in candidates])

    return rule.moved(Surface(fast, losses, slope, exact, losses_at, True, ("x",), seen), {}, 0)


@pytest.mark.parametrize("max_dim", [12, 5])
def test_steps_in_blocks(max_dim):
    """Those of the whole Hessian, by 7 products in the place of 12; the second task's Hessian is not positive."""
    rows = torch.zeros(2, SIZE, dtype=F64)
    for _ in range(6):
        rows = moved(Newton(), rows.requires_grad_(), (0, 0)).detach()
    rows = rows + 1e-3 * torch.randn(2, SIZE, dtype=F64)
    rows[1, 8] = -9.0
    rows.requires_grad_()
    found = moved(Newton(max_dim=max_dim, _blocks=Blocks({"x": ELEMENTS})), rows, (0, 0))
    count = Counted.noted[-1]
    expected = moved(Newton(), rows, (0, 0))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    assert count == 7
    if max_dim == SIZE:
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    else:
        assert loss(found[1]) < loss(rows[1])


def test_the_derivative_of_a_step_in_blocks():
    rule = Newton(0.1, _blocks=Blocks({"x": ELEMENTS}))
    rows = 0.3 * torch.randn(2, SIZE, dtype=F64, requires_grad=True)
    assert gradcheck(lambda at: moved(rule, at, (0, 0), exact=True), rows, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_the_first_task_that_is_more_ends_it():
    """Its step, and those of all tasks from then on, are of whole Hessians."""
    blocks, rows = Blocks({"x": ELEMENTS}), 0.3 * torch.randn(2, SIZE, dtype=F64, requires_grad=True)
    rule = Newton(_blocks=blocks)
    moved(rule, rows, (0, 0))
    assert blocks.hold
    torch.testing.assert_close(moved(rule, rows, (0, 0.5)), moved(Newton(), rows, (0, 0.5)), rtol=1e-12, atol=1e-12)
    assert not blocks.hold
    moved(rule, rows, (0, 0))
    assert Counted.noted[-1] == SIZE


@pytest.mark.parametrize("max_dim", [12, 5])
def test_where_values_are_not_seen_such_a_task_gets_no_numbers(max_dim):
    rows = 0.3 * torch.randn(2, SIZE, dtype=F64, requires_grad=True)
    found = moved(Newton(max_dim=max_dim, _blocks=Blocks({"x": ELEMENTS})), rows, (0, 0.5), seen=False)
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_blocks_of_whole_matrices_are_what_they_were():
    """The matrix of the products, differentiated through, is the Hessian itself."""
    arrow, rows = Arrow.of(ELEMENTS), 0.3 * torch.randn(1, SIZE, dtype=F64, requires_grad=True)
    hessian = torch.autograd.functional.hessian(loss, rows[0])
    fast = TaskRows([rows], 1)
    slope = fast.gradient(loss(rows[0]), create_graph=True)
    here = Surface(fast, rows.sum(1), slope, False, lambda rows: rows, True)
    found = Whole.of(arrow.dense(here.products(arrow.vectors(slope)[:, None])), exact=False)
    torch.testing.assert_close(found.hessian[0], hessian, rtol=1e-12, atol=1e-12)
