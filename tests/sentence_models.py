"""Tiny models with random weights for a sentence codec: an encoder, language models in two layouts, a codec of both."""

import json
import shutil

import torch
from tokenizers import BertWordPieceTokenizer, ByteLevelBPETokenizer
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from latdiff import PerceiverCodec, SentenceCodec, storyworld
from latdiff.latents import statistics
from latdiff.models.writer import add_updates, merge_updates

KINDS = {"colour": ["red", "blue", "green", "black", "white"], "size": ["small", "large", "huge", "tiny", "tall"]}
TEXTS = [f"The {animal} is {word}." for animal in ("cat", "dog", "owl", "fox") for words in KINDS.values()
         for word in words]
LABELS = [kind for text in TEXTS for kind, words in KINDS.items() if text.rstrip(".").split()[-1] in words]
STORIES = [story.text for story in storyworld.sample(60, 11)]
CONTEXT, WIDTH = 48, 16
END = "<|end|>"


def bert(folder, seed=0, width=WIDTH, pooler=True):
    """sentence-transformers/all-MiniLM-L6-v2: a BERT with a WordPiece vocabulary."""
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(TEXTS, vocab_size=120, show_progress=False)
    pieces.save_model(str(folder))  # vocab.txt
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    config = BertConfig(
        vocab_size=pieces.get_vocab_size(), hidden_size=width, num_hidden_layers=1, intermediate_size=32,
        num_attention_heads=2, max_position_embeddings=64,
    )
    _random(BertModel, config, seed, add_pooling_layer=pooler).save_pretrained(folder)


def llama(folder, seed=0, width=WIDTH, end=END):
    """HuggingFaceTB/SmolLM2-135M: turned positions, two queries to a key, one embedding for input and output."""
    tokenizer = _byte_pairs(folder, end)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    _random(LlamaForCausalLM, config, seed).save_pretrained(folder)


def gpt2(folder, seed=0, width=WIDTH, end=END):
    """openai-community/gpt2: learnt positions, transposed matrices."""
    tokenizer = _byte_pairs(folder, end)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=width, n_layer=2, n_head=2, n_positions=CONTEXT,
        bos_token_id=tokenizer.eos_token_id, eos_token_id=tokenizer.eos_token_id,
    )
    _random(GPT2LMHeadModel, config, seed).save_pretrained(folder)


WRITERS = {"llama": llama, "gpt2": gpt2}


def other(make, folder, **settings):
    """The folder of another model."""
    folder.mkdir()
    make(folder, **settings)
    return folder


def sentence_codec(language_model, encoder, rank=0, seed=0, **settings):
    """A codec of two folders' models, whitened on TEXTS, whose low-rank updates are merged and not zero."""
    torch.manual_seed(seed)
    sizes = {"num_latents": 4, "latent_dim": 4, "prompt_dim": WIDTH, "num_prompts": 3, "width": 24, "max_tokens": 24}
    codec = SentenceCodec(str(language_model), str(encoder), rank=rank, **sizes | settings).attach()
    codec.soft_prompts.begin_at(2.0)
    codec.set_whitening(*statistics([codec.vectors(TEXTS)]))
    if rank:
        for part in add_updates(codec.language_model, rank).parameters():
            torch.nn.init.normal_(part, std=0.4)
        merge_updates(codec.language_model)
    return codec.requires_grad_(False).eval()


def perceiver_codec(language_model, encoder, rank=0, seed=0, **settings):
    """A codec of two folders' models with random weights, whitened on TEXTS."""
    torch.manual_seed(seed)
    sizes = {"num_latents": 6, "latent_dim": 4, "width": 16, "depth": 1, "heads": 2, "max_tokens": 24}
    codec = PerceiverCodec(str(language_model), str(encoder), rank=rank, prompt_dim=WIDTH, feature_dim=WIDTH,
                           **sizes | settings).attach().eval()
    raw = codec.compress(TEXTS)
    codec.autoencoder.set_whitening(raw.mean(0), raw.var(0))
    if rank:
        for part in add_updates(codec.language_model, rank).parameters():
            torch.nn.init.normal_(part, std=0.4)
        merge_updates(codec.language_model)
    return codec.requires_grad_(False).seal()


def lay_out(folder, writers, recipe):
    """Labelled texts, words.jsonl, and a recipe, words.yaml, beside copies of the models."""
    rows = (json.dumps({"text": text, "kind": kind}) for text, kind in zip(TEXTS, LABELS, strict=True))
    (folder / "words.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "words.yaml").write_text(recipe, encoding="utf-8")
    for name, place in vars(writers).items():
        shutil.copytree(place, folder / name)


def _byte_pairs(folder, end):
    pieces = ByteLevelBPETokenizer()
    pieces.train_from_iterator(TEXTS + STORIES, vocab_size=600, special_tokens=[END], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, eos_token=end)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _random(kind, config, seed, **settings):
    """Weights wide enough for one choice to differ from another."""
    torch.manual_seed(seed)
    model = kind(config, **settings)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return model
