"""--quiet: of every command only results reach stdout, and stderr stays empty but for warnings and errors."""

import json
import shutil

import pytest
import sentence_models
from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers

from latdiff import cli
from latdiff.codecs.files import save_codec

PAIRS = [{"text": f"Short {n}.", "source": f"It is long {n}."} for n in range(30)]
MODELS = ("language_model=llama", "encoder=encoder")
SMALL = ("denoiser.width=16", "denoiser.depth=1", "denoiser.heads=2")
TRAININGS = {
    "pretrain-backbone": ("tiny.yaml", "backbone.path=checkpoints/own-t5", "pretrain_backbone.steps=1"),
    "train-ae": ("tiny.yaml", "name=ae", "train_autoencoder.steps=2"),
    "train-diffusion": ("tiny.yaml", "name=whole", "train_autoencoder.steps=1", "train_denoiser.steps=1"),
    "train-ar": ("tiny.yaml", "name=ar", "train_ar.steps=1"),
    "train-seq2seq": ("tiny.yaml", "name=pairs", "data.source=pairs.jsonl", "data.condition=text",
                      "data.condition_column=source", "data.valid_size=6", "train_seq2seq.steps=1"),
    "train-sentence": ("english", "name=sentence", "data.source=words.txt", "data.splits=[train]", "data.valid_size=6",
                       *(f"sentence.{one}" for one in MODELS), "sentence.num_latents=4", "sentence.width=16",
                       "sentence.rank=2", "sentence.max_tokens=24", "data.max_tokens=24", "data.condition=none",
                       "train_sentence.steps=1", *SMALL),
    "train-perceiver": ("english-perceiver", "name=perceiver", "data.source=words.txt", "data.splits=[train]",
                        "data.valid_size=6", *(f"perceiver.{one}" for one in MODELS), "perceiver.num_latents=4",
                        "perceiver.latent_dim=4", "perceiver.width=16", "perceiver.heads=2", "perceiver.rank=2",
                        "perceiver.max_tokens=24", "data.max_tokens=24", "data.condition=none", "train_drafts.steps=1",
                        "train_perceiver.steps=1", *SMALL),
    "train-star": ("star-storyworld", "name=star", "data.source=words.txt", "data.valid_size=6", "data.max_tokens=24",
                   "star.language_model=gpt2", "star.plan=checkpoints/plan", "star.num_prompts=3", "star.width=16",
                   "star.depth=1", "star.heads=2", "train_star.steps=1", "train_star.batch_size=2", "sampling.steps=2"),
    "train-tokens": ("tiny.yaml", "name=tokens", "stages=[train_tokens]", "tokens.width=16", "tokens.layers=1",
                     "tokens.heads=2", "tokens.sampling_steps=2", "train_tokens.steps=1", "train_tokens.batch_size=2"),
    "distill": ("tiny.yaml", "name=few", "stages=[distill]", "distill.teacher=checkpoints/tiny", "distill.steps=1",
                "distill.levels=2", "distill.batch_size=2", "sampling.scheduler=ddim", "sampling.steps=2"),
    "train-wellformed": ("tiny.yaml", "name=judge", "data.source=words.txt", "data.valid_size=6",
                         "train_wellformed.encoder=encoder", "train_wellformed.steps=1"),
}
OTHERS = {
    "sample": ("checkpoints/tiny", "--num-samples", "2", "--guide", "tense=past"),
    "edit": ("checkpoints/tiny", "--text", "A story.", "--guide", "tense=past"),
    "fit-head": ("checkpoints/tiny", "--data", "storyworld", "--label-column", "tense", "--limit", "80", "--name", "x"),
    "evaluate": ("checkpoints/tiny", "--seeds", "1", "--num-samples", "12", "--fluency", "checkpoints/tiny-ar"),
    "check-config": ("tiny.yaml",),
    "plot": ("checkpoints/tiny",),
    "list": (),
    "check-checkpoint": ("checkpoints/tiny",),
    "publish": ("checkpoints/tiny", "published"),
    "fetch": ("all-minilm-l6-v2",),
}
WORDS = TRAININGS | OTHERS


@pytest.fixture(scope="module")
def place(tiny, checkpoint, writers, tmp_path_factory):
    """A folder with finished runs, heads, texts and tiny models."""
    root = shutil.copytree(tiny.root, tmp_path_factory.mktemp("quiet") / "work")
    shutil.copytree(checkpoint / "heads", root / "checkpoints" / "tiny" / "heads")
    for name, folder in vars(writers).items():
        shutil.copytree(folder, root / name)
    save_codec(sentence_models.sentence_codec(writers.llama, writers.encoder), root / "checkpoints" / "plan")
    (root / "words.txt").write_text("\n".join(sentence_models.TEXTS), encoding="utf-8")
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, PAIRS)), encoding="utf-8")
    return root


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("command", WORDS)
def test_of_a_quiet_command_nothing_reaches_stderr(command, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    monkeypatch.setattr("latdiff.cli.models.fetch", lambda name, quiet: f"models/{name}")
    for library in (of_diffusers, of_transformers):
        library.enable_progress_bar()  # as in a process of its own
    cli.main([command, *WORDS[command], "--quiet"])
    said = capfd.readouterr()
    assert said.err == ""
    assert said.out.strip() and "%|" not in said.out and "\x1b" not in said.out


def test_every_command_is_tried():
    serving = {"demo"}  # goes on until it is stopped: tests/demo
    assert set(WORDS) | serving == set(cli.parser()._subparsers._group_actions[0].choices)
