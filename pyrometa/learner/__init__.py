"""The state of a MetaSVI: at first what the user gave, and from first data on what adapts and what is learned."""

from pyrometa.learner.beginning import Beginning
from pyrometa.learner.learner import Learner, check_grad_mode, check_meta_gradient

__all__ = ["Beginning", "Learner", "check_grad_mode", "check_meta_gradient"]
