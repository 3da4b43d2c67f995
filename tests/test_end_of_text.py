"""Where texts end: the fit of end-of-text, in closed form and on codecs whose texts a language model writes."""

import math

import pytest
import sentence_models
import torch
from sentence_models import TEXTS

from latdiff.codecs.files import load_codec, save_codec
from latdiff.models.writer import fit_end


def test_the_end_is_fitted_to_how_often_texts_end():
    """With one feature that is the same everywhere, the likeliest shift is that of the odds."""
    ends = torch.tensor([True] * 30 + [False] * 70)
    shift = fit_end(torch.ones(100, 1), torch.full((100,), -5.0), ends, penalty=0.0)
    assert (shift - 5).item() == pytest.approx(math.log(30 / 70), abs=1e-3)


def test_the_end_is_fitted_to_where_texts_end():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4000, 5, generator=generator)
    true = torch.tensor([2.0, 0.0, -1.0, 0.0, 0.0])
    odds = torch.randn(4000, generator=generator)
    ends = torch.rand(4000, generator=generator) < (odds + features @ true).sigmoid()
    torch.testing.assert_close(fit_end(features, odds, ends), true, rtol=0, atol=0.15)


@pytest.fixture(params=[(kind, writer) for kind in ("sentence", "perceiver") for writer in sentence_models.WRITERS],
                ids="-".join)
def codec(request, writers):
    """Each kind, around a language model in each layout; both have one embedding for input and output."""
    kind, writer = request.param
    return getattr(sentence_models, f"{kind}_codec")(getattr(writers, writer), writers.encoder, rank=2)


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_codec_learns_to_end_and_stays_so(codec, tmp_path):
    latents, digest = codec.encode(TEXTS), codec.digest
    drafts = codec.drafts(latents) if hasattr(codec, "drafts") else None
    read = codec.language_model.get_input_embeddings().weight.clone()
    before = codec.end_probability(latents, TEXTS)
    codec.learn_to_end(latents, TEXTS, batch_size=7)
    after = codec.end_probability(latents, TEXTS, batch_size=7)
    assert after > 2 * before and codec.digest == digest
    assert torch.equal(codec.language_model.get_input_embeddings().weight, read)  # what is read stays as it is
    assert drafts is None or codec.drafts(latents) == drafts
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert again.end_probability(latents, TEXTS) == pytest.approx(after, rel=1e-3)
    assert again.decode(latents[:4]) == codec.decode(latents[:4])


def test_the_end_of_what_goes_on_is_that_behind_its_first_words(codec):
    latents = codec.encode(TEXTS[:2])
    (whole,) = {codec.end_probability(latents, TEXTS[:2]), codec.end_probability(latents, TEXTS[:2], ["", ""])}
    rest = ["is red.", "is blue."]
    assert [f"The cat {text}" for text in rest] == TEXTS[:2]
    assert codec.end_probability(latents, rest, ["The cat", "The cat"]) == pytest.approx(whole, rel=1e-3)
    assert codec.end_probability(latents, rest, ["My dog", "My dog"]) != pytest.approx(whole, rel=1e-3)


def test_it_is_added_once_however_often_models_are_attached(codec):
    latents = codec.encode(TEXTS[:4])
    codec.learn_to_end(latents, TEXTS[:4])
    once = codec.end_probability(latents, TEXTS[:4])
    frozen = {name: codec._frozen[name] for name in ("language_model", "tokenizer", "encoder", "encoder_tokenizer")}
    assert codec.attach(**frozen).end_probability(latents, TEXTS[:4]) == pytest.approx(once, rel=1e-5)
