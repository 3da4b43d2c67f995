"""Causal language models: loading them, scoring texts by them, what they have read, writing with them."""

from latdiff.lm.loading import (
    LanguageModelError,
    causal_language_model,
    class_prefix,
    context,
    load_language_model,
    load_pretrained,
    load_tokenizer,
)
from latdiff.lm.reading import Past, empty_cache, led, left_padded, look_ahead, read
from latdiff.lm.scoring import token_losses
from latdiff.lm.writing import choose, ends_of, write

__all__ = ["LanguageModelError", "Past", "causal_language_model", "choose", "class_prefix", "context", "empty_cache",
           "ends_of", "led", "left_padded", "load_language_model", "load_pretrained", "load_tokenizer", "look_ahead",
           "read", "token_losses", "write"]
