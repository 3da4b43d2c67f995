"""Which optimisers train a model, and at what learning rate?"""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from latdiff.muon import Float32Muon


def optimizers(
    model: nn.Module, learning_rate: float, weight_decay: float = 0.01, muon: bool = True, half: bool = False
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of linear layers, also GPT-2's transposed ones; AdamW for the rest, or for all.

    The rest are embeddings, queries, norms, biases. Muon: Jordan et al. 2024; its rates are matched to AdamW's, and it
    computes in bfloat16 where `half` is set.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = {
        id(m.weight): m.weight
        for m in model.modules()
        if isinstance(m, (nn.Linear, Conv1D)) and m.weight.requires_grad and id(m.weight) not in embeddings
    }
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in matrices]
    adamw = {"lr": learning_rate, "betas": (0.9, 0.98)}
    if not muon:
        decayed = {"params": list(matrices.values()), "weight_decay": weight_decay}
        return [torch.optim.AdamW([decayed, {"params": rest, "weight_decay": 0.0}], **adamw)]
    kind = torch.optim.Muon if half else Float32Muon
    return [
        kind(matrices.values(), lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, weight_decay=0.0, **adamw),
    ]


def set_learning_rate(
    optimizers: list[torch.optim.Optimizer], peak: float, step: int, steps: int, warmup: int
) -> None:
    """Linear warm-up to the peak, then a cosine down to zero at the last step."""
    progress = (step - warmup) / max(1, steps - warmup)
    rate = peak * (min(1.0, (step + 1) / warmup) if step < warmup else 0.5 * (1 + math.cos(math.pi * progress)))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
