"""The sentence codec: what it writes is what transformers would, what it saves is what it was, what does not fit."""

import copy
import json
import warnings

import pytest
import sentence_models
import torch
from safetensors.torch import load_file
from sentence_models import CONTEXT, TEXTS, sentence_codec
from transformers import AutoModelForCausalLM

from latdiff import SentenceCodec, lm
from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.protocol import TextError
from latdiff.errors import UserError
from latdiff.fetch import FetchError
from latdiff.lm import writing
from latdiff.models.writer import SentenceModelError, load_encoder, load_writer, writer_features


@pytest.fixture(params=sentence_models.WRITERS)
def writer(request, writers):
    """The folder of a language model, in each layout."""
    return getattr(writers, request.param)


@pytest.fixture
def codec(writer, writers):
    return sentence_codec(writer, writers.encoder)


def streams(n, base=0):
    return [torch.Generator().manual_seed(base + row) for row in range(n)]


def other(make, folder, **settings):
    """The folder of another model."""
    folder.mkdir()
    make(folder, **settings)
    return folder


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


def test_careful_writing_ends_where_an_end_is_likeliest(codec, monkeypatch):
    seen = []
    monkeypatch.setattr("latdiff.codecs.writing.write", lambda *given, **settings: seen.append(settings) or [[1]])
    for preset in ("sampled", "careful"):
        codec.generate(codec.encode(TEXTS[:1]), preset=preset)
    assert [one.get("end_when_likeliest", False) for one in seen] == [False, True]
    assert seen[1]["top_p"] < seen[0]["top_p"]


# Saving


@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_codec_writes_the_same(writer, writers, tmp_path, rank):
    codec = sentence_codec(writer, writers.encoder, rank)
    latents = codec.encode(TEXTS[:4])
    texts = {preset: codec.decode(latents, preset=preset) for preset in codec.presets}
    if rank:  # the updates change what is written
        assert sentence_codec(writer, writers.encoder).decode(latents) != texts["sampled"]
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert again.digest == codec.digest and again.config.writer_digest == codec.config.writer_digest
    assert torch.equal(again.encode(TEXTS[:4]), latents)
    assert {preset: again.decode(latents, preset=preset) for preset in codec.presets} == texts
    assert not any(weight.requires_grad for weight in again.language_model.parameters())


@pytest.mark.parametrize("rank", [0, 4])
def test_a_saved_codec_is_small_and_saved_again_the_same(writer, writers, tmp_path, rank):
    save_codec(sentence_codec(writer, writers.encoder, rank), tmp_path / "one")
    files = {str(file.relative_to(tmp_path / "one")) for file in (tmp_path / "one").rglob("*.safetensors")}
    own = "codec/diffusion_pytorch_model.safetensors"
    assert files == ({own, "codec/adapter/adapter_model.safetensors"} if rank else {own})
    names = load_file(tmp_path / "one" / own).keys()
    assert {name.split(".")[0] for name in names} == {"soft_prompts", "mean", "sd", "ending"}
    if rank:
        adapter = load_file(tmp_path / "one/codec/adapter/adapter_model.safetensors")
        assert adapter and all("lora_" in name for name in adapter)
    save_codec(load_codec(tmp_path / "one"), tmp_path / "two")
    for file in files:
        one, two = (load_file(tmp_path / place / file) for place in ("one", "two"))
        assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_the_digest_is_of_encoder_and_whitening_alone(writers, tmp_path):
    codec = sentence_codec(writers.llama, writers.encoder)
    assert len(codec.digest) == 16
    assert sentence_codec(writers.llama, writers.encoder, seed=1, width=32).digest == codec.digest
    assert sentence_codec(writers.gpt2, writers.encoder, rank=2).digest == codec.digest
    assert sentence_codec(writers.llama, other(sentence_models.bert, tmp_path / "e", seed=1)).digest != codec.digest
    assert copy.copy(codec).whiten(codec.vectors(TEXTS[:9])).digest != codec.digest


def test_an_encoder_without_a_pooler_is_the_same_at_every_loading(writers, tmp_path):
    folder = other(sentence_models.bert, tmp_path / "bare", pooler=False)
    codec = sentence_codec(writers.gpt2, folder)
    save_codec(codec, tmp_path)
    torch.manual_seed(5)
    assert load_codec(tmp_path).digest == codec.digest


# Models that do not fit


@pytest.fixture
def replaced(writers, tmp_path):
    """replaced(language_model=..., encoder=...) -> what is said when a saved codec is loaded with these folders."""
    save_codec(sentence_codec(writers.llama, writers.encoder, rank=2), tmp_path)

    def load(**folders):
        file = tmp_path / "codec" / "config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps(config | {name: str(folder) for name, folder in folders.items()}), encoding="utf-8")
        with pytest.raises(UserError) as error:
            load_codec(tmp_path)
        assert "\n" not in str(error.value) and "damaged" not in str(error.value)
        return str(error.value)

    return load


def test_models_may_lie_elsewhere(writers, tmp_path):
    save_codec(sentence_codec(writers.llama, writers.encoder), tmp_path)
    file = tmp_path / "codec" / "config.json"
    text = file.read_text(encoding="utf-8").replace(str(writers.llama), str(tmp_path / "moved"))
    file.write_text(text, encoding="utf-8")
    other(sentence_models.llama, tmp_path / "moved")
    assert load_codec(tmp_path).decode(torch.zeros(1, 4, 4))


def test_another_language_model_of_the_same_width_is_refused(replaced, tmp_path):
    said = replaced(language_model=other(sentence_models.llama, tmp_path / "other", seed=1))
    assert "which is not the one that the codec was trained with (it is " in said and said.endswith("; name that one")


def test_another_encoder_of_the_same_width_is_refused(replaced, tmp_path):
    said = replaced(encoder=other(sentence_models.bert, tmp_path / "other", seed=1))
    assert said.startswith("encoder is ") and "not the one that the codec was trained with (its latents are" in said


@pytest.mark.parametrize("part, make", [("language_model", sentence_models.gpt2), ("encoder", sentence_models.bert)])
def test_a_model_of_another_width_is_refused(replaced, tmp_path, part, make):
    said = replaced(**{part: other(make, tmp_path / "wide", width=24)})
    assert said.startswith(f"{part} is ") and "of width 24, must be of width 16" in said


def test_a_model_that_is_not_here_is_refused_with_what_brings_it(replaced, writers, monkeypatch, tmp_path):
    monkeypatch.setattr("latdiff.fetch.BUNDLED", tmp_path)
    assert "`latdiff fetch smollm2-135m-instruct` brings it" in replaced(language_model="smollm2-135m-instruct")
    assert "did you mean smollm2-135m-instruct?" in replaced(language_model="smollm2-135m")
    with pytest.raises(FetchError, match="`latdiff fetch all-minilm-l6-v2` brings it"):
        sentence_codec(writers.llama, "all-minilm-l6-v2")


def test_a_language_model_without_an_end_is_refused(tmp_path):
    folder = other(sentence_models.gpt2, tmp_path / "endless", end=None)
    with pytest.raises(SentenceModelError, match="has no end-of-text token, so that no text would end; set"):
        load_writer(str(folder))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_that_writes_is_no_encoder(writers, kind):
    with pytest.raises(SentenceModelError, match=f"a {kind} that writes; take one that only reads"):
        load_encoder(str(getattr(writers, kind)))


def test_an_encoder_that_was_trained_on_masked_words_is_one(writers, tmp_path):
    """As sentence-transformers/all-mpnet-base-v2 says of itself."""
    sentence_models.bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}), encoding="utf-8")
    assert load_encoder(str(tmp_path))[1].config.model_type == "bert"


def test_an_encoder_cannot_write(writers):
    with pytest.raises(SentenceModelError, match=r"^the language model "):
        load_writer(str(writers.encoder))


# Options


@pytest.mark.parametrize("options, said", [
    ({"preset": "gready"}, "no decoding 'gready', only sampled, careful, greedy, beam; did you mean greedy?"),
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


# Moving


def test_the_frozen_models_move_and_convert_with_it(writers):
    codec = sentence_codec(writers.llama, writers.encoder, rank=2)
    digest, latents = codec.digest, codec.encode(TEXTS[:3])
    assert codec.to(torch.bfloat16) is codec
    assert {part.dtype for part in (codec.language_model, codec.encoder)} == {torch.bfloat16}
    found = codec.encode(TEXTS[:3])
    assert found.dtype == torch.float32 and codec.digest == digest
    assert (found - latents).square().mean().sqrt() < 0.2
    assert len(codec.decode(found)) == 3
    assert codec.to("cpu") is codec and codec.language_model.device.type == "cpu"


def test_a_codec_in_bfloat16_is_saved_and_is_the_same_one(writers, tmp_path):
    codec = sentence_codec(writers.llama, writers.encoder).to(torch.bfloat16)
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert again.digest == codec.digest and again.language_model.dtype == torch.float32
    half = SentenceCodec.from_pretrained(tmp_path / "codec", torch_dtype=torch.bfloat16)
    assert half.digest == codec.digest and half.language_model.dtype == half.encoder.dtype == torch.bfloat16
    for preset in half.presets:
        assert len(half.decode(half.encode(TEXTS[:3]), preset=preset)) == 3


def test_the_models_are_the_saved_ones_until_they_are_trained(writers):
    codec = sentence_codec(writers.gpt2, writers.encoder)
    theirs = AutoModelForCausalLM.from_pretrained(writers.gpt2).state_dict()
    own = codec.language_model.state_dict()
    assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    assert codec.language_model.config.max_position_embeddings == CONTEXT
