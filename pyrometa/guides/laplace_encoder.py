"""An encoder that knows the model: it guesses the posterior, and asks the model where to go from there."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrometa.guides.families import unconstrained
from pyrometa.guides.log_joint import LogJoint
from pyrometa.guides.pooling import row_mask
from pyrometa.guides.set_attention import SetAttention

Stats = tuple[Tensor, Tensor]
"""Centre and width of each of some numbers."""

POINTS = 16
SHARES = (1.0, 0.4, 0.1, 0.0)  # of a round's step: the one that leads highest is taken
FURTHEST = 3.0  # from the prior's centre, and for a step, in the prior's widths


class LaplaceEncoder(nn.Module):
    r"""Parameters of a mean field :math:`q(u) = \prod_i \text{Normal}(u_i; m_i, s_i)` for a task's rows.

    A network of the set of rows guesses m and s. Rounds of

    .. math::
        m \leftarrow m + \Lambda^{-1} \, \text{E}_q[\nabla \log p(u, x)], \qquad
        s_i \leftarrow \Lambda_{ii}^{-1/2}, \qquad \Lambda = -\text{E}_q[\nabla^2 \log p(u, x)]

    sharpen the guess, of which the mean field's optimum is a fixed point. Expectations are means over a few fixed
    quasi-random points; a step that lowers the ELBO there is shortened. No gradient is taken through the rounds.

    Args:
        log_joint: the model's log density.
        columns: centre and width of each number in a row, flattened and end to end over the arguments.
        latents: centre and width of each unconstrained latent under the prior.
        features: width of the networks.
        rounds: how many rounds.

    Attributes:
        refines: whether rounds follow the guess.

    References:
        Khan, Nielsen (2018), Fast yet simple natural-gradient descent for variational inference,
        https://arxiv.org/abs/1807.04489.
    """

    column_center: Tensor
    column_width: Tensor
    latent_center: Tensor
    latent_width: Tensor
    points: Tensor

    def __init__(self, log_joint: LogJoint, columns: Stats, latents: Stats, features: int, rounds: int) -> None:
        super().__init__()
        self._log_joint = (log_joint,)  # not a submodule
        for name, (center, width) in (("column", columns), ("latent", latents)):
            self.register_buffer(f"{name}_center", center)
            self.register_buffer(f"{name}_width", width)
        size = len(latents[0])
        self.register_buffer("points", _points(size).to(latents[0]))
        self.rounds, self.refines = rounds, True
        self.read = SetAttention(len(columns[0]), features)
        self.guess = _network(self.read.size, features, 2 * size)

    def forward(self, *args: Tensor) -> Tensor:
        """One row ``(1, 2 D)``: locations, and scales as ``MeanField`` takes them; the arguments are the model's."""
        rows = torch.cat([arg.reshape(len(arg), -1).to(self.points) for arg in args], -1)
        mask = row_mask(rows)
        summary = self.read(((rows - self.column_center) / self.column_width).asinh(), mask)
        mean, log_width = self.guess(summary).chunk(2, -1)
        mean = FURTHEST * (mean / FURTHEST).tanh()
        if self.refines:
            mean, log_width = self._refined(mean.detach(), log_width.detach(), mask, args)
        scale = self.latent_width * log_width.exp()
        return torch.cat([self._reals(mean), unconstrained(scale)])[None]

    def _refined(
        self, mean: Tensor, log_width: Tensor, mask: Tensor, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        for _ in range(self.rounds):
            slope, curvature = self._derivatives(mean, log_width, mask, args)
            step = torch.linalg.solve(curvature, slope).clamp(-FURTHEST, FURTHEST)
            change = (curvature.diagonal().log() / -2 - log_width).clamp(-1, 1)
            mean, log_width = self._best(mean, log_width, step, change, mask, args)
        return mean, log_width

    def _best(
        self, mean: Tensor, log_width: Tensor, step: Tensor, change: Tensor, mask: Tensor, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """The share of a step after which the ELBO is highest."""
        tried = [(mean + share * step, log_width + share * change) for share in SHARES]
        elbos = [self._log_joint[0](self._at(*one), mask, *args) + one[1].sum() for one in tried]
        best = F.one_hot(torch.stack(elbos).detach().nan_to_num(-math.inf).argmax(), len(SHARES)).to(mean)
        means, log_widths = (torch.stack(part) for part in zip(*tried, strict=True))
        return best @ means, best @ log_widths

    def _derivatives(
        self, mean: Tensor, log_width: Tensor, mask: Tensor, args: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Mean slope and curvature at the points, in the prior's widths."""
        slope, curvature = self._log_joint[0].derivatives(self._at(mean, log_width), mask, *args)
        width = self.latent_width
        return width * slope.detach(), _positive(width * curvature.detach() * width[:, None])

    def _at(self, mean: Tensor, log_width: Tensor) -> Tensor:
        return self._reals(mean + log_width.exp() * self.points)

    def _reals(self, mean: Tensor) -> Tensor:
        return self.latent_center + self.latent_width * mean


def _points(size: int) -> Tensor:
    """Standard normal points in pairs, ``(POINTS, size)``, each coordinate of mean 0 and variance 1."""
    half = torch.quasirandom.SobolEngine(size, scramble=True, seed=0).draw(POINTS // 2, dtype=torch.float64)
    half = torch.special.ndtri(half.clamp(1e-6, 1 - 1e-6))
    points = torch.cat([half, -half])
    return points / points.std(0, unbiased=False)


def _positive(curvature: Tensor) -> Tensor:
    """With as much of the identity added as leaves no curvature below half that of the prior."""
    lowest = torch.linalg.eigvalsh(curvature).min()
    return curvature + (0.5 - lowest).clamp(min=0) * torch.eye(len(curvature)).to(curvature)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, outputs)]
    return nn.Sequential(*layers)
