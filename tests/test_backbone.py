"""The backbone's two halves put together give the untouched model, for any encoder-decoder."""

import json

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from latdiff.backbone import BackboneError, decoder_logits, encode_features, generate_ids, load_backbone
from latdiff.tokens import labels_of, pad, train_vocabulary

TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "the dog sat",
    "a cat on a mat in the sun",
    "the sun is in the cat",
]
ROWS = [[12, 30, 7, 9, 1], [5, 1], [40, 41, 42, 1]]


def t5(vocab, config=T5Config, model=T5ForConditionalGeneration):
    return model(config(
        vocab_size=vocab, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1, feed_forward_proj="gated-gelu",
    ))  # fmt: skip


def mt5(vocab):
    return t5(vocab, MT5Config, MT5ForConditionalGeneration)


def bart(vocab):
    return BartForConditionalGeneration(BartConfig(
        vocab_size=vocab, d_model=16, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=2, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None,
        tie_word_embeddings=False,
    ))  # fmt: skip


@pytest.fixture(scope="module", params=[t5, mt5, bart], ids=["t5", "mt5", "bart"])
def saved(request, tmp_path_factory):
    """A folder with random weights, large enough for choices to differ."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_vocabulary(TEXTS, folder, 60)
    torch.manual_seed(0)
    model = request.param(len(tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def ours(saved):
    return load_backbone(str(saved))[1]


@pytest.fixture
def untouched(saved):
    return AutoModelForSeq2SeqLM.from_pretrained(saved).eval()


@torch.no_grad()
def test_the_halves_make_the_whole_forward_pass(ours, untouched):
    ids, mask = pad(ROWS, 0)
    labels = labels_of(*pad(ROWS[::-1], 0))
    logits = decoder_logits(ours, encode_features(ours, ids, mask), labels, mask)
    expected = untouched(input_ids=ids, attention_mask=mask.long(), labels=labels).logits
    real = labels >= 0
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_features_may_be_read_whole_without_a_mask(ours, untouched):
    ids, mask = pad(ROWS[:1], 0)
    labels = labels_of(*pad(ROWS[1:2], 0))
    expected = untouched(input_ids=ids, labels=labels).logits
    found = decoder_logits(ours, encode_features(ours, ids, mask), labels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@torch.no_grad()
def test_the_decoder_writes_what_the_whole_model_writes(ours, untouched, options):
    rows = [row[:4] for row in ROWS if len(row) >= 4]  # of one length: the latents need no mask
    ids, mask = pad(rows, 0)
    length = {"min_new_tokens": 12, "max_new_tokens": 12, "repetition_penalty": 3.0}
    found = generate_ids(ours, encode_features(ours, ids, mask), **length, **options)
    expected = untouched.generate(ids, attention_mask=mask.long(), do_sample=False, **length, **options)
    assert found.tolist() == expected.tolist()
    assert found.shape == (2, 13)
    assert len(set(found[:, 1:].flatten().tolist())) > 2


@torch.no_grad()
def test_padding_in_the_batch_changes_no_feature(ours):
    ids, mask = pad(ROWS, 0)
    together = encode_features(ours, ids, mask)
    for row, features in zip(ROWS, together, strict=True):
        alone = encode_features(ours, *pad([row], 0))[0]
        torch.testing.assert_close(features[: len(row)], alone, rtol=1e-4, atol=1e-4)


def test_the_backbone_is_frozen_and_does_not_drop_out(ours):
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert not ours.training
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}


def test_gradients_pass_through_the_frozen_decoder(ours):
    features = torch.zeros(1, 3, ours.config.hidden_size, requires_grad=True)
    decoder_logits(ours, features, torch.tensor([[5, 1]])).sum().backward()
    assert features.grad.abs().sum() > 0


def test_the_tokenizer_may_live_elsewhere(saved, tmp_path):
    train_vocabulary(TEXTS, tmp_path, 50)
    assert len(load_backbone(str(saved), tokenizer=str(tmp_path))[0]) < len(load_backbone(str(saved))[0])


# What cannot be used


def refusal(path):
    with pytest.raises(BackboneError) as error:
        load_backbone(str(path))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["checkpoints/none", "nowhere", "./a/b", "checkpoints/pretrained/none"])
def test_a_folder_that_is_not_there(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refusal(path)
    assert "no such folder" in said
    assert "make pretrain-backbone" in said
    assert path in said


def test_a_hub_id_without_a_hub_says_so():
    said = refusal("nobody/no-such-model")
    assert "could not be fetched from the hub" in said
    assert "local folder" in said


def test_a_model_without_encoder(tmp_path):
    GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)).save_pretrained(
        tmp_path
    )
    said = refusal(tmp_path)
    assert "gpt2 without encoder and decoder" in said
    assert "google/flan-t5-base" in said


@pytest.fixture
def folder(tmp_path):
    tokenizer = train_vocabulary(TEXTS, tmp_path, 60)
    t5(len(tokenizer)).save_pretrained(tmp_path)
    return tmp_path


def test_weights_cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "could not be read from this folder" in refusal(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_files_that_are_missing(folder, file):
    (folder / file).unlink()
    assert "could not be read from this folder" in refusal(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert str(folder) in refusal(folder)


def test_a_config_of_an_unknown_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}), encoding="utf-8")
    assert "no-such-model" in refusal(folder)
