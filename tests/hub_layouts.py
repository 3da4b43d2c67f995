"""Tiny models with random weights in the layout of the hub's: its files, its configuration, its kind of tokenizer.

Each function fills a folder as a download of the named model would. Random weights are large, for choices to differ.
"""

import io
import json

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    BartConfig,
    BartModel,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from latdiff import storyworld

TEXTS = [story.text for story in storyworld.sample(60, 11)]
POSITIONS = 128  # of the BART


def t5(folder):
    """t5-small: ReLU, one embedding for input and output, whose outputs are scaled."""
    _t5_vocabulary(folder, {"extra_ids": 100})
    _t5(folder, T5ForConditionalGeneration, T5Config, {"feed_forward_proj": "relu"})


def t5_v1_1(folder):
    """google/t5-v1_1-small, google/flan-t5-small: gated GELU, output embeddings of its own."""
    _t5_vocabulary(folder, {"extra_ids": 100})
    own = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    _t5(folder, T5ForConditionalGeneration, T5Config, own)


def mt5(folder):
    """google/mt5-small: as T5 1.1, but its sentinels are mere pieces of the vocabulary."""
    _t5_vocabulary(folder, {"extra_ids": 0}, [f"▁<extra_id_{i}>" for i in reversed(range(100))])
    own = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer"}
    _t5(folder, MT5ForConditionalGeneration, MT5Config, own)


def bart(folder):
    """facebook/bart-base: <s> before a text, learned positions, forced ends, and beam search in its configuration.

    The weights are those of a BartModel, without the head.
    """
    pieces = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces.train_from_iterator(TEXTS, vocab_size=500, special_tokens=special, show_progress=False)
    pieces.save_model(str(folder))  # vocab.json and merges.txt
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "BartTokenizer", "model_max_length": 1024})
    config = BartConfig(
        vocab_size=pieces.get_vocab_size(), d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=POSITIONS,
    )
    decoding = {"num_beams": 4, "no_repeat_ngram_size": 3, "early_stopping": True, "forced_bos_token_id": 0}
    _save(folder, BartModel(config), decoding | {"forced_eos_token_id": 2, "architectures": ["BartModel"]})


LAYOUTS = [t5, t5_v1_1, mt5, bart]


def _t5_vocabulary(folder, settings, pieces=()):
    """spiece.model, with pieces of one's own at the end, and the tokenizer's settings."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=written, vocab_size=300, model_type="unigram",
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
    )
    model = ModelProto.FromString(written.getvalue())
    for piece in pieces:
        model.pieces.add(piece=piece, score=0.0, type=ModelProto.SentencePiece.USER_DEFINED)
    (folder / "spiece.model").write_bytes(model.SerializeToString())
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "tokenizer_class": "T5Tokenizer"}
    _write(folder / "tokenizer_config.json", special | settings)


def _t5(folder, model, config, settings):
    """With more embeddings than the tokenizer has tokens, as all of them have."""
    built = model(config(
        vocab_size=428, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0, **settings,
    ))
    _save(folder, built, settings | {"n_positions": 512})


def _save(folder, model, settings):
    """The weights that a file of the hub holds: every embedding once, and an untied output beside it."""
    torch.manual_seed(0)
    weights = {name: value.clone() for name, value in model.state_dict().items() if "embed_tokens" not in name}
    if settings.get("tie_word_embeddings", True):
        weights.pop("lm_head.weight", None)
    for name, value in weights.items():
        if value.dim() > 1:
            weights[name] = torch.randn(value.shape) * (0.1 if "shared" in name else 0.5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(model.config.to_json_string())
    config.pop("scale_decoder_outputs", None)  # younger than the files on the hub
    _write(folder / "config.json", config | settings)


def _write(file, content):
    file.write_text(json.dumps(content), encoding="utf-8")
