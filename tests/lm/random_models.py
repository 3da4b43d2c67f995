"""Tiny causal language models with random weights, and the streams that rows are sampled from."""

import torch
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig, OPTConfig

V, CONTEXT = 12, 48
SMALL = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0}
ATTENTION = SMALL | {"num_attention_heads": 2, "max_position_embeddings": CONTEXT}
KINDS = {  # positions that are learnt, turned, learnt from the mask, and slopes
    "gpt2": GPT2Config(**ATTENTION),
    "llama": LlamaConfig(**ATTENTION, intermediate_size=32),
    "opt": OPTConfig(**ATTENTION, ffn_dim=32, word_embed_proj_dim=16),
    "bloom": BloomConfig(**ATTENTION),
}


def gpt2(eos_token_id=None, spread=6.0, vocab_size=V):
    return random_model(GPT2Config(**ATTENTION | {"vocab_size": vocab_size}), eos_token_id, spread)


def random_model(config, eos_token_id=None, spread=6.0):
    """Weights wide enough for one token to differ from another."""
    torch.manual_seed(0)
    config.eos_token_id = eos_token_id
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1 * spread)
    return model


def numbers(n, base=0):
    return [torch.Generator().manual_seed(base + place) for place in range(n)]
