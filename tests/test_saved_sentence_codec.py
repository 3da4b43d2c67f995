"""A sentence codec that is saved, moved or converted is what it was; it opens beside the models it was trained with."""

import copy
import json
from pathlib import Path

import pytest
import sentence_models
import torch
from safetensors.torch import load_file, save_file
from sentence_models import CONTEXT, TEXTS, other, sentence_codec
from transformers import AutoModelForCausalLM

from latdiff import SentenceCodec
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec, save_codec
from latdiff.errors import UserError
from latdiff.fetch import FetchError
from latdiff.latents import statistics
from latdiff.models.writer import SentenceModelError, load_encoder, load_writer

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


@pytest.mark.parametrize("file, lost", [
    ("codec/diffusion_pytorch_model.safetensors", "ending"),
    ("codec/diffusion_pytorch_model.safetensors", "soft_prompts.out.bias"),
    ("codec/adapter/adapter_model.safetensors", "lora_B"),
])
def test_a_codec_that_lacks_weights_is_refused(writer, writers, tmp_path, file, lost):
    """It would write as before training, and nothing would tell."""
    save_codec(sentence_codec(writer, writers.encoder, rank=4), tmp_path)
    kept = load_file(tmp_path / file)
    gone = sorted(name for name in kept if lost in name)[0]
    del kept[gone]
    save_file(kept, tmp_path / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"{Path(file).parent} lacks 1 of its weights, the first is {gone}"):
        load_codec(tmp_path)


def test_saving_asks_no_hub(writers, tmp_path, recwarn):
    save_codec(sentence_codec(writers.llama, writers.encoder, rank=4), tmp_path)
    assert [str(one.message) for one in recwarn if "config" in str(one.message)] == []


def test_the_digest_is_of_encoder_and_whitening_alone(writers, tmp_path):
    codec = sentence_codec(writers.llama, writers.encoder)
    assert len(codec.digest) == 16
    assert sentence_codec(writers.llama, writers.encoder, seed=1, width=32).digest == codec.digest
    assert sentence_codec(writers.gpt2, writers.encoder, rank=2).digest == codec.digest
    assert sentence_codec(writers.llama, other(sentence_models.bert, tmp_path / "e", seed=1)).digest != codec.digest
    assert copy.copy(codec).set_whitening(*statistics([codec.vectors(TEXTS[:9])])).digest != codec.digest


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
