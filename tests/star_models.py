"""A tiny language model, in two layouts, and a planner around it, with random weights."""

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from latdiff.models.star import StarPlanner

V, H, K, L, D = 20, 16, 3, 2, 4
START, END = 0, 1
SMALL = {"vocab_size": V, "hidden_size": H, "num_hidden_layers": 2, "num_attention_heads": 2, "bos_token_id": START,
         "eos_token_id": END, "max_position_embeddings": 40}
LAYOUTS = {"gpt2": GPT2Config(**SMALL), "llama": LlamaConfig(**SMALL, intermediate_size=32)}
PREFIXES = [[START, 5, 6, 7], [START, 9], [START, 3, 3, 8, 2, 4]]
CONTINUATIONS = [[4, 5, END], [7, 2, 2, 6, 10, END], [11, END]]


def language_model(layout="gpt2", spread=0.3):
    """Weights wide enough for one token to differ from another; no dropout."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LAYOUTS[layout], attn_implementation="eager").eval()
    return widened(model, spread)


def planner(trained=True, **settings):
    """One whose last layers are not zero, as after training, or as it begins."""
    torch.manual_seed(1)
    sizes = {"num_latents": L, "latent_dim": D, "prompt_dim": H, "num_prompts": K, "width": 16, "depth": 1, "heads": 2}
    made = StarPlanner(**sizes | settings).eval()
    return widened(made, 0.3) if trained else made


def widened(model, spread):
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=spread)
    return model


def noise(count=3, seed=0):
    return torch.randn(count, L, D, generator=torch.Generator().manual_seed(seed))
