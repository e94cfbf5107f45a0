"""Pure functions of a model, a guide and data that return numbers: how good is the fit?"""

from pyrometa.diagnostics.iwae import elbo, iwae_log_marginal, iwae_nll

__all__ = ["elbo", "iwae_log_marginal", "iwae_nll"]
