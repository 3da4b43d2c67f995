"""A codec whose latents show the first letter of a text, and heads of its latents."""

import pytest
import torch

from latdiff.heads.attribute import AttributeHead
from latdiff.heads.inputs import HeadError
from latdiff.heads.number import NumberHead

L, D = 2, 3


class Codec:
    """Latents that show their text's first letter: b is two further along the first dimension than a, and so on."""

    latent_shape, digest = (L, D), "abc"

    def encode(self, texts):
        latents = torch.randn(len(texts), L, D, generator=torch.Generator().manual_seed(0))
        latents[:, 0, 0] += torch.tensor([2.0 * (ord(text[0]) - ord("a")) for text in texts])
        return latents


CODEC = Codec()


def labelled(letters, each=30):
    texts = [f"{letter}{number}" for number in range(each) for letter in letters]
    return texts, [f"class {text[0]}" for text in texts]


def random_head(classes=3, bias=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, L, D, generator=generator)
    bias = torch.randn(classes, generator=generator) if bias is None else torch.tensor(bias)
    labels, report = [f"label{i}" for i in range(classes)], {"accuracy": 0.9}
    return AttributeHead.from_weights(labels, weight, bias, name="mood", codec_digest="abc", report=report)


def words_head(name="words"):
    return NumberHead.from_weights(torch.zeros(L, D), torch.tensor(0.0), sd=1.0, name=name)


def refusal(call, *arguments, **keywords):
    with pytest.raises(HeadError) as error:
        call(*arguments, **keywords)
    return str(error.value)
