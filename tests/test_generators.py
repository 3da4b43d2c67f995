"""Who writes texts: one contract for all, and what is each one's own."""

from types import SimpleNamespace

import pytest
import torch

from latdiff import storyworld
from latdiff.codecs.files import CheckpointError
from latdiff.errors import UserError
from latdiff.evaluation.generators import BestOf, LanguageModelGenerator, PipelineGenerator, TextsGenerator
from latdiff.evaluation.judges import FluencyJudge
from latdiff.heads.attribute import AttributeHead
from latdiff.lm import LanguageModelError, class_prefix

WRITTEN = [f"text {number}" for number in range(12)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "written.txt"
    path.write_text("\n".join(WRITTEN), encoding="utf-8")
    return str(path)


@pytest.fixture(params=["pipeline", "language model", "nucleus", "file"])
def generator(request, talkative, tiny, file):
    return {
        "pipeline": lambda: PipelineGenerator(talkative, "ddim", 2),
        "language model": lambda: LanguageModelGenerator(tiny.ar),
        "nucleus": lambda: LanguageModelGenerator(tiny.ar, top_p=0.5),
        "file": lambda: TextsGenerator(file),
    }[request.param]()


def test_the_same_seed_gives_the_same_texts_and_another_one_others(generator):
    first, again, other = (generator.generate(None, 4, seed) for seed in (1, 1, 2))
    assert len(first) == 4 and all(isinstance(text, str) for text in first)
    assert first == again != other


def test_the_global_random_numbers_are_left_alone(generator):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generator.generate(None, 2, 0)
    assert torch.rand(1) == expected


def test_what_was_told_nothing_refuses_a_prompt(generator):
    assert generator.classes == []
    with pytest.raises(UserError):
        generator.generate(["music"] * 2, 2, 0)


def test_settings_say_who_writes(talkative, tiny, file):
    assert PipelineGenerator(talkative, "ddim", 2).settings == {"scheduler": "ddim", "steps": 2}
    assert PipelineGenerator(talkative).settings == {}
    assert LanguageModelGenerator(tiny.ar).settings == {"sampler": "ancestral"}
    assert LanguageModelGenerator(tiny.ar, 0.9).settings == {"sampler": "nucleus 0.9"}
    assert TextsGenerator(file).settings == {"file": "written.txt"}


def test_a_pipeline_keeps_its_own_scheduler_even_when_sampling_fails(pipe):
    own = pipe.scheduler
    with pytest.raises(UserError):
        PipelineGenerator(pipe, "ddim", 10**6).generate(None, 1, 0)
    assert pipe.scheduler is own


def test_a_file_gives_every_seed_texts_of_its_own_and_says_when_there_are_none_left(file):
    generator = TextsGenerator(file)
    assert generator.generate(None, 5, 0) + generator.generate(None, 5, 1) == WRITTEN[:10]
    with pytest.raises(UserError, match="holds 12 texts, and seed 2 takes those from 11 to 15"):
        generator.generate(None, 5, 2)


def first_pieces(generator, n):
    """The first piece of each of n texts: there is room for one more after the beginning."""
    drawn = []

    def batch_decode(ids, **_):
        drawn.append(torch.tensor([row[0] for row in ids]))
        return [""] * len(ids)

    generator.tokenizer = SimpleNamespace(batch_decode=batch_decode)
    generator.model.config.n_positions = 2
    generator.generate(None, n, 0)
    return torch.cat(drawn)


def test_a_language_model_samples_from_its_own_distribution(tiny):
    generator, nucleus = LanguageModelGenerator(tiny.ar), LanguageModelGenerator(tiny.ar, top_p=0.3)
    with torch.no_grad():
        start = torch.tensor([[generator.start]], device=generator.model.device)
        probabilities = generator.model(start).logits[0, -1].softmax(-1)
    values, pieces = probabilities.sort(descending=True)
    found = first_pieces(generator, 4000)
    shares = torch.stack([(found == piece).float().mean() for piece in pieces[:20]])
    assert torch.allclose(shares, values[:20], atol=4 * (values[0] / 4000).sqrt().item())
    likely = pieces[: int((values.cumsum(0) < 0.3).sum()) + 1]
    assert set(first_pieces(nucleus, 500).tolist()) <= set(likely.tolist())


def test_a_language_models_text_depends_on_its_place_and_its_class_alone(tiny):
    generator = LanguageModelGenerator(tiny.ar)
    assert generator.generate(None, 5, 0)[:2] == generator.generate(None, 2, 0)
    generator.classes, generator.BATCH = ["music", "a walk to the harbor"], 2
    music, walk, both = ([generator.classes[which] for which in row] for row in ([0] * 3, [1] * 3, [0, 1, 0]))
    of_music, of_walk, of_both = (generator.generate(told, 3, 0) for told in (music, walk, both))
    assert of_both == [of_music[0], of_walk[1], of_music[2]]


@pytest.mark.parametrize("top_p", [0, 1.5, -1])
def test_a_nucleus_that_cannot_be(tiny, top_p):
    with pytest.raises(UserError, match="top_p"):
        LanguageModelGenerator(tiny.ar, top_p)


def test_no_language_model_at_all(tmp_path):
    with pytest.raises(LanguageModelError):
        LanguageModelGenerator(tmp_path)


def test_a_class_is_read_before_the_text(tiny):
    judge = FluencyJudge(tiny.ar)
    pieces = class_prefix(judge.tokenizer, "music", judge.start)
    assert pieces[-1] == judge.start
    assert judge.tokenizer.decode(pieces[:-1]) == "music"
    assert judge.tokenizer.eos_token_id not in pieces


def head_of(pipe, digest, seed):
    weight = torch.randn(2, *pipe.codec.latent_shape, generator=torch.Generator().manual_seed(seed))
    return AttributeHead.from_weights(["low", "high"], weight, torch.zeros(2), name=f"tone {seed}", codec_digest=digest)


def test_the_best_of_several_is_the_one_that_the_heads_like_most(pipe):
    stories = [story.text for story in storyworld.sample(6, 3)]
    heads = [head_of(pipe, pipe.codec.digest, seed) for seed in (0, 1)]
    likely = [head.predict_proba(pipe.codec.encode(stories))[:, 1] for head in heads]
    written = BestOf([*stories, "harbor " * 300, stories[0]], pipe.codec, 2)  # one is too long to be read
    for chosen, liked in ((heads[:1], likely[0]), (heads, likely[0] * likely[1])):
        expected = [stories[pair + (liked[pair + 1] > liked[pair])] for pair in (0, 2, 4)]
        assert written.toward([head.toward("high") for head in chosen]) == [*expected, stories[0]]


def test_texts_that_cannot_be_read_are_chosen_from_all_the_same(pipe):
    guides = [head_of(pipe, pipe.codec.digest, 0).toward("high")]
    assert BestOf(["harbor " * 300, "harbor " * 400], pipe.codec, 2).toward(guides) == ["harbor " * 300]


def test_a_head_of_another_codec_does_not_choose(pipe):
    with pytest.raises(CheckpointError, match="another"):
        BestOf(["the harbor", "the lake"], pipe.codec, 2).toward([head_of(pipe, "another", 0).toward("high")])
