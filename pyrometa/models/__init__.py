"""Ready-made models and guides: plain Pyro programs, usable with ``pyro.infer.SVI`` and with MetaSVI."""

from pyrometa.models.vae import VAE, ConvVAE

__all__ = ["VAE", "ConvVAE"]
