"""The backbone's two halves put together give the untouched model, for any encoder-decoder in the hub's layout."""

import contextlib
import json
import shutil

import hub_layouts
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from latdiff.config import DECODING
from latdiff.data.tokens import labels_of, pad, tokenize, train_vocabulary
from latdiff.models.backbone import (
    BackboneError,
    copied_share,
    decoder_logits,
    encode_features,
    generate_ids,
    load_backbone,
    refuse_unreadable,
)

TEXTS = hub_layouts.TEXTS[:4]


@pytest.fixture(scope="module", params=hub_layouts.LAYOUTS, ids=lambda layout: layout.__name__)
def saved(request, tmp_path_factory):
    """A folder as the hub's, with random weights."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    request.param(folder)
    return folder


@pytest.fixture
def ours(saved):
    return load_backbone(str(saved))[1]


@pytest.fixture
def rows(saved):
    return tokenize(load_backbone(str(saved))[0], TEXTS)


@pytest.fixture
def untouched(saved):
    return AutoModelForSeq2SeqLM.from_pretrained(saved).eval()


def padded(rows, model):
    return pad(rows, model.config.pad_token_id)


def test_the_output_embeddings_are_tied_where_the_hubs_are(saved, ours):
    tied = ours.get_output_embeddings().weight is ours.get_input_embeddings().weight
    assert tied == ("lm_head.weight" not in load_file(saved / "model.safetensors"))


@torch.no_grad()
def test_the_halves_make_the_whole_forward_pass(ours, untouched, rows):
    ids, mask = padded(rows, ours)
    labels = labels_of(*padded(rows[::-1], ours))
    logits = decoder_logits(ours, encode_features(ours, ids, mask), labels, mask)
    expected = untouched(input_ids=ids, attention_mask=mask.long(), labels=labels).logits
    real = labels >= 0
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-3, atol=1e-3)  # theirs is another attention kernel


@torch.no_grad()
def test_features_may_be_read_whole_without_a_mask(ours, untouched, rows):
    ids, mask = padded(rows[:1], ours)
    labels = labels_of(*padded(rows[1:2], ours))
    expected = untouched(input_ids=ids, labels=labels).logits
    found = decoder_logits(ours, encode_features(ours, ids, mask), labels)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [{}, {"repetition_penalty": 3.0, "min_new_tokens": 12}, {"num_beams": 3}, DECODING["ld4lg"]],
    ids=["greedy", "penalty", "beams", "ld4lg"],
)
@torch.no_grad()
def test_the_decoder_writes_what_the_whole_model_writes(ours, untouched, rows, options):
    rows = [row[:40] for row in rows]  # of one length: the latents need no mask
    ids, mask = padded(rows, ours)
    found = generate_ids(ours, encode_features(ours, ids, mask), 12, **options)
    plain = {"num_beams": 1, "no_repeat_ngram_size": 0, "early_stopping": False}  # BART's own would search beams
    expected = untouched.generate(ids, attention_mask=mask.long(), max_new_tokens=12, **plain | options)
    assert found.tolist() == expected.tolist()
    assert found[:, 0].tolist() == [ours.config.decoder_start_token_id] * len(rows)


@torch.no_grad()
def test_greedy_is_the_likeliest_token_each_time_whatever_the_models_configuration_asks_for(ours, rows):
    ids, mask = padded(rows[:1], ours)
    features, settings = encode_features(ours, ids, mask), ours.generation_config
    settings.num_beams, settings.no_repeat_ngram_size, settings.repetition_penalty, settings.min_length = 4, 1, 2.0, 9
    settings.forced_bos_token_id = settings.forced_eos_token_id = settings.eos_token_id = None
    (written,) = generate_ids(ours, features, 8)
    logits = decoder_logits(ours, features, written[None, 1:])
    assert written[1:].tolist() == logits[0].argmax(-1).tolist()


SETTINGS = [
    {"num_return_sequences": 2, "num_beams": 2}, {"prompt_lookup_num_tokens": 3}, {"stop_strings": ["a", "e", "i"]},
    {"return_dict_in_generate": True}, {"max_time": 1e-9}, {"min_new_tokens": 12}, {"suppress_tokens": [5, 6, 7]},
    {"watermarking_config": {"greenlist_ratio": 0.25, "bias": 50.0}}, {"bad_words_ids": [[5], [6]]}, {"mine": 1},
]


def settings_of(folder, settings):
    file = folder / "generation_config.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(before | settings), encoding="utf-8")


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: next(iter(settings)))
@torch.no_grad()
def test_a_models_own_settings_of_writing_are_not_obeyed(saved, ours, rows, settings, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "copy")
    tokens = {name: value for name, value in ours.generation_config.to_dict().items() if name.endswith("_token_id")}
    settings_of(copy, tokens | settings)
    ids, mask = padded(rows, ours)
    expected = generate_ids(ours, encode_features(ours, ids, mask), 12, mask)
    changed = load_backbone(str(copy))[1]
    found = generate_ids(changed, encode_features(changed, ids, mask), 12, mask)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("value", ["a", -1, 10**9, [0], True])
def test_an_id_of_no_token_to_write_with_is_refused(saved, tmp_path, value):
    copy = shutil.copytree(saved, tmp_path / "copy")
    settings_of(copy, {"decoder_start_token_id": value})
    with pytest.raises(BackboneError, match=r"decoder_start_token_id .*, must be the id of a token, a whole number"):
        load_backbone(str(copy))


@torch.no_grad()
def test_what_a_model_forces_stays_forced(tmp_path):
    hub_layouts.bart(tmp_path)
    tokenizer, model = load_backbone(str(tmp_path))
    ids, mask = padded(tokenize(tokenizer, TEXTS[:1]), model)
    (written,) = generate_ids(model, encode_features(model, ids, mask), 6)
    start, first, *_, last = written.tolist()
    assert tokenizer.convert_ids_to_tokens([start, first, last]) == ["</s>", "<s>", "</s>"]


@torch.no_grad()
def test_texts_of_several_lengths_are_written_as_the_whole_model_writes_them(ours, untouched, rows):
    ids, mask = padded(rows, ours)
    assert not mask.all()
    found = generate_ids(ours, encode_features(ours, ids, mask), 12, mask)
    plain = {"num_beams": 1, "no_repeat_ngram_size": 0, "early_stopping": False}
    expected = untouched.generate(ids, attention_mask=mask.long(), max_new_tokens=12, **plain)
    assert found.tolist() == expected.tolist()


def test_the_share_of_texts_that_a_model_copies(saved, ours, rows, monkeypatch):
    """Random weights copy nothing; then the decoder writes two of the four texts and breaks another."""
    tokenizer = load_backbone(str(saved))[0]
    texts = tokenizer.batch_decode(list(rows), skip_special_tokens=True)  # as the tokenizer spells them
    assert copied_share(ours, tokenizer, texts) == 0
    start = ours.config.decoder_start_token_id

    def writes(encoder_outputs, attention_mask, max_new_tokens, **_):
        assert attention_mask.sum(1).tolist() == list(map(len, rows)) and max_new_tokens == max(map(len, rows))
        return pad([[start, *row] for row in (*rows[:2], rows[2][:-2], rows[2])], ours.config.pad_token_id)[0]

    monkeypatch.setattr(ours, "generate", writes)
    assert copied_share(ours, tokenizer, texts) == 0.5


@torch.no_grad()
def test_a_model_that_was_saved_again_is_the_same(saved, ours, rows, tmp_path):
    ours.save_pretrained(tmp_path)
    again = load_backbone(str(tmp_path), tokenizer=str(saved))[1]
    ids, mask = padded(rows, ours)
    labels = labels_of(ids, mask)
    found, expected = (decoder_logits(model, encode_features(model, ids, mask), labels) for model in (again, ours))
    assert torch.equal(found, expected)
    assert again.state_dict().keys() == ours.state_dict().keys()


@torch.no_grad()
def test_padding_in_the_batch_changes_no_feature(ours, rows):
    assert len({len(row) for row in rows}) > 1
    together = encode_features(ours, *padded(rows, ours))
    for row, features in zip(rows, together, strict=True):
        alone = encode_features(ours, *padded([row], ours))[0]
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
    train_vocabulary(TEXTS, tmp_path, 120)
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
    assert "latdiff pretrain-backbone" in said
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
    hub_layouts.t5(tmp_path)
    return tmp_path


def test_weights_cut_short(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "could not be read from this folder" in refusal(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_files_that_are_missing(folder, file):
    (folder / file).unlink()
    assert "could not be read from this folder" in refusal(folder)


def test_weights_that_are_pickled(folder):
    """A pickle could run code; transformers' save_pretrained writes safetensors."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    said = refusal(folder)
    assert "no weights in safetensors" in said
    assert "save_pretrained" in said


def test_a_weight_that_is_missing(folder):
    weights = load_file(folder / "model.safetensors")
    gap = "decoder.block.1.layer.2.DenseReluDense.wo.weight"
    del weights[gap]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"lacks 1 weights, the first is {gap}" in refusal(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert str(folder) in refusal(folder)


def test_a_config_of_an_unknown_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}), encoding="utf-8")
    assert "no-such-model" in refusal(folder)


def test_a_t5_that_names_no_first_token_begins_with_the_padding(tmp_path):
    hub_layouts.t5(tmp_path)
    whole, file = load_backbone(str(tmp_path)), tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config = {key: config[key] for key in config if key != "decoder_start_token_id"}
    file.write_text(json.dumps(config), encoding="utf-8")
    written = []
    for tokenizer, model in (whole, load_backbone(str(tmp_path))):
        ids, mask = pad(tokenize(tokenizer, TEXTS), 0)
        features = encode_features(model, ids, mask)
        written.append((decoder_logits(model, features, ids, mask), generate_ids(model, features, 8, mask)))
    assert all(map(torch.equal, *written))
    file.write_text(json.dumps(config | {"pad_token_id": None}), encoding="utf-8")
    assert 'add "decoder_start_token_id": N to it' in refusal(tmp_path)


def test_more_tokens_than_learned_positions(saved, ours):
    learned = ours.config.model_type == "bart"
    refuse_unreadable(ours, hub_layouts.POSITIONS)
    with pytest.raises(BackboneError) if learned else contextlib.nullcontext() as error:
        refuse_unreadable(ours, hub_layouts.POSITIONS + 1)
    if learned:
        assert "autoencoder.max_tokens is 129" in str(error.value)
        assert "128 positions; set autoencoder.max_tokens=128 or less" in str(error.value)
