"""Checkpoints from strangers: none runs code, takes memory that its files do not, or writes where it should not."""

import ast
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from sentence_models import sentence_codec
from transformers import AutoModelForCausalLM

from latdiff import LatentTextDiffusionPipeline, StarPlanner
from latdiff.checkpoints import CheckpointError, class_of
from latdiff.codecs.files import load_codec, save_codec
from latdiff.config import load_recipe
from latdiff.errors import UserError
from latdiff.evaluation.asked import recipe_asked_for
from latdiff.evaluation.card import write_card
from latdiff.evaluation.report import picture
from latdiff.heads.files import load_head
from latdiff.lm import load_language_model
from latdiff.models.writer import load_encoder
from latdiff.pipelines.files import open_checkpoint

ROOT = Path(__file__).parents[1]

@pytest.fixture(scope="module")
def shelf(checkpoint, tiny, writers, tmp_path_factory):
    """A folder of each kind of checkpoint, to be copied and damaged."""
    place = tmp_path_factory.mktemp("shelf")
    shutil.copytree(checkpoint, place / "pipeline")
    shutil.copytree(tiny.ar, place / "model")
    shutil.copytree(writers.encoder, place / "encoder")
    save_codec(sentence_codec(writers.llama, writers.encoder, rank=4), place / "sentence")
    StarPlanner(3, 4, prompt_dim=16, num_prompts=2, width=16, depth=1, heads=2).save_pretrained(place / "planner")
    return place


# kind -> where its weights lie on the shelf, and what opens it
KINDS = {
    "text model": ("pipeline/text_model", lambda shelf: open_checkpoint(shelf / "pipeline")),
    "autoencoder": ("pipeline/autoencoder", lambda shelf: load_codec(shelf / "pipeline")),
    "denoiser": ("pipeline/denoiser", lambda shelf: open_checkpoint(shelf / "pipeline")),
    "head": ("pipeline/heads/tense", lambda shelf: load_head(shelf / "pipeline/heads/tense")),
    "language model": ("model", lambda shelf: load_language_model(AutoModelForCausalLM, shelf / "model")),
    "encoder": ("encoder", lambda shelf: load_encoder(str(shelf / "encoder"))),
    "sentence codec": ("sentence/codec", lambda shelf: load_codec(shelf / "sentence")),
    "updates": ("sentence/codec/adapter", lambda shelf: load_codec(shelf / "sentence")),
    "planner": ("planner", lambda shelf: class_of(shelf / "planner/config.json").from_pretrained(shelf / "planner")),
}
NETWORKS = [kind for kind in KINDS if kind != "head"]


@pytest.fixture
def opened(shelf, tmp_path):
    """opened(kind, damage) -> the sentence with which a copy is refused whose weights' folder damage(folder) spoilt."""

    def run(kind, damage):
        copy = shutil.copytree(shelf, tmp_path / "copy")
        where, opens = KINDS[kind]
        damage(copy / where)
        with pytest.raises(UserError) as error:
            opens(copy)
        said = str(error.value)
        assert "\n" not in said and len(said) < 1000
        return said

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_whole_is_opened(shelf, kind):
    _, opens = KINDS[kind]
    assert opens(shelf) is not None


def change_weights(folder, change):
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    first = max(tensors, key=lambda name: ("pooler" not in name, tensors[name].is_floating_point(), tensors[name].dim(),
                                           name))
    change(tensors, first)
    save_file(tensors, file, metadata={"format": "pt"})


def cut_off(folder):
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-50])


def a_header_alone(folder):
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(b"\xff" * 8)


def a_pickle(folder):
    (file,) = folder.glob("*.safetensors")
    torch.save(load_file(file), folder / {"adapter_model.safetensors": "adapter_model.bin"}.get(
        file.name, "pytorch_model.bin" if file.name == "model.safetensors" else "diffusion_pytorch_model.bin"))
    file.unlink()


DAMAGES = {
    "cut off": cut_off,
    "no weights behind the header": a_header_alone,
    "a pickle in place of safetensors": a_pickle,
    "missing": lambda folder: change_weights(folder, lambda tensors, name: tensors.pop(name)),
    "of another shape": lambda folder: change_weights(
        folder, lambda tensors, name: tensors.update({name: torch.zeros(3, 5)})),
    "not a number": lambda folder: change_weights(folder, lambda tensors, name: tensors[name].fill_(torch.nan)),
    "not finite": lambda folder: change_weights(
        folder, lambda tensors, name: tensors[name].view(-1)[:1].fill_(-torch.inf)),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_weights_are_refused_in_one_sentence(opened, kind, damage):
    opened(kind, DAMAGES[damage])


@pytest.mark.parametrize("kind", ["autoencoder", "denoiser", "planner", "sentence codec", "head"])
def test_weights_that_nothing_asked_for_are_refused(opened, kind):
    said = opened(kind, lambda folder: change_weights(folder, lambda tensors, _: tensors.update(more=torch.zeros(2))))
    assert "more" in said


def settings(**given):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | given), encoding="utf-8")
    return change


ABSURD = [
    *(("autoencoder", {name: 10**9}) for name in ("num_latents", "latent_dim", "width", "max_tokens", "feature_dim")),
    *(("denoiser", {name: 10**9}) for name in ("num_latents", "width", "source_dim", "depth")),
    *(("planner", {name: 10**9}) for name in ("num_latents", "prompt_dim", "num_prompts", "width")),
    *(("sentence codec", {name: 10**9}) for name in ("num_latents", "latent_dim", "num_prompts", "width", "rank")),
    ("autoencoder", {"depth": 10**6}), ("denoiser", {"depth": 10**6}), ("planner", {"depth": 10**6}),
    ("denoiser", {"width": "wide"}), ("denoiser", {"width": -8}), ("autoencoder", {"heads": 0}),
    ("text model", {"num_layers": 10**6}), ("text model", {"vocab_size": 10**9}), ("text model", {"d_ff": 10**7}),
    ("language model", {"n_layer": 10**6}), ("language model", {"n_embd": 10**9}),
    ("language model", {"num_labels": 10**9}), ("language model", {"n_positions": 10**8}),
    ("encoder", {"num_hidden_layers": 10**6}), ("encoder", {"hidden_size": 10**9}),
    ("encoder", {"max_position_embeddings": 10**9}), ("encoder", {"type_vocab_size": 10**9}),
]


@pytest.mark.parametrize(("kind", "given"), ABSURD, ids=lambda value: value if isinstance(value, str) else str(value))
def test_absurd_sizes_are_refused_before_memory_is_taken(opened, kind, given):
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    opened(kind, settings(**given))
    assert time.process_time() - began < 4  # a whole copy, and parts that come before it, included
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 200_000  # kilobytes


@pytest.mark.parametrize("name", ["num_train_timesteps", "num_inference_steps"])
@pytest.mark.parametrize("steps", [10**9, 0, "many"])
def test_absurd_numbers_of_steps_are_refused(opened, name, steps):
    file = {"num_train_timesteps": "scheduler/scheduler_config.json"}.get(name, "model_index.json")

    def change(folder):
        place = folder.parent / file
        place.write_text(json.dumps(json.loads(place.read_text(encoding="utf-8")) | {name: steps}), encoding="utf-8")

    assert f"has {name} {steps!r}, must be a whole number from 1 to" in opened("denoiser", change)


# Code


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_code_of_a_folder_is_run(shelf, tmp_path, kind):
    copy = shutil.copytree(shelf, tmp_path / "copy")
    where, opens = KINDS[kind]
    names = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoTokenizer")
    code = {"auto_map": {name: "own.Own" for name in names}}
    for folder in (copy / where, copy / where / "..", copy / "pipeline" / "tokenizer"):
        (folder / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Own: pass\n", encoding="utf-8")
        for file in folder.glob("*config.json"):
            file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | code), encoding="utf-8")
    try:
        opens(copy)
    except UserError as error:
        assert "\n" not in str(error)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"../../elsewhere": ["latdiff", "LatentDenoiser"]}, "names a part '../../elsewhere'"),
        ({"/etc": ["latdiff", "LatentDenoiser"]}, "names a part '/etc'"),
        ({"denoiser": ["own", "Own"]}, "denoiser is of own, which is none of latdiff, diffusers, transformers"),
        ({"denoiser": ["antigravity", "Own"]}, "denoiser is of antigravity"),
        ({"text_model": ["transformers", "AutoModelForSeq2SeqLM"]}, "must be a library and a class"),
        ({"denoiser": ["latdiff", 5]}, "must be a library and a class"),
        ({"denoiser": ["latdiff"]}, "must be a library and a class"),
        ({"_class_name": ["pipeline", "Own"]}, "names the class ['pipeline', 'Own']"),
        ({"_class_name": "Own"}, "names the class Own"),
    ],
)
def test_an_index_that_names_what_may_not_be_opened(checkpoint, tmp_path, change, said):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    for file in ("own.py", "pipeline.py", "denoiser/own.py"):
        (copy / file).write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Own: pass\n", encoding="utf-8")
    index = copy / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text(encoding="utf-8")) | change), encoding="utf-8")
    loads = [open_checkpoint] if change == {"_class_name": "Own"} else [
        open_checkpoint, LatentTextDiffusionPipeline.from_pretrained]
    for load in loads:
        with pytest.raises(CheckpointError) as error:
            load(copy)
        assert said in str(error.value) and "\n" not in str(error.value)
    assert "antigravity" not in sys.modules and not (tmp_path / "run").exists()


def test_the_hub_is_no_way_around_the_index(checkpoint, tmp_path, monkeypatch):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    index = copy / "model_index.json"
    index.write_text(index.read_text(encoding="utf-8").replace('"LatentDenoiser"', '"AutoModel"'), encoding="utf-8")

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(copy))
    with pytest.raises(CheckpointError, match="denoiser is \\['latdiff', 'AutoModel'\\]"):
        LatentTextDiffusionPipeline.from_pretrained("owner/name")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_modules": "(.*.*.*.*)*x"}, "must be a list of names of layers"),
        ({"layer_replication": [[0, 10**6]]}, "sets layer_replication"),
        ({"rank_pattern": {".*": 10**9}}, "sets rank_pattern"),
        ({"auto_mapping": {"parent_library": "antigravity"}}, "sets auto_mapping"),
        ({"r": 10**9}, "rank 1000000000, must be LORA of the codec's rank, 4"),
        ({"peft_type": "PREFIX_TUNING"}, "kind 'PREFIX_TUNING'"),
    ],
)
def test_updates_that_latdiff_never_wrote(opened, change, said):
    def write(folder):
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | change), encoding="utf-8")

    assert said in opened("updates", write)


def test_a_model_does_not_lead_to_another_one(opened):
    assert "holds an adapter" in opened("language model", lambda folder: (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "owner/other", "peft_type": "LORA"}'))


def test_a_model_in_several_files_names_only_those_beside_it(opened):
    def write(folder):
        (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../encoder/model.safetensors"}}')

    assert "names '../encoder/model.safetensors'" in opened("language model", write)


def calls_of_from_pretrained():
    for folder in ("latdiff", "recipes", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                called = node.func if isinstance(node, ast.Call) else None
                if isinstance(called, ast.Attribute) and called.attr in ("from_pretrained", "load_adapter"):
                    yield f"{file.relative_to(ROOT)}:{node.lineno}", ast.unparse(node)


def test_every_load_says_that_no_pickle_is_read_and_no_code_run():
    found = dict(calls_of_from_pretrained())
    assert len(found) > 8
    for place, call in found.items():
        if call.startswith(("Auto", "auto.")):  # those of transformers, which alone look for code
            assert "_safely(path)" in call or "trust_remote_code=False" in call, f"{place}: {call}"
            if not call.startswith(("AutoConfig", "AutoTokenizer")):
                assert "use_safetensors=True" in call or "gguf_file" in call, f"{place}: {call}"


def test_nothing_that_could_run_code_is_used():
    unsafe = {"pickle", "joblib", "dill", "torch.load", "exec", "eval", "yaml.unsafe_load", "yaml.full_load"}
    for folder in ("latdiff", "recipes", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
                assert not unsafe & set(names), f"{file}:{node.lineno} uses {names}"


# Paths


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "..", "a/../../x", "a\\x"])
def test_the_picture_of_a_head_lies_beside_the_figures(tmp_path, name):
    assert picture(tmp_path / "metrics.json", f"control-{name}").parent == tmp_path


@pytest.mark.parametrize("base", ["../secret", "secret", "{tmp}/secret.yaml", "~/secret.yaml", "storyworld"])
def test_the_recipe_of_a_checkpoint_opens_no_other_file(checkpoint, tmp_path, monkeypatch, base):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    for place in (tmp_path / "secret.yaml", copy / "secret.yaml"):
        place.write_text("data: {source: secrets.csv}\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    own = copy / "recipe.yaml"
    own.write_text(f"base: {base.format(tmp=tmp_path)}\n" + own.read_text(encoding="utf-8"), encoding="utf-8")
    for reads in (lambda: recipe_asked_for(own, str(copy), None), lambda: recipe_asked_for(own, str(copy), "mine.csv"),
                  lambda: write_card(copy)):
        with pytest.raises(UserError, match="read as its base; a checkpoint may come from anyone") as error:
            reads()
        assert "secrets.csv" not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", "a/b"])
def test_the_recipe_of_a_download_names_no_folder_elsewhere(checkpoint, tmp_path, monkeypatch, fingerprint, name):
    copy = shutil.copytree(checkpoint, tmp_path / "work" / "copy")
    given = yaml.safe_load((copy / "recipe.yaml").read_text(encoding="utf-8"))
    (copy / "recipe.yaml").write_text(yaml.safe_dump(given | {"name": name}), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "work")
    before = fingerprint(tmp_path)
    with pytest.raises(UserError, match="must be a folder name of at most 60 letters"):
        load_recipe("copy/recipe.yaml")
    assert fingerprint(tmp_path) == before
