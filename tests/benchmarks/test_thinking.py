"""The measuring of thoughts, on a model that has learnt nothing: every row, and one figure by hand."""

import json
import sys

import pytest
import torch
from star_models import widened
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import thinking
from latdiff import StarPipeline, StarPlanner, storyworld
from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe
from latdiff.data.splits import Split, split_ids
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.pipelines.files import open_checkpoint
from latdiff.schedule import betas

SAVED = "tests/fixtures/v0/pipeline"


@pytest.fixture(scope="module")
def checkpoint(request, tmp_path_factory):
    """A pipeline with random weights around the codec of an older checkpoint, and a recipe of stories."""
    torch.manual_seed(0)
    folder, codec = tmp_path_factory.mktemp("star"), load_codec(request.config.rootpath / SAVED)
    words = codec.tokenizer
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(words), n_positions=160, n_embd=16, n_layer=1, n_head=2, bos_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
    )).eval()
    planner = StarPlanner(*codec.latent_shape, prompt_dim=16, num_prompts=3, width=16, depth=1, heads=2,
                          codec_digest=codec.digest)
    StarPipeline(
        language_model=model, language_tokenizer=words, planner=widened(planner, 0.3).eval(), codec=codec,
        scheduler=make_scheduler("ddim", betas("tan-3")),
    ).save_pretrained(folder)
    load_recipe("storyworld", ["data.train_size=9", "data.valid_size=6"]).save(folder / "recipe.yaml")
    return folder


@pytest.fixture
def measured(checkpoint, tmp_path, monkeypatch):
    """measured(*flags) -> the document"""

    def run(*flags):
        file = tmp_path / "thinking.json"
        monkeypatch.setattr(sys, "argv", ["thinking", str(checkpoint), "--json", str(file), *flags])
        thinking.main()
        return json.loads(file.read_text(encoding="utf-8"))

    return run


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_row_for_every_plan(measured, checkpoint):
    document = measured("--num-samples", "4", "--steps", "1", "2", "--top-p", "1")
    assert document["top_p"] == 1
    assert document["checkpoint"] == checkpoint.name and document["seed"] == 2 and document["seconds"] > 0
    assert document["machine"] and document["n"] == 4
    assert [row["plan"] for row in document["nats"]] == [
        "the grammar's own", "encoded from the story", "none", "no place for one", "1 steps", "2 steps"]
    assert [row["plan"] for row in document["writing"]] == ["no place for one", "none", "1 steps", "2 steps"]
    floor = document["nats"][0]["nats"]
    for row in document["nats"][1:]:
        assert row["nats"] > floor > 0 and row["excess"] == pytest.approx(row["nats"] - floor)
    assert all(0 <= row["valid"] <= 1 and len(row["samples"]) == 4 for row in document["writing"])
    assert all(0 <= row["valid_plans"] <= row["agreeing_plans"] <= 1 for row in document["writing"][2:])


def test_one_story_is_too_few(measured):
    with pytest.raises(UserError, match="--num-samples is 1, must be 2 or more"):
        measured("--num-samples", "1")


def test_a_checkpoint_of_other_texts_is_refused(tmp_path):
    load_recipe("storyworld", ["data.source=words.txt"]).save(tmp_path / "recipe.yaml")
    with pytest.raises(UserError, match=r"was trained on words.txt, must be on storyworld"):
        thinking.unseen(tmp_path, 3, 0)


def test_the_grammar_s_own_nats_are_exact():
    story = storyworld.sample(1, 4)[0].text
    words = story.split()
    parts = [Split(" ".join(words[:place]), " ".join(words[place:])) for place in (1, len(words) - 1)]
    found = [thinking.grammar_nats(one) for one in parts]
    assert -storyworld.log_prob(story) > found[0] > found[1] >= 0


@torch.no_grad()
def test_nats_are_those_of_the_continuation_alone(checkpoint):
    pipe = open_checkpoint(checkpoint)
    splits = thinking.readable(pipe, thinking.unseen(checkpoint, 3, 0))
    found = thinking.nats(pipe, splits, thinking.plans_read(pipe, None, 0))
    prompts = pipe.prompts(None, [torch.Generator()])
    embed = pipe.language_model.get_input_embeddings()
    for one, (before, behind), value in zip(splits, split_ids(pipe.language_tokenizer, splits), found, strict=True):
        parts = [embed(torch.tensor([pipe.ids([one.before])[0]])), prompts, embed(torch.tensor([behind[:-1]]))]
        chances = pipe.language_model(inputs_embeds=torch.cat(parts, 1)).logits[0, len(before) + 3 :].log_softmax(-1)
        assert value == pytest.approx(-chances.gather(1, torch.tensor(behind)[:, None]).sum().item(), rel=1e-4)
    alone = thinking.nats(pipe, splits, lambda rows: None)
    assert alone != found
