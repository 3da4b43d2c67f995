"""The Perceiver codec's recipe, and a denoiser on it: fresh, interrupted in either training, adopted, with mistakes."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from latdiff.recipes import train_denoiser, train_perceiver
from runs import Interrupted, assert_equal, cached, weights
from sentence_models import TEXTS, lay_out
from writing_runs import finished_run

from latdiff import training
from latdiff.codecs.files import load_codec, save_codec
from latdiff.config import RecipeError, load_recipe
from latdiff.errors import UserError
from latdiff.models.writer import SentenceModelError
from latdiff.pipelines.files import open_checkpoint
from latdiff.resuming import ResumeError

WORDS = """
name: words
codec: perceiver
data: {source: words.jsonl, valid_size: 6, max_tokens: 24}
perceiver: {num_latents: 8, latent_dim: 4, width: 16, depth: 1, heads: 2, rank: 2, max_tokens: 24}
train_drafts: {steps: 4, batch_size: 8, warmup_steps: 2, sample_every: 100, save_every: 2}
train_perceiver: {steps: 4, batch_size: 4, warmup_steps: 2, sample_every: 100, save_every: 2}
denoiser: {width: 16, depth: 1, heads: 2}
train_denoiser: {steps: 3, batch_size: 8, warmup_steps: 2, sample_every: 100}
sampling: {steps: 3, decoding: greedy}
"""
pytestmark = pytest.mark.filterwarnings("ignore:.* texts are cut")


def words(*settings):
    return load_recipe("words.yaml", ["perceiver.language_model=llama", "perceiver.encoder=encoder", *settings])


@pytest.fixture(scope="module")
def whole(writers, tmp_path_factory):
    """Working directory of a finished run; to be read, never written to."""
    return finished_run(tmp_path_factory.mktemp("words"), writers, WORDS, words, train_perceiver)


@pytest.fixture
def recipe(writers, tmp_path, monkeypatch):
    """recipe(*settings), in a working directory without a run."""
    monkeypatch.chdir(tmp_path)
    lay_out(tmp_path, writers, WORDS)
    return words


def break_off(monkeypatch, stage, before):
    """Let the training of a stage break off before a step; returns where trainings began."""
    own, starts = training.progress_bar, []

    def bar(start, steps, title, quiet):
        starts.append((title, start))
        shown = own(start, steps, title, quiet)

        def going():
            for step in shown:
                if (title, step) == (stage, before):
                    raise Interrupted
                yield step

        going = going()
        return type("Bar", (), {"__iter__": lambda self: going, "set_postfix": lambda self, **given: None,
                                "write": lambda self, text: None, "total": steps})()

    monkeypatch.setattr(training, "progress_bar", bar)
    return starts


def test_a_run_leaves_a_codec_its_latents_and_its_figures(whole):
    folder = whole / "checkpoints" / "codec"
    assert [file.name for file in (folder / "train").iterdir()] == ["latents"]
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures["n"] == 4 and figures["decoding"] == "greedy"
    assert set(figures["bleu_under_noise"]) == {"0.25", "0.5", "1.0"} and 0 <= figures["bleu"] <= 100
    assert 0 <= figures["exact_match"] <= 1 and 0 <= figures["drafts"]["exact_match"] <= 1
    assert set(figures["drafts"]["bleu_under_noise"]) == {"0.25", "0.5", "1.0"}
    assert figures["training_minutes"] >= 0 and figures["drafting_minutes"] >= 0


def test_cached_latents_are_the_codecs_own(whole, monkeypatch):
    monkeypatch.chdir(whole)
    codec = load_codec("checkpoints/codec")
    latents = cached(load_recipe("checkpoints/codec/recipe.yaml"))
    assert latents.shape == (36, 8, 4)
    assert (torch.cdist(latents.flatten(1), codec.encode(TEXTS).flatten(1)).min(1).values < 1e-2).all()


def test_only_what_reads_latents_is_trained_by_what_is_written(whole, recipe):
    codec = load_codec(whole / "checkpoints" / "codec")
    longer = recipe("name=longer", "train_perceiver.steps=5")
    train_perceiver.main(longer, quiet=True)
    again = load_codec(longer.folder)
    assert again.digest == codec.digest
    assert not torch.equal(again.draft.weight, codec.draft.weight)


def test_more_drafting_brings_drafts_nearer(recipe):
    long = recipe("name=long", "train_drafts.steps=150", "train_drafts.learning_rate=0.02",
                  "train_drafts.batch_size=32", "train_drafts.latent_noise=0.2", "perceiver.width=32")
    codec = train_perceiver.build(long)

    @torch.no_grad()
    def nats():
        ids = torch.tensor([(row + [codec.tokenizer.eos_token_id] * 8)[:8] for row in codec.tokenize(TEXTS)])
        objective = train_perceiver.DraftingLoss(codec.eval(), 0.0, ids.unique())
        return objective(*codec.features(TEXTS), ids, torch.Generator().manual_seed(0)).item()

    before = nats()
    train_perceiver.draft(long, codec, TEXTS, TEXTS[:2], quiet=True)
    assert nats() < 0.5 * before


def test_a_pipeline_samples_and_edits(whole, monkeypatch):
    monkeypatch.chdir(whole)
    pipe = open_checkpoint("checkpoints/words")
    pipe.set_progress_bar_config(disable=True)
    out = pipe(num_samples=2, generator=torch.Generator().manual_seed(0))
    assert out.texts == pipe(num_samples=2, generator=torch.Generator().manual_seed(0)).texts
    assert len(pipe.interpolate(TEXTS[0], TEXTS[7], n=3).texts) == 3


@pytest.mark.parametrize("stage, before, starts", [
    ("drafts", 3, [("drafts", 2), ("perceiver", 0)]), ("perceiver", 3, [("drafts", 4), ("perceiver", 2)]),
])
def test_a_codec_that_was_interrupted_is_the_same_in_the_end(whole, recipe, monkeypatch, stage, before, starts):
    """And its minutes are those of both runs, here by a clock that each look moves on by one."""
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=map(float, itertools.count(0, 60)).__next__))
    with monkeypatch.context() as patch:
        break_off(patch, stage, before)
        with pytest.raises(Interrupted):
            train_perceiver.main(recipe(), quiet=True)
    assert not (recipe().folder / "codec").exists()
    found = break_off(monkeypatch, "", 0)
    train_perceiver.main(recipe(), quiet=True)
    assert found == starts
    figures = json.loads((recipe().folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures[{"drafts": "drafting_minutes", "perceiver": "training_minutes"}[stage]] == 2
    expected = whole / "checkpoints" / "codec"
    for part in ("codec", "codec/adapter"):
        assert_equal(weights(recipe().folder / part), weights(expected / part))
    assert_equal(*(weights(place / "train" / "latents") for place in (recipe().folder, expected)))


def test_looking_at_drafts_and_texts_changes_nothing_in_what_is_trained(whole, recipe):
    train_perceiver.main(recipe("train_drafts.sample_every=2", "train_perceiver.sample_every=2"))
    assert_equal(weights(recipe().folder / "codec"), weights(whole / "checkpoints" / "codec" / "codec"))


def test_a_finished_run_says_so_and_goes_on_with_its_own_settings_only(finished, capsys):
    train_perceiver.main(finished(), quiet=True)
    assert "words/codec is already trained; delete checkpoints/words or set name=" in capsys.readouterr().out
    with pytest.raises(ResumeError, match=r"train_drafts\.steps was 4, is 7"):
        train_perceiver.main(finished("train_drafts.steps=7"), quiet=True)


def test_another_checkpoints_codec_is_taken_as_it_is(finished):
    mine = finished("name=mine", "perceiver.path=checkpoints/codec")
    train_denoiser.main(mine, quiet=True)
    assert load_codec(mine.folder).digest == load_codec("checkpoints/codec").digest
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures["adopted_from"] == "checkpoints/codec"


def test_another_checkpoints_codec_is_fine_tuned_and_its_latents_stay(finished):
    mine = finished("name=mine", "perceiver.path=checkpoints/codec", "perceiver.finetune=true")
    train_perceiver.main(mine, quiet=True)
    one, two = load_codec("checkpoints/codec"), load_codec(mine.folder)
    assert one.digest == two.digest and torch.equal(one.encode(TEXTS), two.encode(TEXTS))
    assert not torch.equal(one.reader(one.encode(TEXTS), torch.zeros(len(TEXTS))),
                           two.reader(two.encode(TEXTS), torch.zeros(len(TEXTS))))


@pytest.mark.parametrize("settings, kind, said", [
    (["perceiver.max_tokens=41"], SentenceModelError,
     r"perceiver\.max_tokens is 41, but 'llama' reads no more than 40 tokens beside 8 soft prompts; lower it"),
    (["perceiver.encoder=llama"], SentenceModelError, "the sentence encoder is 'llama', a llama that writes"),
    (["sampling.decoding=ld4lg"], RecipeError, "must be one of sampled, careful, greedy, beam"),
    (["perceiver.assumed_noise=0.8"], RecipeError, r"training adds noise of at most train_drafts\.latent_noise=0\.7"),
    (["data.max_tokens=25"], RecipeError, r"data\.max_tokens: 25 is more than perceiver\.max_tokens=24"),
    (["data.condition=start"], RecipeError, "the Perceiver codec reads no source texts; set none or label"),
    (["perceiver.heads=3"], RecipeError, r"perceiver\.width: 16 is not divisible by heads=3"),
])
def test_what_cannot_be_trained_is_refused_before_anything_is_written(recipe, settings, kind, said):
    with pytest.raises(kind, match=said):
        train_perceiver.main(recipe(*settings), quiet=True)
    assert not Path("checkpoints").exists()


def test_another_kind_of_codec_is_not_taken(recipe, codec):
    save_codec(codec, Path("checkpoints/t5"))
    with pytest.raises(UserError, match=r"t5', a checkpoint with a TextCodec, must be one with a PerceiverCodec"):
        train_perceiver.main(recipe("perceiver.path=checkpoints/t5"), quiet=True)
