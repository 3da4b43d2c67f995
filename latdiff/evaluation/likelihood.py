"""How many nats does a generator need for unseen texts, and how many of them needlessly?"""

from __future__ import annotations

import math

import torch

from latdiff.evaluation.generators import Generator
from latdiff.evaluation.metrics import mean_words
from latdiff.worlds import Oracle


def likelihood(generator: Generator, texts: list[str], oracle: Oracle | None = None, seed: int = 0) -> dict:
    """Nats that a generator's model needs for a text, beside those that the world of the texts needs itself.

    The excess is the Kullback-Leibler divergence of the model from the world, estimated on the world's texts: 0 nats
    for the world itself, more for any other model, by whatever tokens it writes. Of a bound it is at most that.

    Args:
        generator: any.
        texts: N unseen ones. Those that the model cannot read are counted under `left_out`.
        oracle: of the texts' world.
        seed: of a bound that is estimated by sampling.

    Returns:
        `n`, `left_out`, the `kind` ("exact" or "bound"), `nats` a text and `nats_per_word`. With an oracle whose texts
        they are, also `nats_of_world` and the `excess`, its `mean` and the `standard_error` of that over texts. Of a
        sampled bound, also the `sampling_error`: the part of the standard error that more sampling would lessen. No
        figures for a generator without a likelihood, or one that can read none of the texts.
    """
    found = generator.log_prob(texts, seed)
    if found is None:
        return {}
    nats, read = -found.values.double().cpu(), found.values.isfinite().cpu()
    n, own = int(read.sum()), [text for text, there in zip(texts, read.tolist(), strict=True) if there]
    if n == 0:
        return {}
    mean = nats[read].mean().item()
    row = {"n": n, "left_out": len(texts) - n, "kind": found.kind, "nats": mean}
    row["nats_per_word"] = mean / mean_words(own)
    row |= {} if oracle is None else _excess(nats[read], own, oracle)
    if found.standard_errors is not None:
        row["sampling_error"] = found.standard_errors.double().cpu()[read].square().sum().sqrt().item() / n
    return row


def _excess(nats: torch.Tensor, texts: list[str], oracle: Oracle) -> dict:
    """Figures of nats [N] beside a world's; none where the texts are not its own, as with sentences cut off."""
    exact = -torch.tensor([oracle.log_prob(text) for text in texts], dtype=torch.float64)
    if not exact.isfinite().all():
        return {}
    excess = {"mean": (nats - exact).mean().item()}
    if len(texts) > 1:
        excess["standard_error"] = (nats - exact).std().item() / math.sqrt(len(texts))
    return {"nats_of_world": exact.mean().item(), "excess": excess}
