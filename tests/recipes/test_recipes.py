"""The training recipes for a few steps: fresh, interrupted, finished, and started with mistakes."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pretrain_backbone
import pytest
import torch
import train_ar
import train_autoencoder
import train_denoiser
from safetensors.torch import load_file
from tqdm.auto import tqdm

from latdiff import cli, storyworld
from latdiff.backbone import BackboneError
from latdiff.config import UserError, load_recipe
from latdiff.data import DataError
from latdiff.denoiser import LatentDenoiser
from latdiff.generators import LanguageModelGenerator
from latdiff.judges import FluencyJudge
from latdiff.pipeline import load_codec, load_pipeline
from latdiff.training import ResumeError, load_latents, save_latents

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


@pytest.fixture
def workplace(tiny, tmp_path, monkeypatch):
    """A copy of the finished runs' working directory to go on in; `recipe(*settings)` reads their recipe."""
    folder = shutil.copytree(tiny.root, tmp_path / "work")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def recipe(workplace):
    return lambda *settings: load_recipe("tiny.yaml", list(settings))


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(recipe module, step): its loop breaks off before that step; interrupt(module): no longer."""

    def stop(module, step=None):
        def bar(start, steps, title, quiet):
            def going():
                yield from range(start, steps if step is None else step)
                if step is not None:
                    raise Interrupted

            starts.append(start)
            return tqdm(going(), disable=True)

        monkeypatch.setattr(module, "progress_bar", bar)

    starts = stop.starts = []
    return stop


def weights(folder):
    (file,) = Path(folder).glob("*.safetensors")
    return load_file(file)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_loads(path):
    assert load_recipe(str(path)).name == path.stem


# A run that was interrupted


@pytest.mark.parametrize("stopped_before", [1, 3, 5])
def test_an_autoencoder_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, stopped_before):
    folder = recipe().folder
    shutil.rmtree(folder)
    interrupt(train_autoencoder, stopped_before)
    with pytest.raises(Interrupted):
        train_autoencoder.main(recipe(), quiet=True)
    assert not (folder / "autoencoder").exists()
    interrupt(train_autoencoder)
    train_autoencoder.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3 if stopped_before >= 3 else 0]
    assert_equal(weights(folder / "autoencoder"), weights(tiny.checkpoint / "autoencoder"))
    assert [file.name for file in (folder / "train").iterdir()] == [
        "latents.safetensors"
    ]  # nothing to resume


def undo_denoiser(folder):
    shutil.rmtree(folder / "denoiser")
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize("stopped_before", [2, 4])
def test_a_denoiser_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, stopped_before):
    folder = recipe().folder
    undo_denoiser(folder)
    interrupt(train_denoiser, stopped_before)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipe(), quiet=True)
    assert not (folder / "model_index.json").exists()
    interrupt(train_denoiser)
    train_denoiser.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3 if stopped_before >= 3 else 0]
    assert_equal(weights(folder / "denoiser"), weights(tiny.checkpoint / "denoiser"))
    samples = [(place / "samples.txt").read_text(encoding="utf-8") for place in (folder, tiny.checkpoint)]
    assert samples[0] == samples[1]


CONDITIONS = {
    "a class": (["data.condition=label", "data.condition_column=sentiment"], "positive"),
    "the first sentence": (["data.condition=prefix"], "On a wet Monday, Lucy hurried to the barn."),
}


@pytest.mark.parametrize("settings, told", CONDITIONS.values(), ids=CONDITIONS)
def test_a_denoiser_that_is_told_something(recipe, interrupt, settings, told):
    recipes = {name: recipe(f"name={name}", *settings) for name in ("whole", "broken")}
    train_denoiser.main(recipes["whole"], quiet=True)
    interrupt(train_denoiser, 4)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipes["broken"], quiet=True)
    interrupt(train_denoiser)
    train_denoiser.main(recipes["broken"], quiet=True)
    whole, broken = (recipes[name].folder for name in ("whole", "broken"))
    assert_equal(weights(broken / "denoiser"), weights(whole / "denoiser"))
    pipe = load_pipeline(whole)
    one, untold = (pipe(cond=cond, generator=torch.Generator().manual_seed(0)).latents for cond in (told, None))
    assert one.shape == untold.shape and not torch.equal(one, untold)
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


def test_a_source_that_has_changed_since_its_latents_were_cached(recipe):
    told = ["name=told", "data.condition=label", "data.condition_column=sentiment", "data.train_size=150"]
    train_autoencoder.main(recipe(*told), quiet=True)
    cache = recipe(*told).folder / "train" / "latents.safetensors"
    latents = load_latents(recipe(*told).folder, load_codec(recipe(*told).folder).digest())
    save_latents(recipe(*told).folder, latents[:-1], load_codec(recipe(*told).folder).digest())
    with pytest.raises(ResumeError, match="holds 149 texts, but storyworld now has 150"):
        train_denoiser.main(recipe(*told), quiet=True)
    assert cache.exists()


def test_sources_that_are_all_too_long_are_told_before_training(recipe, tmp_path):
    rows = [{"text": story.text, "label": f"{i} so " * 300} for i, story in enumerate(storyworld.sample(40, 3))]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"the shortest training source has .* raise autoencoder\.max_tokens"):
        train_autoencoder.main(recipe("name=long", f"data.source={file}", "data.condition=text"), quiet=True)
    assert not recipe("name=long").folder.exists()


def test_a_language_model_keeps_to_the_texts_that_its_checkpoint_learnt_from(recipe):
    shutil.rmtree("checkpoints/tiny-ar")
    with pytest.raises(ResumeError, match="seed was 0, is 1"):
        train_ar.main(recipe("seed=1"), quiet=True)


def test_sources_that_are_too_long_are_left_out(recipe, capsys, tmp_path):
    rows = [{"text": story.text, "label": f"{i} so " * (300 if i % 2 else 1)}
            for i, story in enumerate(storyworld.sample(60, 3))]  # fmt: skip
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = recipe("name=pairs", f"data.source={file}", "data.condition=text", "data.train_size=50")
    train_denoiser.main(asked, quiet=True)
    said = re.search(r"(\d+) texts with a source of at most 96 tokens; left out: (\d+)", capsys.readouterr().out)
    kept, lost = map(int, said.groups())
    assert kept > 10 and lost > 10 and kept + lost <= 50


def test_the_averaged_weights_are_the_ones_saved(tiny, recipe):
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe("train_denoiser.ema_decay=0"), quiet=True)  # the last weights as they are
    last, averaged = weights(recipe().folder / "denoiser"), weights(tiny.checkpoint / "denoiser")
    assert any(not torch.equal(last[name], averaged[name]) for name in last)


def test_the_denoiser_makes_up_for_a_lost_latent_cache(tiny, recipe, capsys):
    folder = recipe().folder
    undo_denoiser(folder)
    (folder / "train" / "latents.safetensors").unlink()
    train_denoiser.main(recipe(), quiet=True)
    assert "encoding 200 texts" in capsys.readouterr().out
    found, expected = (
        load_file(place / "train" / "latents.safetensors")["latents"] for place in (folder, tiny.checkpoint)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_looking_at_samples_changes_nothing_in_what_is_trained(tiny, recipe):
    folder = recipe().folder
    shutil.rmtree(folder)
    looks = (
        "train_autoencoder.sample_every=2",
        "train_denoiser.sample_every=2",
        "train_denoiser.save_every=100",
    )
    train_autoencoder.main(recipe(*looks))
    train_denoiser.main(recipe(*looks))
    for part in ("autoencoder", "denoiser"):
        assert_equal(weights(folder / part), weights(tiny.checkpoint / part))


@pytest.mark.parametrize("stage", [train_autoencoder, train_denoiser], ids=lambda stage: stage.__name__)
def test_a_damaged_resume_state_is_met_with_a_way_out(recipe, interrupt, stage):
    folder = recipe().folder
    shutil.rmtree(folder) if stage is train_autoencoder else undo_denoiser(folder)
    interrupt(stage, 4)
    with pytest.raises(Interrupted):
        stage.main(recipe(), quiet=True)
    (state,) = (file for file in (folder / "train").iterdir() if file.name != "latents.safetensors")
    state.write_bytes(state.read_bytes()[:-10])
    with pytest.raises(ResumeError, match="Delete it to start afresh"):
        stage.main(recipe(), quiet=True)
    state.unlink()
    interrupt(stage)
    stage.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 0]


def test_an_autoencoder_goes_on_with_its_own_settings_only(recipe, interrupt):
    shutil.rmtree(recipe().folder)
    interrupt(train_autoencoder, 4)
    with pytest.raises(Interrupted):
        train_autoencoder.main(recipe(), quiet=True)
    with pytest.raises(ResumeError, match=r"train_autoencoder\.steps was 6, is 8.*Set name="):
        train_autoencoder.main(recipe("train_autoencoder.steps=8"), quiet=True)


def test_a_denoiser_goes_on_with_its_own_settings_only(recipe, interrupt):
    undo_denoiser(recipe().folder)
    interrupt(train_denoiser, 4)
    with pytest.raises(Interrupted):
        train_denoiser.main(recipe("train_denoiser.learning_rate=0.001"), quiet=True)
    with pytest.raises(ResumeError, match=r"train_denoiser\.learning_rate was 0\.001, is 0\.002"):
        train_denoiser.main(recipe("train_denoiser.learning_rate=0.002"), quiet=True)


def test_a_denoiser_not_begun_may_have_any_settings(recipe):
    undo_denoiser(recipe().folder)
    train_denoiser.main(
        recipe("denoiser.depth=2", "diffusion.prediction=x0", "train_denoiser.steps=2"), quiet=True
    )
    config = load_pipeline(recipe().folder).denoiser.config
    assert (config.depth, config.prediction) == (2, "x0")


def test_a_vocabulary_that_is_there_is_kept_by_a_backbone_that_was_interrupted(tiny, recipe, interrupt):
    folder = Path(recipe().backbone.path)
    shutil.rmtree(folder)
    interrupt(pretrain_backbone, 1)
    with pytest.raises(Interrupted):
        pretrain_backbone.main(recipe(), quiet=True)
    assert (folder / "tokenizer.json").exists()
    interrupt(pretrain_backbone)
    pretrain_backbone.main(recipe(), quiet=True)
    assert_equal(weights(folder), weights(tiny.root / folder))


# A run that is finished


def test_a_finished_run_says_so_and_does_nothing(recipe, fingerprint, capsys):
    before = fingerprint("checkpoints")
    train_autoencoder.main(recipe(), quiet=True)
    assert "already trained" in capsys.readouterr().out
    train_denoiser.main(recipe(), quiet=True)
    assert "already holds a finished pipeline" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before


def test_a_finished_backbone_is_not_overwritten(recipe, fingerprint):
    before = fingerprint("checkpoints")
    with pytest.raises(BackboneError, match="already holds a finished backbone"):
        pretrain_backbone.main(recipe(), quiet=True)
    assert fingerprint("checkpoints") == before


def test_the_table_of_a_backbone_counts_the_texts_that_it_copies(tiny, recipe, monkeypatch):
    codec = load_codec(tiny.checkpoint)
    texts = [story.text for story in storyworld.sample(4, 1)]
    start = torch.zeros(4, 1, dtype=torch.long)

    def copies(spoilt):
        def generate(ids, **options):
            written = torch.cat([start, ids], dim=1)
            written[:spoilt, 3] = 7
            return written

        monkeypatch.setattr(codec.text_model, "generate", generate)
        return pretrain_backbone.table(codec.text_model, codec.tokenizer, texts, recipe()).splitlines()[-1]

    assert copies(0).endswith(" 1.000") and copies(1).endswith(" 0.750")
    monkeypatch.setattr(codec.text_model, "generate", lambda ids, **options: start)  # it stops at once
    last = pretrain_backbone.table(codec.text_model, codec.tokenizer, texts, recipe()).splitlines()[-1]
    assert last == "unmasked texts copied exactly   0.000"


def test_a_finished_autoencoder_is_not_taken_for_one_of_other_settings(recipe, fingerprint):
    before = fingerprint("checkpoints")
    for stage in (train_autoencoder, train_denoiser):
        with pytest.raises(ResumeError, match=r"autoencoder\.num_latents was 3, is 5"):
            stage.main(recipe("autoencoder.num_latents=5"), quiet=True)
    assert fingerprint("checkpoints") == before


def test_a_language_model_that_was_interrupted_is_the_same_in_the_end(tiny, recipe, interrupt, monkeypatch):
    monkeypatch.setattr(train_ar, "SAVE_EVERY", 2)
    shutil.rmtree("checkpoints/tiny-ar")
    interrupt(train_ar, 3)
    with pytest.raises(Interrupted):
        train_ar.main(recipe(), quiet=True)
    interrupt(train_ar)
    train_ar.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 2]
    assert_equal(weights("checkpoints/tiny-ar"), weights(tiny.ar))


def test_a_finished_language_model_says_so(recipe, fingerprint, capsys):
    before = fingerprint("checkpoints")
    train_ar.main(recipe(), quiet=True)
    assert "already holds a finished model" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before


def test_a_language_model_needs_the_backbones_vocabulary(recipe):
    with pytest.raises(BackboneError, match="train the backbone first"):
        train_ar.main(recipe("backbone.path=checkpoints/none", "name=other"), quiet=True)


def test_a_language_model_is_told_classes_and_is_measured_by_class(recipe):
    """Half of the stories are told their tense: the model knows both, writes for both, and can be told nothing."""
    told = ("name=told", "data.condition=label", "data.condition_column=tense", "train_ar.told_nothing=0.5")
    train_ar.main(recipe(*told), quiet=True)
    generator = LanguageModelGenerator("checkpoints/told-ar")
    assert generator.classes == ["past", "present"]
    mixed = generator.generate(["past", "present", "past"], 3, 0)
    assert len(mixed) == 3 and mixed == generator.generate(["past", "present", "past"], 3, 0)
    with pytest.raises(UserError, match="told past, present, not 'future'"):
        generator.generate(["future"], 1, 0)
    cli.main(["evaluate", "checkpoints/told-ar", "--json", "m.json", "--num-samples", "2", "--seeds", "1"])
    rows = json.loads(Path("m.json").read_text(encoding="utf-8"))["by_class"]
    assert [(row["attribute"], row["target"], row["judge"]) for row in rows] == [
        ("tense", "past", "oracle"), ("tense", "present", "oracle"),
    ]  # fmt: skip
    flags = ["--json", "m.json", "--num-samples", "2", "--seeds", "1"]
    with pytest.raises(SystemExit, match="was told the classes past, present"):
        cli.main(["evaluate", "checkpoints/told-ar", "--recipe", "checkpoints/tiny/recipe.yaml", *flags])
    with pytest.raises(SystemExit, match=r"train_ar\.told_nothing=1"):
        cli.main(["evaluate", "checkpoints/tiny-ar", "--fluency", "checkpoints/told-ar", *flags])
    train_ar.main(recipe(*told, "name=judge", "train_ar.told_nothing=1"), quiet=True)
    assert LanguageModelGenerator("checkpoints/judge-ar").classes == []


def test_what_a_language_model_is_told_is_read_and_not_learnt(tiny):
    judge = FluencyJudge(tiny.ar)
    ids = torch.tensor([[5, 0, 7, 8, 1], [9, 10, 1, 0, 0]])
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    both = train_ar.next_token_loss(judge.model, ids, mask, [2, 0])
    inputs = torch.cat([torch.full((2, 1), judge.start), ids[:, :-1]], dim=1)
    with torch.no_grad():
        nats = -judge.model(inputs).logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0]
    assert both.item() == pytest.approx((nats[0, 2:].sum() + nats[1, :3].sum()).item() / 6, rel=1e-4)


def test_what_a_finished_run_leaves(tiny):
    names = {file.name for file in tiny.checkpoint.iterdir()}
    parts = {"tokenizer", "text_model", "autoencoder", "denoiser", "scheduler", "model_index.json"}
    assert parts | {"recipe.yaml", "metrics.json", "samples.txt", "train"} <= names
    figures = json.loads((tiny.checkpoint / "metrics.json").read_text(encoding="utf-8"))
    assert figures["training"]["denoiser_steps"] == 6
    assert {"exact_match", "under_noise", "training_minutes"} <= set(figures["reconstruction"])
    assert len((tiny.checkpoint / "samples.txt").read_text(encoding="utf-8").splitlines()) == 20
    assert load_recipe(str(tiny.checkpoint / "recipe.yaml")) == load_recipe(str(tiny.recipe))


def test_the_frozen_backbone_stays_frozen(tiny):
    assert_equal(load_codec(tiny.checkpoint).text_model.state_dict(), {
        name: value.float() for name, value in expected_backbone(tiny).items()
    })  # fmt: skip


def expected_backbone(tiny):
    from transformers import AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM.from_pretrained(tiny.root / "checkpoints" / "tiny-t5").state_dict()


def test_training_learns_something(recipe, monkeypatch):
    """Not much in sixty steps, but the loss of the last is below that of the first."""
    losses = []
    undo_denoiser(recipe().folder)
    monkeypatch.setattr(
        train_denoiser, "report", lambda bar, accelerate, step, loss: losses.append(loss.item())
    )
    train_denoiser.main(recipe("train_denoiser.steps=60", "train_denoiser.batch_size=32"), quiet=True)
    assert len(losses) == 60
    assert sum(losses[-20:]) < sum(losses[:20])


# A corpus of one's own


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
    mine = recipe(*corpus, "backbone.path=checkpoints/mine-t5", "pretrain_backbone.vocab_size=300",
                  "data.max_tokens=200", "autoencoder.max_tokens=200", "train_autoencoder.sample_every=2")  # fmt: skip
    train_denoiser.main(mine)  # not quiet: it looks at unseen texts, of which one is too long
    said = capsys.readouterr().out
    assert "40 texts of at most 200 tokens; left out: 1 too long, 1 blank, 2 repeated, 0 also unseen" in said
    limits = re.findall(r"data\.max_tokens=(\d+) would keep 99% of the training texts, (\d+) all of them", said)
    assert len(limits) == 2 and limits[0] == limits[1]  # before the backbone's training and the autoencoder's
    assert int(limits[0][0]) == int(limits[0][1]) > 200  # one text in 41 is more than one in a hundred
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert (figures["n"], figures["too_long"]) == (4, 1)
    assert len(load_pipeline(mine.folder)(num_samples=2).texts) == 2
    assert Path("checkpoints/mine-t5/model.safetensors").exists()


def test_extra_texts_train_backbone_and_autoencoder_and_not_the_denoiser(recipe, corpus, capsys):
    """The vocabulary knows their words, latents are whitened with theirs, and those cached are the corpus' alone."""
    rows = (json.dumps({"body": f"Zyx number {i} zaps."}) + "\n" for i in range(30))
    Path("more.jsonl").write_text("".join(rows), encoding="utf-8")
    mine = recipe(*corpus, 'data.extra_sources=["more.jsonl"]', "backbone.path=checkpoints/mine-t5",
                  "pretrain_backbone.vocab_size=300", "data.max_tokens=200", "autoencoder.max_tokens=200")  # fmt: skip
    train_denoiser.main(mine, quiet=True)
    assert "30 extra texts that are short enough" in capsys.readouterr().out
    codec = load_codec(mine.folder)
    latents = load_latents(mine.folder, codec.digest())
    assert len(latents) == 40
    theirs = codec.encode([json.loads(row)["body"] for row in Path("more.jsonl").read_text("utf-8").splitlines()])
    mean = torch.cat([latents, theirs]).mean(0)
    assert mean.abs().max() < 0.1 < latents.mean(0).abs().max()  # cached ones were encoded in bfloat16
    assert codec.tokenizer("Zyx")["input_ids"].count(codec.tokenizer.unk_token_id) == 0


def test_another_checkpoints_autoencoder_is_taken_as_it_is(tiny, recipe, capsys):
    """So that one autoencoder, learnt from much text, serves the denoisers of several corpora."""
    rows = [{"words": f"A {kind}, {i}.", "kind": kind} for kind in ("boat", "tree") for i in range(20)]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = ("name=mine", "data.source=mine.jsonl", "data.text_column=words", "data.condition=label",
                "data.condition_column=kind", "autoencoder.path=checkpoints/tiny", "autoencoder.num_latents=99",
                "backbone.path=checkpoints/not-there", "autoencoder.max_tokens=4")  # fmt: skip
    mine = recipe(*settings)
    train_denoiser.main(mine, quiet=True)
    assert "the backbone and the autoencoder of checkpoints/tiny -> checkpoints/mine" in capsys.readouterr().out
    codec, theirs = load_codec(mine.folder), load_codec(tiny.checkpoint)
    assert codec.digest() == theirs.digest()
    figures = json.loads((mine.folder / "metrics.json").read_text(encoding="utf-8"))["reconstruction"]
    assert figures["adopted_from"] == "checkpoints/tiny" and figures["n"] == 4
    assert load_pipeline(mine.folder).denoiser.config.classes == ["boat", "tree"]
    with pytest.raises(DataError, match=r"data\.max_tokens is 200, but the autoencoder of checkpoints/tiny reads 96"):
        train_autoencoder.main(recipe(*settings, "name=other", "data.max_tokens=200"), quiet=True)


def test_a_missing_backbone_outside_of_checkpoints(recipe):
    with pytest.raises(BackboneError, match="no such folder"):
        train_autoencoder.main(recipe("name=other", "backbone.path=elsewhere"), quiet=True)


# The command line


def command(stage, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / "recipes" / f"{stage}.py"), *arguments],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_the_command_trains_and_says_where(workplace, recipe):
    undo_denoiser(recipe().folder)
    run = command("train_denoiser", "tiny.yaml", "train_denoiser.steps=2", "--quiet")
    assert run.returncode == 0, run.stderr
    assert "trained in" in run.stdout
    assert str(Path("checkpoints/tiny")) in run.stdout
    assert "Traceback" not in run.stderr
    assert (recipe().folder / "model_index.json").exists()


def test_three_mistakes_are_all_told_before_anything_begins(workplace, fingerprint):
    before = fingerprint(".")
    run = command(
        "train_autoencoder", "tiny.yaml", "autoencodr.width=8", "data.max_tokens=x", "train_denoiser.steps=0"
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: tiny.yaml: 3 problems")
    for part in ("autoencodr", "did you mean autoencoder?", "data.max_tokens", "train_denoiser.steps"):
        assert part in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert fingerprint(".") == before


@pytest.mark.parametrize(
    "stage", [pretrain_backbone, train_autoencoder, train_denoiser, train_ar], ids=lambda s: s.__name__
)
def test_every_stage_tells_its_usage(stage):
    assert stage.__doc__.count(f"python recipes/{stage.__name__}.py storyworld") == 1


def test_the_batches_of_a_backbone_depend_on_the_step_alone(tiny, recipe):
    codec = load_codec(tiny.checkpoint)
    rows = [list(range(10, 40)), list(range(50, 70))]
    rows = [[*row, codec.tokenizer.eos_token_id] for row in rows]
    once, again, other = (
        pretrain_backbone.masked_batch(
            rows, codec.tokenizer, recipe("pretrain_backbone.mask_rates=[0.5]"), step
        )
        for step in (3, 3, 4)
    )
    assert all(itertools.starmap(torch.equal, zip(once, again, strict=True)))
    assert not torch.equal(once[0], other[0])
    assert [row[row >= 0].tolist() for row in once[2]] == rows  # the labels are the whole texts


@pytest.mark.parametrize("lengths", [(1, 400), (400, 1)])
def test_texts_that_are_all_too_long_are_told_before_training(workplace, recipe, lengths):
    folder = workplace / "long"
    folder.mkdir()
    for name, words in zip(("train", "valid"), lengths, strict=True):
        texts = [" ".join([f"word{i}"] * words) for i in range(8)]
        (folder / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
    with pytest.raises(UserError, match=r"data\.max_tokens"):
        train_autoencoder.main(recipe("name=long", f"data.source={folder}"), quiet=True)
    assert not (workplace / "checkpoints" / "long").exists()


@pytest.mark.parametrize("project", ["", "stories"])
def test_a_run_logs_to_wandb_only_when_asked(workplace, recipe, monkeypatch, project):
    import wandb

    begun, init = [], wandb.init
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(wandb, "init", lambda **settings: begun.append(settings) or init(**settings))
    undo_denoiser(recipe().folder)
    train_denoiser.main(recipe(f"wandb_project={project}"), quiet=True)
    assert [(run["project"], run["name"]) for run in begun] == ([(project, "tiny denoiser")] if project else [])
