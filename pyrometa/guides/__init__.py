"""Guides whose posteriors are computed from data: plain Pyro guides, for SVI and for MetaSVI."""

from pyrometa.guides.amortized import AmortizedGuide
from pyrometa.guides.composed import ComposedGuide
from pyrometa.guides.families import Flow, FullCovariance, MeanField, Posterior
from pyrometa.guides.particles import ParticleGuide
from pyrometa.guides.pooling import AttentionPooling
from pyrometa.guides.semi_amortized import SemiAmortizedGuide
from pyrometa.guides.set_encoder import SetEncoderGuide

__all__ = [
    "AmortizedGuide",
    "AttentionPooling",
    "ComposedGuide",
    "Flow",
    "FullCovariance",
    "MeanField",
    "ParticleGuide",
    "Posterior",
    "SemiAmortizedGuide",
    "SetEncoderGuide",
]
