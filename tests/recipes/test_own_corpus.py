"""A corpus of one's own, from its rows to a denoiser: long texts, extra ones, another checkpoint's autoencoder."""

import json
import re
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_autoencoder, train_denoiser
from runs import cached

from latdiff import storyworld
from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe
from latdiff.data.corpus import DataError
from latdiff.errors import UserError
from latdiff.models.backbone import BackboneError
from latdiff.pipelines.files import open_checkpoint


@pytest.fixture
def corpus(workplace):
    """A folder with two splits; a text of each is far too long, and the training split repeats one, twice."""
    folder = workplace / "mine"
    folder.mkdir()
    long = "Mia met a dog. " * 60
    for name, seed, count in (("train", 0, 40), ("valid", 1, 4)):
        texts = [long + name, *(story.text for story in storyworld.sample(count, seed))]
        texts += [texts[1], texts[1].upper(), " "] if name == "train" else []
        rows = "\n".join(json.dumps({"body": text}) for text in texts)
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    return ("name=mine", "data.source=mine", "data.text_column=body")


def test_texts_of_ones_own_from_scratch(recipe, corpus, capsys):
    """The denoiser's recipe builds what is missing, backbone included; long texts are counted and left out."""
    mine = recipe(*corpus, "backbone.path=", "pretrain_backbone.vocab_size=300", "data.max_tokens=200",
                  "autoencoder.max_tokens=200", "train_autoencoder.sample_every=2")
    train_denoiser.main(mine)  # not quiet: it looks at unseen texts, of which one is too long
    said = capsys.readouterr().out
    left_out = "40 texts of at most 200 tokens; left out: 1 too long, 1 blank, 2 repeated, 0 also unseen"
    assert said.count(left_out) == 2  # before the backbone's training and the autoencoder's
    limits = re.findall(r"99 % of the training texts have at most (\d+) tokens; data\.max_tokens=(\d+) would", said)
    assert len(limits) == 2 and limits[0] == limits[1]
    assert int(limits[0][0]) == int(limits[0][1]) > 200  # one text in 41 is more than one in a hundred
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert (figures["n"], figures["too_long"]) == (4, 1)
    assert len(open_checkpoint(mine.folder)(num_samples=2).texts) == 2
    assert Path("checkpoints/mine-t5/model.safetensors").exists()


def test_extra_texts_train_backbone_and_autoencoder_and_not_the_denoiser(recipe, corpus, capsys):
    """The vocabulary knows their words, latents are whitened with theirs, and those cached are the corpus' alone."""
    rows = (json.dumps({"body": f"Zyx number {i} zaps."}) + "\n" for i in range(30))
    Path("more.jsonl").write_text("".join(rows), encoding="utf-8")
    mine = recipe(*corpus, 'data.extra_sources=["more.jsonl"]', "backbone.path=checkpoints/mine-t5",
                  "pretrain_backbone.vocab_size=300", "data.max_tokens=200", "autoencoder.max_tokens=200")
    train_denoiser.main(mine, quiet=True)
    assert "30 extra texts that are short enough" in capsys.readouterr().out
    codec = load_codec(mine.folder)
    latents = cached(mine)
    assert len(latents) == 40
    theirs = codec.encode([json.loads(row)["body"] for row in Path("more.jsonl").read_text("utf-8").splitlines()])
    mean = torch.cat([latents, theirs]).mean(0)
    assert mean.abs().max() < 0.1 < latents.mean(0).abs().max()  # cached ones were encoded in bfloat16
    assert codec.tokenizer("Zyx")["input_ids"].count(codec.tokenizer.unk_token_id) == 0


def test_a_backbone_that_cannot_read_the_corpus_is_warned_of_before_training(recipe):
    signs = "天地玄黄宇宙洪荒日月盈昃"
    texts = [f"{one}{two}{one}" for one in signs for two in signs if one != two]
    Path("signs.txt").write_text("\n".join(texts), encoding="utf-8")
    other = recipe("name=signs", "data.source=signs.txt", "data.train_size=0", "train_autoencoder.steps=1")
    with pytest.warns(UserWarning) as warned:
        train_autoencoder.main(other, quiet=True)
    unknown, copied = (str(one.message) for one in warned if "backbone.path=" in str(one.message))
    assert "pieces are unknown to its tokenizer, such as" in unknown and "google/mt5-small" in unknown
    assert set(re.search("such as (.*?), and", unknown)[1].split()) <= set(signs)
    assert "copies 0.0 % of " in copied and "google/flan-t5-base" in copied
    for said in (unknown, copied):
        assert "set backbone.path=checkpoints/NAME-t5" in said
    figures = json.loads((other.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures["copied_by_backbone"] == 0 and figures["unknown_pieces"] > 0.2


def test_many_texts_that_are_too_long_are_warned_of(recipe):
    texts = [f"A boat, {number}." for number in range(40)] + ["Mia met a dog. " * 60 + str(n) for n in range(10)]
    Path("mine.txt").write_text("\n".join(texts), encoding="utf-8")
    other = recipe("name=mine", "data.source=mine.txt", "data.train_size=0", "train_autoencoder.steps=1")
    with pytest.warns(UserWarning, match=r"training texts are too long .* would keep all of them"):
        train_autoencoder.main(other, quiet=True)


def test_a_backbone_that_reads_and_copies_the_corpus_is_not_warned_of(recipe, capsys, recwarn, monkeypatch):
    shares = iter([0.3, 0.29])
    monkeypatch.setattr(train_autoencoder, "copied_share", lambda model, tokenizer, texts: next(shares))
    for name, warnings in (("good", 0), ("worse", 1)):
        train_autoencoder.main(recipe(f"name={name}", "train_autoencoder.steps=1"), quiet=True)
        assert len([one for one in recwarn if "backbone.path=" in str(one.message)]) == warnings
    said = capsys.readouterr().out
    assert "the backbone checkpoints/tiny-t5 by itself copies 30.0 % of 12 unseen texts exactly; 0.00 % of the" in said


def test_another_checkpoints_autoencoder_is_taken_as_it_is(tiny, recipe, capsys):
    """So that one autoencoder, learnt from much text, serves the denoisers of several corpora."""
    rows = [{"words": f"A {kind}, {i}.", "kind": kind} for kind in ("boat", "tree") for i in range(20)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ("name=mine", "data.source=mine.jsonl", "data.text_column=words", "data.condition=label",
                "data.condition_column=kind", "autoencoder.path=checkpoints/tiny", "autoencoder.num_latents=99",
                "backbone.path=checkpoints/not-there", "autoencoder.max_tokens=4")
    mine = recipe(*settings)
    train_denoiser.main(mine, quiet=True)
    assert "the backbone and the autoencoder of checkpoints/tiny -> checkpoints/mine" in capsys.readouterr().out
    codec, theirs = load_codec(mine.folder), load_codec(tiny.checkpoint)
    assert codec.digest == theirs.digest
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures["adopted_from"] == "checkpoints/tiny" and figures["n"] == 4
    assert open_checkpoint(mine.folder).denoiser.config.classes == ["boat", "tree"]
    with pytest.raises(DataError, match=r"data\.max_tokens is 200, but the autoencoder of checkpoints/tiny reads 96"):
        train_autoencoder.main(recipe(*settings, "name=other", "data.max_tokens=200"), quiet=True)


def test_an_autoencoder_that_reads_less_than_the_texts_have_is_refused(tmp_path, monkeypatch):
    """A recipe for another stage may have longer texts than the autoencoder, which is then out of use."""
    monkeypatch.chdir(tmp_path)
    Path("judge.yaml").write_text("stages: [train_ar]\ndata: {train_size: 9, valid_size: 2, max_tokens: 200}\n")
    with pytest.raises(DataError, match=r"the autoencoder of judge reads 128 tokens; set data\.max_tokens=128 or less"):
        train_autoencoder.main(load_recipe("judge.yaml"), quiet=True)


def test_a_missing_backbone_outside_of_checkpoints(recipe):
    with pytest.raises(BackboneError, match="no such folder"):
        train_autoencoder.main(recipe("name=other", "backbone.path=elsewhere"), quiet=True)


@pytest.mark.parametrize("lengths", [(1, 400), (400, 1)])
def test_texts_that_are_all_too_long_are_reported_before_training(workplace, recipe, lengths):
    folder = workplace / "long"
    folder.mkdir()
    for name, words in zip(("train", "valid"), lengths, strict=True):
        texts = [" ".join([f"word{i}"] * words) for i in range(8)]
        (folder / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.max_tokens"):
        train_autoencoder.main(recipe("name=long", f"data.source={folder}"), quiet=True)
    assert not (workplace / "checkpoints" / "long").exists()
