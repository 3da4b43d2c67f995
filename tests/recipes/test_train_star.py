"""The recipe of a language model that thinks: fresh, interrupted, saved, sampled from, and started with mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_star
from runs import Interrupted, assert_equal, weights
from safetensors.torch import load_file
from sentence_models import TEXTS, sentence_codec

from latdiff import cli, open_checkpoint
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec, save_codec
from latdiff.config import RecipeError, load_recipe
from latdiff.data.corpus import DataError
from latdiff.diffusion.sampling import SchedulerError
from latdiff.lm import LanguageModelError, load_language_model
from latdiff.resuming import ResumeError

THINK = """
name: think
dtype: float32
data: {source: words.txt, valid_size: 6, max_tokens: 24}
star: {language_model: gpt2, plan: checkpoints/plan, num_prompts: 3, width: 16, depth: 1, heads: 2}
train_star: {steps: 6, batch_size: 4, splits: 2, warmup_steps: 2, sample_every: 100, save_every: 3}
sampling: {scheduler: ddim, steps: 2}
"""


def fill(folder, writers):
    """Texts, the recipe, a language model, and a checkpoint with a codec."""
    (folder / "words.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (folder / "think.yaml").write_text(THINK, encoding="utf-8")
    for name, place in vars(writers).items():
        shutil.copytree(place, folder / name)
    save_codec(sentence_codec("llama", "encoder"), folder / "checkpoints" / "plan")


def think(*settings):
    return load_recipe("think.yaml", list(settings))


@pytest.fixture(scope="module")
def whole(writers, tmp_path_factory):
    """Working directory of a finished run; to be read, never written to."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("think")
        patch.chdir(root)
        fill(root, writers)
        train_star.main(think(), quiet=True)
    return root


@pytest.fixture
def recipe(writers, tmp_path, monkeypatch):
    """recipe(*settings), in a working directory without a run."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, writers)
    return think


def parts(folder):
    return weights(folder / "planner") | weights(folder / "language_model")


def test_a_run_leaves_a_pipeline_its_plans_and_its_figures(whole, monkeypatch):
    monkeypatch.chdir(whole)
    folder = Path("checkpoints/think")
    assert [file.name for file in (folder / "train").iterdir()] == ["plans"]
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["training"]["star_steps"] == 6
    assert len((folder / "samples.txt").read_text(encoding="utf-8").splitlines()) == 4
    pipe = open_checkpoint(folder)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.num_inference_steps == 2 and type(pipe.scheduler).__name__ == "DDIMScheduler"
    out = pipe("The cat", generator=torch.Generator().manual_seed(0), max_new_tokens=4)
    assert out.texts[0].startswith("The cat") and out.latents.shape == (1, 4, 4)


def test_language_model_and_planner_are_trained_and_the_codec_is_not(whole, recipe):
    folder = whole / "checkpoints" / "think"
    trained = parts(folder)
    _, model = load_language_model(train_star.AutoModelForCausalLM, "gpt2")
    assert not torch.equal(model.state_dict()["transformer.h.0.mlp.c_fc.weight"],
                           trained["transformer.h.0.mlp.c_fc.weight"])
    assert trained["nothing"].any() and trained["head.out.weight"].any()
    assert_equal(weights(folder / "codec"), weights(whole / "checkpoints" / "plan" / "codec"))


def test_plans_are_those_of_whole_texts(whole, monkeypatch):
    """A codec of whole texts takes the end of one for another text."""
    monkeypatch.chdir(whole)
    codec, asked = load_codec("checkpoints/plan"), think()
    tokenizer, model = train_star.load(asked)
    cut = train_star.readable(asked, codec, tokenizer, model, TEXTS)
    assert cut.texts == TEXTS and len(cut.rows) == len(cut.before) == len(cut.behind) == 2 * len(TEXTS)
    for row, before, behind in zip(cut.rows, cut.before, cut.behind, strict=True):
        assert before[0] == model.config.bos_token_id
        assert tokenizer.decode([*before, *behind], skip_special_tokens=True) == TEXTS[row]
    plans = load_file("checkpoints/think/train/plans/00000.safetensors")["latents"]
    assert plans.shape == (36, 4, 4) and plans.dtype == torch.float16  # of as many training texts


def test_plans_of_other_texts_or_another_codec_are_encoded_anew(recipe):
    asked, codec = recipe(), load_codec("checkpoints/plan")
    def cached(count):
        found = train_star.cached_plans(asked, codec, TEXTS[:count], quiet=True)
        return found[range(len(found))]

    first = cached(3)
    torch.testing.assert_close(first.float(), codec.encode(TEXTS[:3]), rtol=2e-3, atol=2e-3)
    (path,) = (asked.folder / train_star.PLANS).glob("*.safetensors")
    written = path.stat().st_mtime_ns
    assert torch.equal(cached(3), first) and path.stat().st_mtime_ns == written
    assert len(cached(2)) == 2
    codec.set_whitening(torch.zeros(16), torch.ones(16))
    assert not torch.equal(cached(2), first[:2])


def test_a_run_that_was_interrupted_is_the_same_in_the_end(whole, recipe, interrupt):
    interrupt(train_star, 4)
    with pytest.raises(Interrupted):
        train_star.main(recipe(), quiet=True)
    interrupt(train_star)
    train_star.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3]
    assert_equal(parts(Path("checkpoints/think")), parts(whole / "checkpoints" / "think"))


def test_texts_are_shown_under_way_and_change_nothing(whole, recipe, capsys):
    train_star.main(recipe("train_star.sample_every=2"), quiet=False)
    shown = capsys.readouterr()
    assert "nats a token" in shown.err + shown.out and " | " in shown.out
    assert_equal(parts(Path("checkpoints/think")), parts(whole / "checkpoints" / "think"))


def test_the_command_is_there_and_a_finished_run_says_so(whole, recipe, capsys, fingerprint):
    shutil.copytree(whole / "checkpoints" / "think", "checkpoints/think")
    before = fingerprint("checkpoints")
    cli.main(["train-star", "think.yaml", "--quiet"])
    assert "already holds a finished pipeline" in capsys.readouterr().out
    assert fingerprint("checkpoints") == before
    cli.main(["check-config", "star-storyworld"])
    assert "language_model: checkpoints/storyworld-ar" in capsys.readouterr().out


def test_mistakes_are_said_before_anything_is_trained(recipe):
    for setting, error, said in (
        ("star.plan=checkpoints/none", CheckpointError, "checkpoints/none"),
        ("star.language_model=nowhere", LanguageModelError, "star.language_model is 'nowhere', which .* train-ar"),
        ("sampling.steps=5000", SchedulerError, r"sampling\.steps is 5000: DDIMScheduler"),
        ("data.max_tokens=4", DataError, "0 cuts are short enough, two are the least"),
    ):
        with pytest.raises(error, match=said):
            train_star.main(recipe(setting), quiet=True)
    with pytest.raises(RecipeError, match=r"star\.width: 16 is not divisible by heads=3"):
        recipe("star.heads=3")
    Path("checkpoints/think").mkdir()
    recipe("train_star.plan_weight=1").save(Path("checkpoints/think/recipe.yaml"), "train_star")
    with pytest.raises(ResumeError, match=r"train_star.plan_weight was 1.0, is 5.0"):
        train_star.main(recipe(), quiet=True)


def test_unseen_texts_that_cannot_be_cut_are_said_before_anything_is_trained(recipe):
    """They are shown at the end, when all is trained."""
    tokenizer, language_model = train_star.load(recipe())
    assert train_star.beginnings(recipe(), tokenizer, language_model, ["owl", TEXTS[0]])
    with pytest.raises(DataError, match=r"words.txt: of 2 unseen texts none can be cut and has fewer than 24 tokens"):
        train_star.beginnings(recipe(), tokenizer, language_model, ["owl", "owl " * 50])
