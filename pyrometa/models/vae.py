"""The variational autoencoder: a classic one for flat images and a convolutional one for 28x28 images."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrometa.models.likelihoods import LIKELIHOODS
from pyrometa.models.networks import Activation, ConvDecoder, ConvEncoder, DenseDecoder, DenseEncoder

__all__ = ["VAE", "ConvVAE"]


class _ImageVAE(nn.Module):
    """An encoder and a decoder as a Pyro guide and model; what every VAE here shares."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent = latent
        self.event_shape = event_shape

    def model(self, x: Tensor) -> None:
        """The generative model: ``z ~ Normal(0, I)``, ``x ~ decoder(z)``, in one plate ``"data"`` of size N.

        Args:
            x: The images, ``(N, *event_shape)``, floating point.

        Raises:
            ValueError: ``x`` has another shape. When ``x`` is scored, values outside the likelihood's support
                are refused by Pyro's validation of distributions (on by default).
            TypeError: ``x`` is not a tensor of floating-point numbers.
        """
        self._check(x)
        pyro.module("decoder", self.decoder)
        loc, scale = x.new_zeros(x.shape[0], self.latent), x.new_ones(x.shape[0], self.latent)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            pyro.sample("x", self.decoder(z), obs=x)

    def guide(self, x: Tensor) -> None:
        """The amortised posterior: ``z ~ Normal(*encode(x))``, in the plate ``"data"``.

        Args:
            x: The images, ``(N, *event_shape)``, floating point.

        Raises:
            ValueError: ``x`` has another shape.
            TypeError: ``x`` is not a tensor of floating-point numbers.
        """
        self._check(x)
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(*self.encoder(x)).to_event(1))

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The amortised posterior's parameters.

        Args:
            x: The images, ``(N, *event_shape)``, floating point.

        Returns:
            ``loc`` and ``scale``, both ``(N, latent)``.

        Raises:
            ValueError: ``x`` has another shape.
            TypeError: ``x`` is not a tensor of floating-point numbers.
        """
        self._check(x)
        return self.encoder(x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean image at the posterior mean of each latent.

        Args:
            x: The images, ``(N, *event_shape)``, floating point.

        Returns:
            The likelihood's mean at ``z = loc``, ``(N, *event_shape)``.

        Raises:
            ValueError: ``x`` has another shape.
            TypeError: ``x`` is not a tensor of floating-point numbers.
        """
        loc, _ = self.encode(x)
        return self.decoder(loc).mean

    def sample(self, n: int) -> Tensor:
        """The mean images at ``n`` latents drawn from the prior.

        Args:
            n: How many images.

        Returns:
            The likelihood's mean at ``z ~ Normal(0, I)``, ``(n, *event_shape)``: no pixel noise is added.

        Raises:
            ValueError: ``n`` is less than one.
        """
        if n < 1:
            raise ValueError(f"sample(n) draws at least one image, got n={n}")
        weight = next(self.decoder.parameters())
        z = torch.randn(n, self.latent, dtype=weight.dtype, device=weight.device)
        return self.decoder(z).mean

    def _check(self, x: Tensor) -> None:
        """Refuses anything but floating-point images of the right shape; looks at no values."""
        name = type(self).__name__
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} takes a torch.Tensor of images, got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{name} takes floating-point images, got {x.dtype}; use x.float() / 255")
        if x.shape[1:] != self.event_shape or x.ndim == 0 or x.shape[0] == 0:
            shape = ", ".join(map(str, self.event_shape))
            raise ValueError(
                f"{name} takes images of shape (N, {shape}) with N >= 1, got {tuple(x.shape)}; "
                f"use x.reshape(-1, {shape})"
            )


class VAE(_ImageVAE):
    """The classic VAE: as many hidden layers in the decoder as in the encoder, one by default.

    ::

        p(z) = Normal(0, I)
        p(x | z) = likelihood(decoder(z))
        q(z | x) = Normal(loc(x), exp(log_scale(x)))

    ``vae.model`` and ``vae.guide`` are ordinary Pyro programs of one argument, images ``(N, data_size)``.
    Under ``"bernoulli"`` and ``"continuous_bernoulli"`` the pixels lie in [0, 1]. A Bernoulli scores a grey
    value by cross-entropy, as Pyro's VAE tutorial does; that is a likelihood on binary images only.
    ``"gaussian"`` learns one scale for all pixels.

    Kingma and Welling, *Auto-Encoding Variational Bayes*, 2014, https://arxiv.org/abs/1312.6114;
    Loaiza-Ganem and Cunningham, *The continuous Bernoulli*, 2019, https://arxiv.org/abs/1907.06845.

    Args:
        data_size: The number of pixels of a flat image.
        hidden: The width of both hidden layers; or several widths, from the image inwards, which the decoder mirrors.
        latent: The number of latent variables of an image.
        likelihood: ``"bernoulli"``, ``"continuous_bernoulli"`` or ``"gaussian"``.
        activation: The hidden layers' nonlinearity, such as ``torch.relu`` or ``torch.tanh``.

    Raises:
        ValueError: A size is less than one, there is no hidden layer, or the likelihood is unknown.

    Example:
        >>> import pyro, torch
        >>> from pyrometa.models import VAE
        >>> vae = VAE(hidden=32, latent=4)
        >>> optim = pyro.optim.Adam({"lr": 1e-3})
        >>> svi = pyro.infer.SVI(vae.model, vae.guide, optim, pyro.infer.TraceMeanField_ELBO())
        >>> x = torch.rand(10, 784)
        >>> loss = svi.step(x)
        >>> vae.reconstruct(x).shape, vae.sample(3).shape
        (torch.Size([10, 784]), torch.Size([3, 784]))
    """

    def __init__(
        self,
        data_size: int = 784,
        hidden: int | Sequence[int] = 400,
        latent: int = 20,
        likelihood: str = "bernoulli",
        activation: Activation = torch.relu,
    ) -> None:
        widths = [hidden] if isinstance(hidden, int) else list(hidden)
        _check_sizes(data_size=data_size, hidden=min(widths, default=0), latent=latent)
        encoder = DenseEncoder(data_size, widths, latent, activation)
        decoder = DenseDecoder(latent, widths[::-1], data_size, activation, _likelihood(likelihood, event_dim=1))
        super().__init__(encoder, decoder, latent, (data_size,))


class ConvVAE(_ImageVAE):
    """The convolutional VAE for 28x28 images: two convolutions of stride 2 each way, no normalisation layers.

    The equations are those of :class:`VAE`; images are ``(N, 1, 28, 28)``.

    Args:
        channels: The channels after the first and the second convolution; the decoder mirrors them.
        latent: The number of latent variables of an image.
        likelihood: ``"bernoulli"``, ``"continuous_bernoulli"`` or ``"gaussian"``.
        activation: The hidden layers' nonlinearity, such as ``torch.relu`` or ``torch.tanh``.

    Raises:
        ValueError: A size is less than one, or the likelihood is unknown.

    Example:
        >>> import torch
        >>> from pyrometa.models import ConvVAE
        >>> vae = ConvVAE(channels=(4, 8), latent=2)
        >>> loc, scale = vae.encode(torch.rand(10, 1, 28, 28))
        >>> loc.shape, vae.sample(3).shape
        (torch.Size([10, 2]), torch.Size([3, 1, 28, 28]))
    """

    def __init__(
        self,
        channels: tuple[int, int] = (32, 64),
        latent: int = 20,
        likelihood: str = "bernoulli",
        activation: Activation = torch.relu,
    ) -> None:
        _check_sizes(channels=min(channels), latent=latent)
        encoder = ConvEncoder(channels, latent, activation)
        decoder = ConvDecoder(latent, channels, activation, _likelihood(likelihood, event_dim=3))
        super().__init__(encoder, decoder, latent, (1, 28, 28))


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _likelihood(name: str, event_dim: int) -> nn.Module:
    if name not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(map(repr, LIKELIHOODS))}, got {name!r}")
    return LIKELIHOODS[name](event_dim)
