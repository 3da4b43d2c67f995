"""The sentence codec of another checkpoint: taken for other texts, fine-tuned on them, or refused."""

import json
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_denoiser, train_sentence
from runs import Interrupted, assert_equal, weights
from sentence_models import KINDS, TEXTS
from sentence_runs import assert_same_codec, nats

from latdiff.codecs.files import load_codec, save_codec
from latdiff.data.corpus import DataError
from latdiff.errors import UserError
from latdiff.pipelines.files import open_checkpoint


def test_another_checkpoints_codec_is_taken_and_learns_where_these_texts_end(finished, capsys):
    other = [{"text": f"A {one} {what}.", "kind": kind} for kind, words in KINDS.items() for one in words
             for what in ("house", "boat")]
    Path("houses.jsonl").write_text("\n".join(map(json.dumps, other)), encoding="utf-8")
    mine = finished("name=houses", "data.source=houses.jsonl", "data.valid_size=2", "sentence.path=checkpoints/codec")
    train_denoiser.main(mine, quiet=True)
    assert "the codec of checkpoints/codec -> checkpoints/houses" in capsys.readouterr().out
    one, two = load_codec("checkpoints/codec"), load_codec(mine.folder)
    assert one.digest == two.digest
    own, taken = weights(mine.folder / "codec"), weights("checkpoints/codec/codec")
    assert not torch.equal(own.pop("ending"), taken.pop("ending"))
    assert_equal(own, taken)
    assert_equal(weights(mine.folder / "codec/adapter"), weights("checkpoints/codec/codec/adapter"))
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["meaning"]
    assert figures["adopted_from"] == "checkpoints/codec" and figures["n"] == 2
    assert figures["end_of_text"] > figures["end_of_text_before"]
    assert [file.name for file in (mine.folder / "train").iterdir()] == ["latents"]
    assert len(open_checkpoint(mine.folder)("size", num_samples=2).texts) == 2
    with pytest.raises(DataError, match=r"data\.max_tokens is 40, but the codec of checkpoints/codec writes 24 tokens"):
        train_sentence.main(finished("name=x", "sentence.path=checkpoints/codec", "data.max_tokens=40"), quiet=True)


@pytest.mark.parametrize("setting, said", [
    ("sentence.num_latents=7", "num_latents is 7, but the codec of checkpoints/codec has 4"),
    ("sentence.language_model=not/there", "language_model is 'not/there', but the codec of .* has 'llama'"),
])
def test_settings_that_a_taken_codec_contradicts_are_refused(finished, setting, said):
    with pytest.raises(UserError, match=f"sentence.{said} and is taken as it is; leave it out"):
        train_sentence.main(finished("name=x", "sentence.path=checkpoints/codec", setting), quiet=True)
    assert not Path("checkpoints/x").exists()


def test_a_codec_that_goes_on_from_nothing_is_not_adopted_for_first_words(finished):
    with pytest.raises(UserError, match="was not trained to go on from its source"):
        other = finished("data.condition=start", "name=other", "sentence.path=checkpoints/codec")
        train_sentence.main(other, quiet=True)


def test_another_kind_of_codec_is_not_taken(recipe, codec):
    save_codec(codec, Path("checkpoints/t5"))
    with pytest.raises(UserError, match=r"t5', a checkpoint with a TextCodec, must be one with a Sentence"):
        train_sentence.main(recipe("sentence.path=checkpoints/t5"), quiet=True)


@pytest.fixture
def houses(finished):
    """houses(*settings): a recipe of other texts, on which the finished run's codec is fine-tuned."""
    texts = [f"A {one} {what}." for words in KINDS.values() for one in words for what in ("house", "boat")]
    Path("houses.txt").write_text("\n".join(texts), encoding="utf-8")

    def recipe(*settings):
        return finished("name=houses", "data.source=houses.txt", "data.condition=none", "data.valid_size=2",
                        "sentence.path=checkpoints/codec", "sentence.finetune=true", *settings)

    return recipe


def test_another_checkpoints_codec_is_fine_tuned_and_its_latents_stay(houses, capsys):
    mine = houses("train_sentence.steps=60", "train_sentence.learning_rate=0.01")
    train_denoiser.main(mine, quiet=True)
    assert "the codec of checkpoints/codec -> checkpoints/houses, to be fine-tuned" in capsys.readouterr().out
    one, two = load_codec("checkpoints/codec"), load_codec(mine.folder)
    assert one.digest == two.digest and torch.equal(one.encode(TEXTS), two.encode(TEXTS))
    texts = Path("houses.txt").read_text(encoding="utf-8").splitlines()
    assert nats(mine.folder, texts) < nats("checkpoints/codec", texts) - 0.5
    assert not torch.equal(*(weights(place / "codec/adapter").popitem()[1]
                             for place in (mine.folder, Path("checkpoints/codec"))))
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["meaning"]
    assert figures["adopted_from"] == "checkpoints/codec" and figures["training_minutes"] > 0
    assert len(open_checkpoint(mine.folder)(num_samples=2).texts) == 2


def test_fine_tuning_begins_where_the_codec_was_left(houses):
    train_sentence.main(houses("train_sentence.steps=1", "train_sentence.learning_rate=0.0"), quiet=True)
    found, taken = weights("checkpoints/houses/codec"), weights("checkpoints/codec/codec")
    ending = found.pop("ending"), taken.pop("ending")
    assert_equal(found, taken)
    assert ending[0].any() and ending[1].any() and not torch.equal(*ending)
    assert_equal(*(weights(f"{place}/codec/adapter") for place in ("checkpoints/houses", "checkpoints/codec")))


@pytest.mark.parametrize("finetune, noise", [("true", 0.5), ("false", 0.2)])
def test_only_fine_tuning_changes_the_noise_that_is_assumed(houses, finetune, noise):
    train_sentence.main(houses("train_sentence.steps=1", "sentence.assumed_noise=0.5",
                               f"sentence.finetune={finetune}"), quiet=True)
    assert load_codec("checkpoints/houses").config.assumed_noise == noise


def test_fine_tuning_that_was_interrupted_is_the_same_in_the_end(houses, interrupt):
    train_sentence.main(houses("name=whole"), quiet=True)
    interrupt(train_sentence, 4)
    with pytest.raises(Interrupted):
        train_sentence.main(houses(), quiet=True)
    interrupt(train_sentence)
    train_sentence.main(houses(), quiet=True)
    assert interrupt.starts == [0, 3]
    assert_same_codec(Path("checkpoints/houses"), Path("checkpoints/whole"))
