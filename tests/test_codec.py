"""Text to latents and back, on the tiny checkpoint."""

import pytest
import torch

from latdiff.codec import TextError
from latdiff.tokens import tokenize

L, D = 3, 4


@pytest.fixture
def texts(stories):
    return [text for text, _ in stories]


def test_latents_have_the_shape_that_the_codec_names(codec, texts):
    assert codec.latent_shape == (L, D)
    assert codec.encode(texts).shape == (40, L, D)
    assert codec.encode(texts).dtype == torch.float32


def test_the_order_of_the_texts_is_kept(codec, texts):
    assert len({len(row) for row in tokenize(codec.tokenizer, texts)}) > 3  # sorted by length inside
    latents = codec.encode(texts)
    torch.testing.assert_close(codec.encode(texts[::-1]), latents.flip(0), rtol=1e-4, atol=1e-4)
    assert (latents[:-1] - latents[1:]).abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 7])
def test_a_texts_latents_do_not_depend_on_its_batch(codec, texts, batch_size):
    expected = codec.encode(texts)
    torch.testing.assert_close(codec.encode(texts, batch_size=batch_size), expected, rtol=1e-3, atol=1e-3)


def test_latents_of_the_training_set_are_white(codec, tiny):
    from latdiff.config import load_recipe
    from latdiff.data import load_corpus
    from latdiff.training import load_latents

    recipe = load_recipe(str(tiny.recipe))
    cached = load_latents(tiny.checkpoint, codec.digest())  # what the denoiser trains on
    torch.testing.assert_close(cached.mean(0), torch.zeros(L, D), rtol=0, atol=1e-4)
    torch.testing.assert_close(cached.std(0), torch.ones(L, D), rtol=0, atol=1e-2)
    # They were encoded in bfloat16 where that is fast; these are not.
    latents = codec.encode(load_corpus(recipe.data, recipe.seed).train)
    assert (latents - cached).square().mean().sqrt() < 0.1


def test_decode_writes_a_text_for_each_of_the_latents(talkative):
    codec, latents = talkative.codec, torch.randn(5, L, D, generator=torch.Generator().manual_seed(0))
    texts = codec.decode(latents)
    assert len(texts) == 5
    assert len(set(texts)) > 1
    assert codec.decode(latents.flip(0)) == texts[::-1]
    assert codec.decode(latents, batch_size=2) == texts
    assert not any("<pad>" in text or "</s>" in text for text in texts)


def test_decode_options_reach_generate(codec):
    latents = torch.randn(3, L, D, generator=torch.Generator().manual_seed(0))
    used = {token for row in tokenize(codec.tokenizer, codec.decode(latents)) for token in row[:-1]}
    others = codec.decode(latents, bad_words_ids=[[token] for token in used])
    assert any(others)
    assert not used & {token for row in tokenize(codec.tokenizer, others) for token in row}


def test_no_gradient_is_kept(codec, texts):
    assert not codec.encode(texts[:2]).requires_grad


# What cannot be encoded


def refusal(codec, texts):
    with pytest.raises(TextError) as error:
        codec.encode(texts)
    return str(error.value)


def test_no_texts(codec):
    assert "the list is empty" in refusal(codec, [])


def test_empty_texts_are_counted(codec):
    said = refusal(codec, ["a story", "", "another", "  \n"])
    assert "2 of 4 texts are empty, the first at index 1" in said


def test_too_long_texts_are_counted(codec):
    said = refusal(codec, ["a story", "harbor " * 200, "harbor " * 300])
    assert "2 of 3 texts are longer than the 96 tokens" in said
    assert "at index 1" in said


# The fingerprint


def test_the_digest_is_the_same_for_the_same_files(codec, tiny):
    from latdiff.pipeline import load_codec

    assert load_codec(tiny.checkpoint).digest() == codec.digest()
    assert len(codec.digest()) == 16
    assert int(codec.digest(), 16) > 0


@pytest.mark.parametrize("part", ["text_model", "autoencoder"])
def test_the_digest_changes_with_any_weight(codec, part):
    seen = {codec.digest()}
    tensors = [t for t in getattr(codec, part).state_dict().values() if t.is_floating_point()]
    assert len(tensors) > 10
    own = {tensor.data_ptr(): tensor for tensor in tensors}.values()  # tied ones once
    for tensor in own:
        tensor.view(-1)[-1] += 1e-3
        seen.add(codec.digest())
    assert len(seen) == 1 + len(own)


def test_the_digest_changes_with_the_vocabulary(codec):
    before = codec.digest()
    codec.tokenizer.add_tokens(["zebra"])
    assert codec.digest() != before
