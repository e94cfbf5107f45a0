"""scvi-tools' AmortizedLDA: its Pyro module's own model and guide, on counts of three tasks."""

import torch
from row import Program, Row
from scvi.module import AmortizedLDAPyroModule
from torch import nn


def _lda(frozen):
    def build():
        module = AmortizedLDAPyroModule(5, n_topics=3, n_hidden=4)
        if frozen:
            for part in module.modules():
                if isinstance(part, nn.BatchNorm1d | nn.Dropout):
                    part.eval()
        counts = torch.poisson(3 * torch.ones(3, 6, 5))
        return Program(module.model, module.guide, (counts, counts.sum(-1, keepdim=True), 6))

    return build


ROWS = [
    Row("AmortizedLDA", _lda(False), "refused", "`.eval()` on the encoder's BatchNorm, as in the next row"),
    Row(
        "AmortizedLDA, normalisation in eval mode",
        _lda(True),
        "loop",
        "the model reads its largest library as a number",
    ),
]
