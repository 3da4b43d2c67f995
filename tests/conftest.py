"""Settings and fixtures for all tests. Nothing may wait for a hub: settings come before a library reads them."""

import contextlib
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small to share out

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for `benchmarks`


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A whole checkpoint from a few steps of the real recipes; to be read, never written to.

    `root` is the working directory they ran in, `recipe` the recipe file, `checkpoint` the folder, `ar` the
    language model's.
    """
    from latdiff.recipes import pretrain_backbone, train_ar, train_autoencoder, train_denoiser
    from runs import TINY

    from latdiff.config import load_recipe

    root = tmp_path_factory.mktemp("tiny")
    path = root / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    with contextlib.chdir(root):
        recipe = load_recipe(str(path))
        for stage in (pretrain_backbone, train_autoencoder, train_denoiser, train_ar):
            stage.main(recipe, quiet=True)
    runs = root / "checkpoints"
    return SimpleNamespace(root=root, recipe=path, checkpoint=runs / "tiny", ar=runs / "tiny-ar")


@pytest.fixture
def talkative(pipe):
    """A pipeline whose texts differ: after so few steps the decoder hardly looks at the latents."""
    import torch

    with torch.no_grad():
        pipe.autoencoder.features_out[-1].weight.mul_(100)
    return pipe


@pytest.fixture
def pipe(tiny):
    """The checkpoint's pipeline, freshly loaded."""
    from latdiff.pipelines.files import open_checkpoint

    loaded = open_checkpoint(tiny.checkpoint)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture
def codec(tiny):
    """The checkpoint's codec, freshly loaded."""
    from latdiff.codecs.files import load_codec

    return load_codec(tiny.checkpoint)


@pytest.fixture(scope="session")
def writers(tmp_path_factory):
    """Folders of a tiny sentence encoder, `encoder`, and of two tiny language models, `llama` and `gpt2`."""
    import sentence_models

    folders = SimpleNamespace()
    for name, make in {"encoder": sentence_models.bert, **sentence_models.WRITERS}.items():
        setattr(folders, name, tmp_path_factory.mktemp(name))
        make(getattr(folders, name))
    return folders


@pytest.fixture(params=["llama", "gpt2"])
def writer(request, writers):
    """The folder of a language model, in each layout."""
    return getattr(writers, request.param)


@pytest.fixture
def head(pipe):
    """A random head of the checkpoint's latents."""
    from toy_pipes import random_head

    return random_head(pipe.codec.digest)


@pytest.fixture
def x0():
    """Latents [5, L, D] of the toy codec."""
    import torch
    from toy_heads import D, L

    return torch.randn(5, L, D, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def numbered():
    """Latents [120, L, D] of the toy codec, labels and numbers."""
    from toy_heads import CODEC, labelled

    texts, labels = labelled("abc", each=40)
    return CODEC.encode(texts), labels, [ord(text[0]) - 96.0 for text in texts]


@pytest.fixture(scope="session")
def stories():
    """Labelled texts: twenty of each sentiment."""
    from latdiff import storyworld

    return [
        (story.text, sentiment)
        for sentiment in ("positive", "negative")
        for story in storyworld.sample(20, 7, sentiment=sentiment)
    ]


@pytest.fixture
def fingerprint():
    """fingerprint(folder) -> {file: digest}, to show that nothing changed."""

    def of(folder):
        files = sorted(file for file in Path(folder).rglob("*") if file.is_file())
        return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    return of


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory):
    """The tiny checkpoint with two heads, fitted by the command itself."""
    from latdiff import cli

    folder = shutil.copytree(tiny.checkpoint, tmp_path_factory.mktemp("cli") / "tiny")
    for name in ("sentiment", "tense"):
        cli.main(["fit-head", str(folder), "--quiet", "--data", "storyworld", "--label-column", name,
                  "--name", name, "--limit", "80"])
    return folder


@pytest.fixture(scope="session")
def talking(checkpoint, tmp_path_factory):
    """The folder of a `talkative` pipeline, with the heads of the tiny checkpoint."""
    import torch

    from latdiff.pipelines.files import open_checkpoint

    pipe, folder = open_checkpoint(checkpoint), tmp_path_factory.mktemp("talking") / "tiny"
    with torch.no_grad():
        pipe.autoencoder.features_out[-1].weight.mul_(100)
    pipe.save_pretrained(folder)
    shutil.copytree(checkpoint / "heads", folder / "heads")
    return folder


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, built of the tracked files and nothing that lies beside them."""
    from packing import tracked_copy, wheel_of

    return wheel_of(tracked_copy(tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def latdiff(checkpoint, capsys):
    """latdiff(command, *flags) -> what was printed"""

    from latdiff import cli

    def run(command, *flags, folder=checkpoint):
        capsys.readouterr()
        cli.main([command, str(folder), "--quiet", *map(str, flags)])
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(latdiff, checkpoint, fingerprint):
    """refused(command, *flags) -> the sentence of the error; the checkpoint is left as it was."""

    def run(command, *flags, folder=checkpoint):
        before = fingerprint(checkpoint)
        with pytest.raises(SystemExit) as error:
            latdiff(command, *flags, folder=folder)
        assert fingerprint(checkpoint) == before
        said = error.value.code  # a text here is printed, and the exit status is 1
        assert isinstance(said, str)
        assert said.startswith("error: ")
        assert "Traceback" not in said
        return said.removeprefix("error: ")

    return run


@pytest.fixture
def reviews(tmp_path):
    """reviews(rows) -> a file of them"""

    def write(rows):
        path = tmp_path / "reviews.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def rows_of():
    """rows_of(labels) -> labelled texts, so many of each label, in turn"""
    from latdiff import storyworld

    def rows(labels, each=6):
        stories = storyworld.sample(each * len(labels), 5)
        return [{"text": story.text, "label": labels[i % len(labels)]} for i, story in enumerate(stories)]

    return rows
