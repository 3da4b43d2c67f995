"""How likely are texts to a causal language model?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from latdiff.lm.loading import context

LOGITS = 2048 * 50257  # computed at a time when texts are scored, which take 0.4 GB: 2048 tokens of GPT-2's


@torch.no_grad()
def token_losses(model, start: int, ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Summed negative log-likelihood in nats [N] of every row, and the tokens [N] that it is the sum of.

    Args:
        model: a causal language model.
        start: the id that every row is read after.
        ids: N rows, without `start`. Tokens beyond the model's context are not scored.
    """
    longest = context(model) - 1
    counts = torch.tensor([min(len(row), longest) for row in ids], dtype=torch.long)
    nats = torch.zeros(len(counts))
    for chunk in _chunks(counts.tolist(), LOGITS // model.config.get_text_config().vocab_size):
        rows = [torch.tensor(ids[place][:longest], device=model.device) for place in chunk]
        targets = pad_sequence(rows, batch_first=True, padding_value=start)
        inputs = F.pad(targets[:, :-1], (1, 0), value=start)
        logits = model(inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits
        losses = [F.cross_entropy(found[: len(row)].float(), row, reduction="sum")  # its copies are of a text at a time
                  for found, row in zip(logits, rows, strict=True)]
        nats[chunk] = torch.stack(losses).cpu()
    return nats, counts


def _chunks(lengths: list[int], most: int) -> list[list[int]]:
    """Places of rows that are not empty, the longest first, in groups of at most `most` tokens once padded."""
    chunks: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if lengths[place] == 0:
            break
        if not chunks or (len(chunks[-1]) + 1) * lengths[chunks[-1][0]] > most:
            chunks.append([])
        chunks[-1].append(place)
    return chunks
