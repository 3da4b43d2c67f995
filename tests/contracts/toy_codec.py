"""A codec in thirty lines: a colour and an animal, each a row of ±1 in the latents; nothing of it is trained."""

import hashlib

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from latdiff.codecs.protocol import Codec, Decoded, TextError, as_texts

COLOURS, ANIMALS = ["red", "blue", "green", "black"], ["cat", "dog", "owl", "fox"]


class ToyCodec(ModelMixin, ConfigMixin, Codec):
    latent_shape = (2, 4)

    @register_to_config
    def __init__(self, noise: float = 0.1):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(()))  # so that it has a device

    @property
    def digest(self):
        return hashlib.sha256(f"toy {self.config.noise}".encode()).hexdigest()[:16]

    def fits(self, texts, max_tokens=None):
        return [len(text.split()) == 2 for text in texts]

    def encode(self, texts, batch_size=256):
        texts = as_texts(texts)
        if not all(self.fits(texts)):
            raise TextError("a text here is a colour and an animal, such as 'red cat'; drop the others")
        places = torch.tensor([[words.index(word) for words, word in zip((COLOURS, ANIMALS), text.split(), strict=True)]
                               for text in texts])
        rows = torch.nn.functional.one_hot(places, 4).float() * 4 / 3**0.5 - 1 / 3**0.5
        return rows + self.config.noise * torch.sin(1000.0 * rows.cumsum(-1))

    def generate(self, latents, cond=None, batch_size=256, generators=None):
        places = latents.argmax(-1).tolist()
        return Decoded([f"{COLOURS[a]} {ANIMALS[b]}" for a, b in places], [False] * len(places))
