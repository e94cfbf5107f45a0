"""Pyro's tutorial programs with networks and local latents."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import nn
from tutorial import TASKS, Tutorial


class Encoder(nn.Module):
    def __init__(self, z_dim, hidden_dim):
        super().__init__()
        self.fc1 = nn.Linear(8, hidden_dim)
        self.fc21, self.fc22 = nn.Linear(hidden_dim, z_dim), nn.Linear(hidden_dim, z_dim)
        self.softplus = nn.Softplus()

    def forward(self, x):
        hidden = self.softplus(self.fc1(x.reshape(-1, 8)))
        return self.fc21(hidden), torch.exp(self.fc22(hidden))


class Decoder(nn.Module):
    def __init__(self, z_dim, hidden_dim):
        super().__init__()
        self.fc1, self.fc21 = nn.Linear(z_dim, hidden_dim), nn.Linear(hidden_dim, 8)
        self.softplus = nn.Softplus()

    def forward(self, z):
        return torch.sigmoid(self.fc21(self.softplus(self.fc1(z))))


class VAE(nn.Module):
    """The VAE tutorial: networks registered by pyro.module, model and guide as methods."""

    def __init__(self, z_dim=2, hidden_dim=5):
        super().__init__()
        self.encoder, self.decoder, self.z_dim = Encoder(z_dim, hidden_dim), Decoder(z_dim, hidden_dim), z_dim

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x.reshape(-1, 8))
            return loc_img

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            z_loc, z_scale = self.encoder(x)
            pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))


def vae():
    program, images = VAE(), torch.rand(TASKS, 10, 2, 4).round()
    return Tutorial(program.model, program.guide, images[:, :5], images[:, 5:], adapt="both", lr=1e-2)


class SSVAE(nn.Module):
    """The semi-supervised VAE tutorial (Kingma 2014, M2): the digit is a latent where it is not given."""

    def __init__(self, output_size=3, input_size=6, z_dim=2):
        super().__init__()
        self.output_size, self.z_dim = output_size, z_dim
        self.encoder_y = nn.Sequential(
            nn.Linear(input_size, 4), nn.Softplus(), nn.Linear(4, output_size), nn.Softmax(-1)
        )
        self.encoder_z = nn.Sequential(nn.Linear(input_size + output_size, 4), nn.Softplus(), nn.Linear(4, 2 * z_dim))
        self.decoder = nn.Sequential(nn.Linear(z_dim + output_size, 4), nn.Softplus(), nn.Linear(4, input_size))

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        options = {"dtype": xs.dtype, "device": xs.device}
        with pyro.plate("data"):
            zs = pyro.sample("z", dist.Normal(torch.zeros(batch_size, self.z_dim, **options), 1.0).to_event(1))
            alpha_prior = torch.ones(batch_size, self.output_size, **options) / (1.0 * self.output_size)
            ys = pyro.sample("y", dist.OneHotCategorical(alpha_prior), obs=ys)
            both = torch.cat([zs.expand(*ys.shape[:-1], -1), ys], -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(both)).to_event(1), obs=xs)

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            loc, scale = self.encoder_z(torch.cat([xs.expand(*ys.shape[:-1], -1), ys], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def semi_supervised_vae():
    program, images = SSVAE(), torch.rand(TASKS, 8, 6).round()
    guide = config_enumerate(program.guide, "parallel", expand=True)
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    return Tutorial(program.model, guide, images[:, :4], images[:, 4:], loss, adapt="both", lr=1e-2)


class DMM(nn.Module):
    """The deep Markov model: a recurrent guide, sequences of several lengths, and annealing by poutine.scale."""

    def __init__(self, input_dim=3, z_dim=2, rnn_dim=4):
        super().__init__()
        self.emitter = nn.Sequential(nn.Linear(z_dim, 4), nn.ReLU(), nn.Linear(4, input_dim), nn.Sigmoid())
        self.trans = nn.Linear(z_dim, 2 * z_dim)
        self.combine, self.combined = nn.Linear(z_dim, rnn_dim), nn.Linear(rnn_dim, 2 * z_dim)
        self.rnn = nn.RNN(input_dim, rnn_dim, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(z_dim)), nn.Parameter(torch.zeros(z_dim))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, rnn_dim))

    def model(self, mini_batch, mini_batch_reversed, mini_batch_mask, annealing_factor=0.7):
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.trans(z_prev).chunk(2, -1)
                mask = mini_batch_mask[:, t - 1 : t]
                with poutine.scale(scale=annealing_factor):
                    z_t = pyro.sample(f"z_{t}", dist.Normal(loc, scale.exp()).mask(mask).to_event(1))
                emitted = dist.Bernoulli(self.emitter(z_t)).mask(mask).to_event(1)
                pyro.sample(f"obs_x_{t}", emitted, obs=mini_batch[:, t - 1, :])
                z_prev = z_t

    def guide(self, mini_batch, mini_batch_reversed, mini_batch_mask, annealing_factor=0.7):
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), self.rnn.hidden_size).contiguous()
        rnn_output = self.rnn(mini_batch_reversed, h_0)[0].flip(1)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                hidden = 0.5 * (torch.tanh(self.combine(z_prev)) + rnn_output[:, t - 1, :])
                loc, scale = self.combined(hidden).chunk(2, -1)
                with poutine.scale(scale=annealing_factor):
                    normal = dist.Normal(loc, scale.exp()).mask(mini_batch_mask[:, t - 1 : t])
                    z_prev = pyro.sample(f"z_{t}", normal.to_event(1))


def deep_markov():
    program, notes = DMM(), torch.rand(2, TASKS, 4, 3, 3).round()
    masks = (torch.arange(3) < torch.randint(1, 4, (2, TASKS, 4, 1))).float()
    support, query = ((x, x.flip(2), mask.bool()) for x, mask in zip(notes, masks, strict=True))
    return Tutorial(program.model, program.guide, support, query, adapt="both")
