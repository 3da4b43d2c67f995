"""Text to latents and back, on the tiny checkpoint."""

import numpy as np
import pandas as pd
import pytest
import torch
from runs import cached

from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import TextError
from latdiff.codecs.t5 import TextCodec
from latdiff.config import load_recipe
from latdiff.data.corpus import load_corpus
from latdiff.data.tokens import tokenize
from latdiff.errors import UserError

L, D = 3, 4


def noise(count):
    return torch.randn(count, L, D, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def texts(stories):
    return [text for text, _ in stories]


def test_latents_have_the_shape_that_the_codec_names(codec, texts):
    assert codec.latent_shape == (L, D)
    assert codec.encode(texts).shape == (40, L, D)
    assert codec.encode(texts).dtype == torch.float32


@pytest.mark.parametrize("wrong, said", [
    (None, r"latents is None, must be a tensor \[B, 3, 4\]"), ([[[0.0]]], "must be a tensor"),
    (np.array([["x"]]), "must be a tensor"), (torch.zeros(L, D), r"is of shape \[3, 4\] and dtype float32"),
    (torch.zeros(2, L, D - 1), r"is of shape \[2, 3, 3\]"), (torch.zeros(2, D, L), r"is of shape \[2, 4, 3\]"),
    (np.zeros((1, L, D), int), "and dtype int64, must be"), (torch.zeros(1, L, D) * 1j, "and dtype complex64"),
    (torch.tensor([0, np.nan, np.inf]).view(3, 1, 1).expand(3, L, D), "2 of 3 latents hold NaN .* at index 1; no text"),
])
def test_what_are_no_latents_is_not_decoded(codec, wrong, said):
    with pytest.raises(UserError, match=said):
        codec.decode(wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_array_of_latents_is_decoded_as_a_tensor_is(codec, dtype):
    assert codec.decode(noise(2).numpy().astype(dtype)) == codec.decode(noise(2))


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
    recipe = load_recipe(str(tiny.recipe))
    kept = cached(recipe, tiny.checkpoint)  # what the denoiser trains on
    torch.testing.assert_close(kept.mean(0), torch.zeros(L, D), rtol=0, atol=1e-4)
    torch.testing.assert_close(kept.std(0), torch.ones(L, D), rtol=0, atol=1e-2)
    # They were encoded in bfloat16 where that is fast; these are not.
    latents = codec.encode(load_corpus(recipe.data, recipe.seed).train)
    assert (latents - kept).square().mean().sqrt() < 0.1


def test_decode_writes_a_text_for_each_of_the_latents(talkative):
    codec, latents = talkative.codec, noise(5)
    texts = codec.decode(latents)
    assert len(texts) == 5
    assert len(set(texts)) > 1
    assert codec.decode(latents.flip(0)) == texts[::-1]
    assert codec.decode(latents, batch_size=2) == texts
    assert not any("<pad>" in text or "</s>" in text for text in texts)


def test_decode_options_reach_generate(codec):
    latents = noise(3)
    used = {token for row in tokenize(codec.tokenizer, codec.decode(latents)) for token in row[:-1]}
    others = codec.decode(latents, bad_words_ids=[[token] for token in used])
    assert any(others)
    assert not used & {token for row in tokenize(codec.tokenizer, others) for token in row}


@pytest.fixture
def generated(monkeypatch, codec):
    """Stands in for transformers' `generate`: it writes the ids in `.rows`, and `.options` is what it was given."""

    def generate(**options):
        generate.options = options
        return torch.tensor(generate.rows)

    monkeypatch.setattr(codec.text_model, "generate", generate)
    return generate


def test_a_text_without_an_end_is_said_to_be_cut(codec, generated):
    end, pad, start = codec.tokenizer.eos_token_id, codec.tokenizer.pad_token_id, 0
    generated.rows = [[start, 30, 31, 32], [start, 30, end, pad], [start, 30, 31, end], [start, end, pad, pad]]
    with pytest.warns(UserWarning, match="1 of 4 texts are cut: .* max_tokens, 96") as warnings:
        texts, cut = codec.generate(noise(4))
    assert cut == [True, False, False, False]
    assert len(warnings) == 1
    assert texts == codec.tokenizer.batch_decode(generated.rows, skip_special_tokens=True)
    with pytest.warns(UserWarning, match="4 of 16 texts are cut") as warnings:
        codec.decode(noise(16), batch_size=4)
    assert len(warnings) == 1
    assert warnings[0].filename == __file__


def test_a_start_token_that_is_the_end_token_ends_nothing(codec, generated):
    end = codec.tokenizer.eos_token_id  # as in BART
    generated.rows = [[end, 30, 31], [end, 30, end]]
    with pytest.warns(UserWarning, match="1 of 2 texts are cut"):
        assert codec.generate(noise(2)).cut == [True, False]


def test_whole_texts_come_without_a_warning(codec, generated, recwarn):
    generated.rows = [[0, 30, codec.tokenizer.eos_token_id]] * 2
    assert codec.generate(noise(2)).cut == [False, False]
    assert not [warning for warning in recwarn if "cut" in str(warning.message)]


def test_an_end_that_the_model_would_force_at_the_limit_hides_no_cut(codec):
    codec.text_model.generation_config.forced_eos_token_id = codec.tokenizer.eos_token_id  # as in BART
    with pytest.warns(UserWarning, match="3 of 3 texts are cut"):
        codec.decode(noise(3))


def test_the_presets_are_greedy_and_what_ld4lg_published(codec, generated):
    published = {"num_beams": 4, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "min_length": 5}
    generated.rows = [[0, 30, codec.tokenizer.eos_token_id]]
    codec.decode(noise(1))
    greedy = generated.options
    assert {name: greedy[name] for name in published} == dict(zip(published, (1, 0, 1.0, 0), strict=True))
    codec.decode(noise(1), preset="ld4lg")
    assert {name: generated.options[name] for name in published} == published
    assert (greedy["max_new_tokens"], greedy["do_sample"], generated.options["do_sample"]) == (96, False, False)
    codec.decode(noise(1), preset="ld4lg", num_beams=2)
    assert (generated.options["num_beams"], generated.options["min_length"]) == (2, 5)


def trigrams(codec, text):
    (row,) = tokenize(codec.tokenizer, [text])
    return list(zip(row, row[1:], row[2:], strict=False))


def test_ld4lgs_decoding_repeats_no_three_tokens(talkative):
    codec = talkative.codec
    plain, beams = (codec.decode(noise(4), preset=preset) for preset in ("greedy", "ld4lg"))
    assert any(len(set(found)) < len(found) for found in (trigrams(codec, text) for text in plain))
    assert plain != beams
    options = {"num_beams": 4, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2, "min_length": 5}
    assert codec.decode(noise(4), **options) == beams


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"preset": "ld4gl"}, "no decoding 'ld4gl', only greedy, ld4lg; did you mean ld4lg?"),
        ({"num_beems": 4}, "no decoding option 'num_beems'; did you mean num_beams?"),
        ({"max_new_tokens": 9}, "decoding option max_new_tokens is 9, but cannot be set: .* leave it out"),
        ({"num_return_sequences": 2}, "decoding option num_return_sequences is 2, but cannot be set"),
        ({"forced_eos_token_id": 1}, "decoding option forced_eos_token_id is 1, but cannot be set"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unknown_ways_to_decode_are_refused(codec, wrong, said):
    with pytest.raises(UserError, match=said) as error:
        codec.decode(noise(1), **wrong)
    assert "\n" not in str(error.value)


def test_a_round_trip_is_as_long_as_what_was_added_to_the_latents_of_a_text(codec, texts):
    latents = codec.encode(texts)
    torch.testing.assert_close(codec.round_trip(latents, texts), torch.zeros(40), rtol=0, atol=1e-5)
    lengths = torch.linspace(0, 2, 40)
    torch.testing.assert_close(codec.round_trip(latents + lengths.view(-1, 1, 1), texts), lengths, rtol=0, atol=1e-5)


def test_a_text_that_cannot_be_read_again_is_infinitely_far(codec, texts):
    found = codec.round_trip(noise(3), [" ", texts[0], "harbor " * 300])
    assert found.isinf().tolist() == [True, False, True]
    assert codec.round_trip(noise(1), [""]).isinf().all()


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
    assert "codec.split(text)" in said


# Long texts in pieces


def test_a_long_text_is_split_at_sentence_ends_into_pieces_that_fit(codec, texts):
    text = "\n\n".join([" ".join(texts[:5]), " ".join(texts[5:9])])
    pieces = codec.split(text)
    assert all(codec.fits(pieces))
    assert len(pieces) > 3
    assert " ".join(pieces).split() == text.split()
    assert all(piece.endswith((".", "!", "?")) for piece in pieces)
    assert codec.encode(pieces).shape == (len(pieces), L, D)
    # none could take the next one's first sentence as well
    first = [piece.partition(". ")[0] + "." for piece in pieces]
    assert not any(codec.fits([f"{piece} {then}" for piece, then in zip(pieces, first[1:], strict=False)]))


def test_a_text_that_fits_is_one_piece(codec, texts):
    assert codec.split(texts[0]) == [texts[0]]
    assert codec.split(f"  {texts[0]}\n") == [texts[0]]
    assert codec.split("no end") == ["no end"]


@pytest.mark.parametrize(
    ("joint", "ends"),
    [(" ", '."'), (" ", "?!"), ("\n\n", ""), ("", "。"), (" ", "…)")],
    ids=["quoted", "marks", "paragraphs", "chinese", "ellipsis"],
)
def test_a_sentence_ends_in_many_ways(codec, joint, ends):
    sentence = "harbor " * 8 + "harbor" + ends
    pieces = codec.split(joint.join([sentence] * 12))
    assert len(pieces) > 1
    assert all(piece.endswith(sentence) for piece in pieces)
    assert joint.strip().join(pieces).count("harbor") == 12 * 9


def test_a_point_within_a_number_and_a_line_break_are_no_ends(codec):
    with pytest.raises(TextError, match="no end to split it at"):
        codec.split("3.5 km\n" * 60)


def test_a_sentence_that_is_too_long_is_refused(codec):
    with pytest.raises(TextError, match=r"sentence that begins 'harbor .*' has \d+ tokens, more than the 96") as error:
        codec.split("A story. " + "harbor " * 200 + "ends. Another.")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", " \n"])
def test_nothing_cannot_be_split(codec, text):
    with pytest.raises(TextError, match="there is no text to split"):
        codec.split(text)


# The fingerprint


def test_the_digest_is_stored_with_the_codec(codec, tiny):
    assert load_codec(tiny.checkpoint).digest == codec.digest == codec.autoencoder.config.codec_digest
    assert len(codec.digest) == 16
    assert int(codec.digest, 16) > 0


def test_the_digest_is_computed_again_only_where_a_check_asks_for_it(codec, monkeypatch):
    codec.verify()
    with torch.no_grad():
        codec.autoencoder.queries[0, 0] += 1
    monkeypatch.setattr(TextCodec, "fingerprint", lambda *_, **__: pytest.fail("hashed"))
    stored = codec.digest
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"were saved as {stored}; load them in float32, or copy"):
        codec.verify()
    assert codec.seal().digest != stored
    codec.verify()


@pytest.mark.parametrize("part", ["text_model", "autoencoder"])
def test_the_fingerprint_changes_with_any_weight(codec, part):
    seen = {codec.fingerprint()}
    tensors = [t for t in getattr(codec, part).state_dict().values() if t.is_floating_point()]
    assert len(tensors) > 10
    own = {tensor.data_ptr(): tensor for tensor in tensors}.values()  # tied ones once
    for tensor in own:
        tensor.view(-1)[-1] += 1e-3
        seen.add(codec.fingerprint())
    assert len(seen) == 1 + len(own)


def test_the_fingerprint_changes_with_the_vocabulary_and_the_settings(codec):
    seen = {codec.fingerprint()}
    codec.tokenizer.add_tokens(["zebra"])
    seen.add(codec.fingerprint())
    codec.autoencoder.register_to_config(max_tokens=40)
    seen.add(codec.fingerprint())
    assert len(seen) == 3


# One text, or many in any container


def test_a_single_text_is_one_text(codec, stories):
    text = stories[0][0]
    assert codec.encode(text).shape[0] == 1
    assert codec.fits(text) == [True]


@pytest.mark.parametrize("container", [tuple, np.array, pd.Series, iter])
def test_texts_may_come_in_any_container(codec, stories, container):
    texts = [text for text, _ in stories[:3]]
    torch.testing.assert_close(codec.encode(container(texts)), codec.encode(texts))


@pytest.mark.parametrize(("texts", "said"), [
    (["a", None], "text 1 of 2 is None, a NoneType; drop it"), (["a", float("nan")], "text 1 of 2 is nan, a float"),
    ([b"a"], "text 0 of 1 is b'a', a bytes"), (["a\ud800"], r"text 0 of 1 holds '\\ud800', half of a surrogate pair"),
    ([], "the list is empty"), (["a", " "], "1 of 2 texts are empty, the first at index 1"),
])
def test_what_is_no_text_is_named_by_its_place(codec, texts, said):
    with pytest.raises(TextError, match=said):
        codec.encode(texts)
