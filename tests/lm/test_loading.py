"""Language models are loaded whole, from safetensors alone, with their tokenizer; others are refused."""

import json
import resource
import shutil
import sys

import pytest
import torch
from random_models import SMALL
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

from latdiff.errors import UserError
from latdiff.lm import LanguageModelError, load_language_model, load_tokenizer


@pytest.mark.parametrize("path", ["nowhere", "/not/a/folder", "{tmp}"])
def test_a_folder_without_a_model_is_refused_in_one_sentence(tmp_path, path):
    path = path.format(tmp=tmp_path)
    with pytest.raises(LanguageModelError, match=f"language model '{path}'") as refused:
        load_language_model(AutoModelForCausalLM, path)
    assert "\n" not in str(refused.value)


def test_a_folder_is_loaded_in_float32_and_only_from_safetensors(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    assert model.dtype == torch.float32 and not model.training
    tokenizer.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")  # a pickle, which could run code
    with pytest.raises(LanguageModelError, match="from this folder: there are no weights in safetensors"):
        load_language_model(AutoModelForCausalLM, tmp_path)


def test_a_model_without_its_tokenizer_is_refused(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    model.save_pretrained(tmp_path)
    with pytest.raises(LanguageModelError, match="tokenizer"):
        load_language_model(AutoModelForCausalLM, tmp_path)
    tokenizer.add_tokens([f"word{number}" for number in range(9)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(LanguageModelError, match=r"has embeddings of 1,\d+ tokens, but a tokenizer of"):
        load_language_model(AutoModelForCausalLM, tmp_path)


def test_weights_that_are_missing_are_refused_and_not_left_random(tmp_path, tiny):
    tokenizer, model = load_language_model(AutoModelForCausalLM, tiny.ar)
    weights = model.state_dict()
    gap = "transformer.h.0.mlp.c_fc.weight"
    del weights[gap]
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path, state_dict=weights)
    for auto in (AutoModelForCausalLM, AutoModel):
        with pytest.raises(LanguageModelError, match=r"lacks 1 weights, the first is \S*h\.0\.mlp\.c_fc\.weight"):
            load_language_model(auto, tmp_path)


def test_an_encoder_needs_no_pooler(tmp_path, tiny):
    tokenizer, _ = load_language_model(AutoModelForCausalLM, tiny.ar)
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(**SMALL | {"vocab_size": len(tokenizer)}, num_attention_heads=2)
    BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    assert load_language_model(AutoModel, tmp_path)[1].config.model_type == "bert"


def test_a_damaged_tokenizer_is_refused_in_the_callers_words(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"^the vocabulary could not be read from this folder: .+; train it$"):
        load_tokenizer(tmp_path, lambda reason: UserError(f"the vocabulary {reason}; train it"))


@pytest.fixture
def on_the_hub(tmp_path, tiny, monkeypatch):
    """on_the_hub(settings) -> the id of a language model that was fetched from the hub, whose config.json has them."""

    def put(settings, *others):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        place = tmp_path / "hub" / "models--owner--name"
        shutil.copytree(tiny.ar, place / "snapshots" / "0123")
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text("0123")
        for name, given in (("config.json", settings), *others):
            file = place / "snapshots" / "0123" / name
            before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            file.write_text(json.dumps(before | given), encoding="utf-8")
        return "owner/name"

    return put


def test_a_hub_id_is_loaded_as_its_folder_is(on_the_hub, tiny):
    found, folder = (load_language_model(AutoModelForCausalLM, path)[1] for path in (on_the_hub({}), tiny.ar))
    assert all(torch.equal(one, other) for one, other in zip(found.parameters(), folder.parameters(), strict=True))


@pytest.mark.parametrize("settings", [{"n_embd": 10**6}, {"vocab_size": 10**9}, {"n_layer": 10**6},
                                      {"num_labels": 10**9}, {"n_inner": 20_000}])
def test_a_hub_id_whose_sizes_its_weights_do_not_fill_takes_no_memory(on_the_hub, settings):
    name, peak = on_the_hub(settings), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LanguageModelError, match=r"'owner/name' could not be .*(its files hold|more than its files)"):
        load_language_model(AutoModelForCausalLM, name)
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kilobytes


def test_a_hub_id_does_not_lead_to_another_model(on_the_hub):
    adapter = ("adapter_config.json", {"base_model_name_or_path": "owner/other", "peft_type": "LORA"})
    with pytest.raises(LanguageModelError, match="holds an adapter"):
        load_language_model(AutoModelForCausalLM, on_the_hub({}, adapter))


def test_code_of_a_folder_is_not_run(tmp_path, tiny):
    tokenizer, _ = load_language_model(AutoModelForCausalLM, tiny.ar)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}}')
    (tmp_path / "own.py").write_text("raise SystemExit")
    with pytest.raises(LanguageModelError, match=r"could not be read from this folder: .*code"):
        load_language_model(AutoModelForCausalLM, tmp_path)
