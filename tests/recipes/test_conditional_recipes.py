"""Denoisers that are conditioned on a class or a source text."""

import json
import re
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_autoencoder, train_denoiser
from runs import Interrupted, assert_equal, cached, weights

from latdiff import cli, storyworld
from latdiff.codecs.files import load_codec
from latdiff.data.corpus import DataError, load_corpus
from latdiff.models.denoiser import LatentDenoiser
from latdiff.pipelines.files import open_checkpoint

CONDITIONS = {
    "a class": (["data.condition=label", "data.condition_column=sentiment"], "positive"),
    "the first sentence": (["data.condition=prefix"], "On a wet Monday, Lucy hurried to the barn."),
}


@pytest.mark.parametrize("settings, given", CONDITIONS.values(), ids=CONDITIONS)
def test_a_conditional_denoiser(recipe, interrupt, settings, given):
    recipes = {name: recipe(f"name={name}", *settings) for name in ("whole", "broken")}
    train_denoiser.main(recipes["whole"], quiet=True)
    interrupt(train_denoiser, 4)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipes["broken"], quiet=True)
    interrupt(train_denoiser)
    train_denoiser.main(recipes["broken"], quiet=True)
    whole, broken = (recipes[name].folder for name in ("whole", "broken"))
    assert_equal(weights(broken / "denoiser"), weights(whole / "denoiser"))
    pipe = open_checkpoint(whole)
    one, other = (pipe(cond=cond, generator=torch.Generator().manual_seed(0)).latents for cond in (given, None))
    assert one.shape == other.shape and not torch.equal(one, other)
    torch.manual_seed(0)
    new = LatentDenoiser(**pipe.denoiser.config).state_dict()
    learnt = "class_embedding.weight" if "data.condition=label" in settings else "source_in.weight"
    assert not torch.equal(new[learnt], weights(whole / "denoiser")[learnt])
    lines = (whole / "samples.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 20 and all(" -> " in line for line in lines)
    flags = ["--num-samples", "2", "--seeds", "1", "--samplers", "ddim:1"]
    cli.main(["evaluate", str(whole), "--quiet", "--json", "m.json", *flags])
    figures = json.loads(Path("m.json").read_text(encoding="utf-8"))
    rows = figures["by_class"] if "data.condition=label" in settings else figures["by_source"]
    assert [row["guidance_scale"] for row in rows] == [1, 1, 2, 2]


def test_texts_that_have_changed_since_they_were_encoded_are_encoded_again(recipe, capsys):
    """Rows in another order, whose labels would else be paired with other texts."""
    rows = [json.dumps({"text": one.text, "label": one.attributes["sentiment"]}) for one in storyworld.sample(80, 5)]
    Path("mine.jsonl").write_text("\n".join(rows), encoding="utf-8")
    by_tone = recipe("name=by-tone", "data.condition=label", "data.source=mine.jsonl", "data.train_size=60")
    train_autoencoder.main(by_tone, quiet=True)
    first = cached(by_tone)
    Path("mine.jsonl").write_text("\n".join(rows[::-1]), encoding="utf-8")
    assert cached(by_tone) is None
    train_denoiser.main(by_tone)
    assert "encoding 60 texts once" in capsys.readouterr().out
    again, corpus = cached(by_tone), load_corpus(by_tone.data, by_tone.seed)
    assert again.shape == first.shape and not torch.equal(again, first)
    torch.testing.assert_close(again, load_codec(by_tone.folder).encode(corpus.train), rtol=0, atol=0.2)


def test_sources_that_are_all_too_long_are_reported_before_training(recipe, tmp_path):
    rows = [{"text": story.text, "label": f"{i} so " * 300} for i, story in enumerate(storyworld.sample(40, 3))]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"the shortest training source has .* raise autoencoder\.max_tokens"):
        train_autoencoder.main(recipe("name=long", f"data.source={file}", "data.condition=text"), quiet=True)
    assert not recipe("name=long").folder.exists()


def test_sources_that_are_too_long_are_left_out(recipe, capsys, tmp_path):
    rows = [{"text": story.text, "label": f"{i} so " * (300 if i % 2 else 1)}
            for i, story in enumerate(storyworld.sample(60, 3))]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = recipe("name=pairs", f"data.source={file}", "data.condition=text", "data.train_size=50")
    train_denoiser.main(asked, quiet=True)
    said = re.search(r"(\d+) texts with a source that the codec reads; left out: (\d+)", capsys.readouterr().out)
    kept, lost = map(int, said.groups())
    assert kept > 10 and lost > 10 and kept + lost <= 50
