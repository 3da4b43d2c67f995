"""The sentence codec's tiny run: its recipe, what its codec needs for texts, and how to compare two."""

import torch
from latdiff.recipes.writing import WritingLoss
from runs import assert_equal, weights

from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe

WORDS = """
name: words
codec: sentence
data: {source: words.jsonl, condition: label, condition_column: kind, valid_size: 6, max_tokens: 24}
sentence: {num_latents: 4, num_prompts: 3, width: 24, rank: 2, max_tokens: 24}
train_sentence: {steps: 6, batch_size: 4, warmup_steps: 2, sample_every: 100, save_every: 3}
denoiser: {width: 16, depth: 1, heads: 2}
train_denoiser: {steps: 6, batch_size: 8, warmup_steps: 2, sample_every: 100, save_every: 3}
sampling: {steps: 3}
"""


def words(*settings):
    return load_recipe("words.yaml", ["sentence.language_model=llama", "sentence.encoder=encoder", *settings])


def assert_same_codec(found, expected):
    assert_equal(weights(found / "codec"), weights(expected / "codec"))
    assert_equal(weights(found / "codec" / "adapter"), weights(expected / "codec" / "adapter"))
    assert_equal(*(weights(place / "train" / "latents") for place in (found, expected)))


def nats(folder, texts):
    """What the codec of a folder needs for a token of texts, those of its end among them."""
    codec = load_codec(folder)
    ids = codec.tokenize(texts)
    objective = WritingLoss(codec, 0.0, torch.tensor(sorted({one for row in ids for one in row})))
    with torch.no_grad():
        return objective(codec.encode(texts), ids, [[]] * len(ids), torch.Generator().manual_seed(0)).item()
