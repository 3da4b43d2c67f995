"""The sentence codec: what it writes is what transformers would, what it reads, and what it refuses to."""

import json
import shutil
import warnings

import pytest
import sentence_models
import torch
from sentence_models import TEXTS, sentence_codec

from latdiff import lm
from latdiff.codecs.protocol import TextError
from latdiff.errors import UserError
from latdiff.lm import writing
from latdiff.models.writer import load_encoder, writer_features


@pytest.fixture
def codec(writer, writers):
    return sentence_codec(writer, writers.encoder)


def streams(n, base=0):
    return [torch.Generator().manual_seed(base + row) for row in range(n)]


# Writing


def test_the_texts_of_the_tests_differ(codec):
    """What the tests below compare is worth comparing."""
    latents = codec.encode(TEXTS[:6])
    for preset in codec.presets:
        assert len(set(codec.decode(latents, preset=preset))) == 6


def test_greedy_texts_are_transformers_own(codec):
    prompts = codec.prompts(codec.encode(TEXTS[:6]))
    network = codec.language_model
    whole = lm.write(network, [[]] * 6, [], 24, greedy=True, prompts=prompts)

    def lengths(end):
        return [len(row) if end not in row else row.index(end) + 1 for row in whole]

    end = max({one for row in whole for one in row}, key=lambda one: max(lengths(one)) - min(lengths(one)))
    network.generation_config.eos_token_id = end  # so that some end early
    found = lm.write(network, [[]] * 6, [], 24, greedy=True, prompts=prompts)
    assert [len(row) for row in found] == lengths(end) and len(set(lengths(end))) > 1
    for row, prompt in zip(found, prompts, strict=True):
        theirs = network.generate(inputs_embeds=prompt[None], attention_mask=torch.ones(1, 3, dtype=torch.long),
                                  do_sample=False, max_new_tokens=24, pad_token_id=0)
        assert row == theirs[0].tolist()


@pytest.mark.parametrize("settings", [{"num_return_sequences": 2, "num_beams": 2}, {"return_dict_in_generate": True},
                                      {"max_time": 1e-9}, {"suppress_tokens": [5, 6, 7, 8]}])
def test_a_language_models_own_settings_of_writing_are_not_obeyed(writer, writers, tmp_path, settings):
    copy = shutil.copytree(writer, tmp_path / "copy")
    (copy / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    before, after = (sentence_codec(folder, writers.encoder) for folder in (writer, copy))
    latents = before.encode(TEXTS[:6])
    for preset in before.presets:
        assert after.decode(latents, preset=preset) == before.decode(latents, preset=preset)


def test_greedy_texts_are_those_of_the_rows(codec):
    latents = codec.encode(TEXTS[:4])
    rows = lm.write(codec.language_model, [[]] * 4, [], 24, greedy=True, prompts=codec.prompts(latents))
    expected = [" ".join(text.split()) for text in codec.tokenizer.batch_decode(rows, skip_special_tokens=True)]
    assert codec.decode(latents, preset="greedy") == expected
    assert codec.decode(latents, top_p=1e-9) == expected  # of which only the likeliest is left
    assert codec.decode(latents, preset="beam", num_beams=1) == expected


def test_a_text_is_sampled_from_its_generator(codec):
    latents = codec.encode(TEXTS[:4])
    first = codec.decode(latents, generators=streams(4))
    assert first == codec.decode(latents)  # text i of seed i
    assert first == codec.decode(latents, generators=streams(4))
    assert first != codec.decode(latents, generators=streams(4, base=50))
    assert first != codec.decode(latents, generators=streams(4), top_p=0.3)
    greedy = codec.decode(latents, preset="greedy")
    assert greedy == codec.decode(latents, preset="greedy", generators=streams(4, base=50))


def test_another_latent_is_another_text(codec):
    latents = codec.encode(TEXTS[:1])
    texts = [codec.decode(one, preset="greedy")[0] for one in (latents, -latents, latents.flip(1))]
    assert len(set(texts)) == 3


def test_features_are_the_whole_models(codec):
    ids, starts = codec.tokenize(TEXTS[:5]), [[], [3, 4], [], [5, 6, 7, 8], [9]]
    prompts = codec.prompts(codec.encode(TEXTS[:5]))
    features = writer_features(codec.language_model, prompts, ids, starts)
    assert features.shape == (sum(map(len, ids)), sentence_models.WIDTH)
    embed = codec.language_model.get_input_embeddings()
    for row, found in enumerate(features.split(list(map(len, ids)))):
        start = embed(torch.tensor([starts[row]], dtype=torch.long))
        read = torch.cat([prompts[row : row + 1], start, embed(torch.tensor([ids[row]]))], 1)
        whole = codec.language_model(inputs_embeds=read, output_hidden_states=True)
        first = len(starts[row]) + prompts.shape[1] - 1
        torch.testing.assert_close(found, whole.hidden_states[-1][0, first:-1], rtol=1e-4, atol=1e-4)
        logits = codec.language_model.get_output_embeddings()(found)
        torch.testing.assert_close(logits, whole.logits[0, first:-1], rtol=1e-4, atol=1e-4)


def test_training_sees_the_logits_that_writing_chooses_from(codec, monkeypatch):
    seen, own = [], writing.choose

    def choose(logits, *rest):
        seen.append(logits)
        return own(logits, *rest)

    monkeypatch.setattr(writing, "choose", choose)
    prompts = codec.prompts(codec.encode(TEXTS[:3]))
    starts = [[], [3, 4], [5]]
    rows = lm.write(codec.language_model, starts, streams(3), 10, lead=prompts)
    assert [len(row) for row in rows] == [10] * 3
    features = writer_features(codec.language_model, prompts, rows, starts)
    logits = codec.language_model.get_output_embeddings()(features).view(3, 10, -1)
    torch.testing.assert_close(torch.stack(seen, 1), logits, rtol=1e-4, atol=1e-4)


def test_accuracy_is_the_share_of_tokens_ranked_first(codec):
    latents, texts = codec.encode(TEXTS[:7]), TEXTS[:7]
    right = []
    for latent, row in zip(latents, codec.tokenize(texts), strict=True):
        features = writer_features(codec.language_model, codec.prompts(latent[None]), [row])
        guessed = codec.language_model.get_output_embeddings()(features).argmax(-1).tolist()
        right += [one == two for one, two in zip(guessed, row, strict=True)]
    assert codec.token_accuracy(latents, texts, batch_size=3) == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("preset", ["sampled", "careful", "greedy", "beam"])
def test_a_text_that_reaches_the_limit_is_cut_with_a_warning(codec, preset):
    latents = codec.encode(TEXTS[:3])
    codec.tokenizer.eos_token = codec.tokenizer.convert_ids_to_tokens(0)
    with pytest.warns(UserWarning, match=r"3 of 3 texts are cut: .* reached the codec's max_tokens, 24, before an end"):
        decoded = codec.generate(latents, preset=preset)
    assert decoded.cut == [True] * 3


@pytest.mark.parametrize("preset", ["sampled", "careful", "greedy", "beam"])
def test_a_text_that_ends_is_not_cut(codec, preset):
    latents, network = codec.encode(TEXTS[:3]), codec.language_model
    end = codec.tokenizer.eos_token_id
    with torch.no_grad():
        network.set_output_embeddings(torch.nn.Linear(sentence_models.WIDTH, len(codec.tokenizer)))
        network.get_output_embeddings().weight.zero_()
        network.get_output_embeddings().bias.fill_(-50)[end] = 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert codec.generate(latents, preset=preset) == ([""] * 3, [False] * 3)


# Reading


def test_vectors_are_means_of_norm_one_of_each_text_alone(writers):
    codec = sentence_codec(writers.gpt2, writers.encoder)
    tokenizer, encoder = load_encoder(str(writers.encoder))
    found = codec.vectors(TEXTS[:5], batch_size=2)
    for text, vector in zip(TEXTS, found, strict=False):
        features = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].detach()
        expected = features.mean(0) / features.mean(0).norm()
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_latents_are_whitened(writers):
    codec = sentence_codec(writers.gpt2, writers.encoder)
    latents = codec.encode(TEXTS)
    torch.testing.assert_close(latents.mean(0), torch.zeros(4, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.std(0), torch.ones(4, 4), rtol=0, atol=1e-3)


def test_texts_that_are_too_long_are_refused(codec):
    long = "The owl is tall. " * 20
    assert codec.fits([TEXTS[0], long]) == [True, False]
    assert codec.fits(TEXTS[0], max_tokens=2) == [False]
    count = len(codec.tokenize([long])[0])
    with pytest.raises(TextError, match=rf"1 of 2 texts are longer than the 24 tokens .* index 1 has {count}\)"):
        codec.encode([TEXTS[0], long])


def test_first_words_leave_room_for_a_text(writers):
    codec = sentence_codec(writers.llama, writers.encoder, continues=True)
    with pytest.raises(TextError, match=r"source 1 of 2 has \d+ tokens, more than the 21 that leave the language"):
        codec.encode_condition([TEXTS[0], " ".join(["owl"] * 22)])


def test_a_source_may_be_as_long_as_the_encoder_reads(writers):
    """The language model reads first words alone."""
    codec = sentence_codec(writers.llama, writers.encoder)
    source = " ".join(["owl"] * 40)
    assert len(codec.ids([source])[0]) > 21 and codec.encode_condition([source]).features.shape == (1, 1, 16)
    with pytest.raises(TextError, match=r"source 0 of 1 has 82 tokens, more than the 64 that the encoder reads; give"):
        codec.encode_condition([" ".join(["owl"] * 80)])


def test_sources_of_a_training_are_encoded_once_and_read_from_the_disk(codec, tmp_path, monkeypatch):
    rows = codec.conditions([*TEXTS[:5], ""], tmp_path)
    expected = codec.encode_condition(TEXTS[:5])
    monkeypatch.setattr(type(codec), "vectors", None)
    found = rows([3, 5, 0])
    torch.testing.assert_close(found.features[[0, 2]], expected.features[[3, 0]])
    assert found.mask.tolist() == [[True], [False], [True]]
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["00000.safetensors", "index.json"]


def test_careful_writing_ends_where_an_end_is_likeliest(codec, monkeypatch):
    seen = []
    monkeypatch.setattr("latdiff.codecs.writing.write", lambda *given, **settings: seen.append(settings) or [[1]])
    for preset in ("sampled", "careful"):
        codec.generate(codec.encode(TEXTS[:1]), preset=preset)
    assert [one.get("end_when_likeliest", False) for one in seen] == [False, True]
    assert seen[1]["top_p"] < seen[0]["top_p"]


# Options


@pytest.mark.parametrize("options, said", [
    ({"preset": "gready"}, "no decoding 'gready', only sampled, careful, greedy, beam; did you mean greedy?"),
    ({"preset": ["greedy"]}, "no decoding ['greedy'], only sampled, careful, greedy, beam"),
    ({"preset": "ld4lg"}, "no decoding 'ld4lg', only sampled, careful, greedy, beam"),
    ({"top_k": 4}, "decoding option top_k is set with sampled, which has no such option; there is num_beams with beam"),
    ({"preset": "greedy", "top_p": 0.5}, "top_p is set with greedy, which has no such option"),
    ({"preset": "greedy", "greedy": False}, "greedy is set with greedy, which has no such option"),
    ({"preset": "beam", "top_p": 0.5}, "top_p is set with beam, which has no such option"),
    ({"num_beams": 2}, "num_beams is set with sampled, which has no such option"),
    ({"preset": "beam", "num_beams": 0}, "num_beams is 0, must be 1 or more"),
    ({"preset": "beam", "num_beams": 1.5}, "num_beams is 1.5, must be a whole number"),
    ({"top_p": 0}, "top_p is 0, must be above 0 and at most 1"),
    ({"top_p": 1.2}, "top_p is 1.2, must be above 0 and at most 1"),
    ({"top_p": float("nan")}, "top_p is nan, must be above 0 and at most 1"),
    ({"top_p": "much"}, "top_p is much, must be above 0 and at most 1"),
])
def test_decoding_options_that_it_does_not_have(writers, options, said):
    codec = sentence_codec(writers.gpt2, writers.encoder)
    for call in (codec.check_options, lambda **given: codec.decode(torch.zeros(1, 4, 4), **given)):
        with pytest.raises(UserError) as error:
            call(**options)
        assert said in str(error.value)


def test_known_options_are_known(writers):
    codec = sentence_codec(writers.gpt2, writers.encoder)
    for options in ({}, {"top_p": 1}, {"preset": "greedy"}, {"preset": "beam", "num_beams": 2}):
        codec.check_options(**options)
    with pytest.raises(UserError, match="batch_size is 0"):
        codec.decode(torch.zeros(1, 4, 4), batch_size=0)
