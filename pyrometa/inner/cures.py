"""What helps where adaptation diverges."""

from __future__ import annotations

from pyrometa.inner.rule import LossRule, Rule


def cure(rule: Rule) -> str:
    """Advice by the rule: one that asks the losses takes no step up, so that its start is to blame, or a long step."""
    if isinstance(rule, LossRule):
        return (
            "start where the loss and its second derivatives are finite, raise the damping, as by Newton(0.1), or use "
            'reduction="mean"'
        )
    return 'lower the inner rate, learn it by layer (SGD(lr, learn="layer")), or use reduction="mean"'
