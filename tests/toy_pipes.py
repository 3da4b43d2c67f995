"""What tests of the pipeline share: seeds, and heads of the tiny checkpoint's latents."""

import torch

from latdiff import AttributeHead

L, D = 3, 4


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_head(digest, labels=("a", "b", "c")):
    weight, bias = torch.randn(len(labels), L, D, generator=seeded()), torch.zeros(len(labels))
    return AttributeHead.from_weights(list(labels), weight, bias, name="mood", codec_digest=digest)
