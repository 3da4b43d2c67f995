"""One suite that every generator of texts passes, two toys included, and what is each one's own."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import GPT2Config, GPT2LMHeadModel

import latdiff as package
from latdiff import cli, storyworld
from latdiff.checkpoints import CheckpointError
from latdiff.errors import UserError
from latdiff.evaluation.generators import (
    BestOf,
    Generator,
    LanguageModelGenerator,
    PipelineGenerator,
    TextsGenerator,
)
from latdiff.evaluation.judges import FluencyJudge
from latdiff.heads.attribute import AttributeHead
from latdiff.lm import LanguageModelError, class_prefix
from latdiff.nats import Nats
from latdiff.pipelines.files import open_checkpoint

WRITTEN = [f"text {number}" for number in range(12)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "written.txt"
    path.write_text("\n".join(WRITTEN), encoding="utf-8")
    return str(path)


class Storyteller(Generator):
    """A toy: stories of the world itself."""

    settings = {"writer": "the world"}  # noqa: RUF012

    def generate(self, prompts, n, seed):
        if prompts is not None:
            raise UserError("the world is asked for nothing")
        return [story.text for story in storyworld.sample(n, seed)]

    def log_prob(self, texts, seed=0):
        return Nats(torch.tensor([storyworld.log_prob(text) for text in texts]).nan_to_num(neginf=torch.nan), "exact")


class StoryPipeline(DiffusionPipeline):
    """A toy of a pipeline: it has no codec and no denoiser, and a bound by sampling."""

    def __init__(self, topic: str = "music"):
        super().__init__()
        self.register_to_config(topic=topic)

    def __call__(self, num_samples, generator):
        stories = storyworld.sample(num_samples, generator.initial_seed(), topic=self.config.topic)
        return SimpleNamespace(texts=[story.text for story in stories], latents=torch.zeros(num_samples, 1, 1))

    def log_prob(self, texts, generator):
        looseness = torch.rand(len(texts), generator=generator)
        return Nats(torch.tensor([storyworld.log_prob(text) for text in texts]) - looseness, "bound",
                    torch.full((len(texts),), 12**-0.5))


@pytest.fixture(params=["pipeline", "language model", "nucleus", "file", "toy", "pipeline of another kind"])
def generator(request, talkative, tiny, file):
    return {
        "pipeline": lambda: PipelineGenerator(talkative, "ddim", 2),
        "language model": lambda: LanguageModelGenerator(tiny.ar),
        "nucleus": lambda: LanguageModelGenerator(tiny.ar, top_p=0.5),
        "file": lambda: TextsGenerator(file),
        "toy": Storyteller,
        "pipeline of another kind": lambda: PipelineGenerator(StoryPipeline()),
    }[request.param]()


def test_the_same_seed_gives_the_same_texts_and_another_one_others(generator):
    first, again, other = (generator.generate(None, 4, seed) for seed in (1, 1, 2))
    assert len(first) == 4 and all(isinstance(text, str) for text in first)
    assert first == again != other


def test_what_is_measured_is_what_is_written(generator):
    texts, figures = generator.measured(4, 1)
    assert texts == generator.generate(None, 4, 1)
    assert all(figure >= 0 for figure in figures.values())
    json.dumps(generator.settings | figures)


def test_a_likelihood_is_a_number_of_nats_for_each_text_or_there_is_none(generator):
    texts = [story.text for story in storyworld.sample(3, 4)]
    found = generator.log_prob(texts, 1)
    if found is None:
        assert isinstance(generator, TextsGenerator) or hasattr(generator.pipe, "codec")
        return
    assert found.kind in ("exact", "bound")
    assert found.values.shape == (3,) and (found.values < 0).all()
    assert found.standard_errors is None or found.standard_errors.shape == (3,)
    assert torch.equal(found.values, generator.log_prob(texts, 1).values)
    if found.standard_errors is None:  # each text has its own, whatever stands beside it
        alone = torch.cat([generator.log_prob([text], 2).values for text in texts])
        torch.testing.assert_close(found.values, alone, rtol=1e-5, atol=1e-3)
    else:
        assert not torch.equal(found.values, generator.log_prob(texts, 2).values)


def test_the_global_random_numbers_are_left_alone(generator):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    generator.generate(None, 2, 0)
    generator.log_prob(["a text"])
    assert torch.rand(1) == expected


def test_an_unconditional_generator_refuses_a_prompt(generator):
    assert list(generator.classes) == []
    with pytest.raises((UserError, TypeError)):  # of a foreign pipeline's call, that it takes no cond
        generator.generate(["music"] * 2, 2, 0)


def test_there_is_a_prompt_for_every_text(generator):
    with pytest.raises((UserError, ValueError)):
        generator.generate(["music"], 2, 0)


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


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_a_pipelines_figures_hold_its_pace_and_the_round_trip(pipe, keep):
    generator = PipelineGenerator(pipe, "ddim", 2, keep=keep)
    _, figures = generator.measured(2, 0)
    assert {"seconds", "texts_per_second"} <= figures.keys() <= {"seconds", "texts_per_second", "round_trip"}
    assert generator.settings.get("keep", 1.0) == keep


def test_nothing_is_known_of_how_a_files_texts_were_written(file):
    assert TextsGenerator(file).measured(2, 0)[1] == {}


# A pipeline of another kind, opened and measured by the class that its folder names


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    monkeypatch.setattr(package, "StoryPipeline", StoryPipeline, raising=False)
    StoryPipeline("pets").save_pretrained(tmp_path / "stories")
    return tmp_path / "stories"


def test_a_checkpoint_is_opened_as_the_class_that_it_names(foreign, tiny):
    assert isinstance(open_checkpoint(foreign), StoryPipeline)
    assert type(open_checkpoint(tiny.checkpoint)) is package.LatentTextDiffusionPipeline


def test_a_class_that_latdiff_does_not_have_is_refused(foreign, monkeypatch):
    monkeypatch.delattr(package, "StoryPipeline")
    with pytest.raises(CheckpointError, match="names the class StoryPipeline, which this latdiff cannot open"):
        open_checkpoint(foreign)
    (foreign / "model_index.json").write_text('{"_class_name": "load_codec"}', encoding="utf-8")
    with pytest.raises(CheckpointError, match="names the class load_codec"):
        open_checkpoint(foreign)


def test_a_pipeline_of_another_kind_is_evaluated(foreign, tiny, tmp_path, capsys):
    words = ["evaluate", str(foreign), "--quiet", "--num-samples", "4", "--seeds", "2", "--json",
             str(tmp_path / "a.json")]
    with pytest.raises(SystemExit, match="no recipe"):
        cli.main(words)
    with pytest.raises(SystemExit, match="is another pipeline, which does not take --samplers and --top-p; leave that"):
        cli.main([*words, "--samplers", "ddim:2", "--top-p", "0.5"])
    cli.main([*words, "--recipe", str(tiny.recipe)])
    (row,) = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["unconditional"]
    assert row["validity"] == 1
    assert {storyworld.read(text).attributes["topic"] for text in row["samples"]} == {"pets"}
    assert "valid 1.000" in capsys.readouterr().out


def test_other_commands_refuse_a_pipeline_of_another_kind(foreign):
    with pytest.raises(SystemExit, match="is a StoryPipeline, which only `latdiff evaluate` takes"):
        cli.main(["sample", str(foreign)])


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
    of_music, of_walk, of_both = (generator.generate(labels, 3, 0) for labels in (music, walk, both))
    assert of_both == [of_music[0], of_walk[1], of_music[2]]


class Letters:
    """A tokenizer of one letter a token, as tokenizers of transformers are called."""

    unk_token_id, eos_token_id, all_special_ids = 2, 1, (0, 1, 2)

    def __init__(self, ends=True):
        self.ends = [1] * ends

    def __call__(self, texts, **settings):
        return SimpleNamespace(input_ids=[[{"a": 3, "b": 4}.get(letter, 2) for letter in text] + self.ends
                                          for text in texts])

    def convert_tokens_to_ids(self, tokens):
        return [2] * len(tokens)

    def batch_decode(self, ids, skip_special_tokens):
        return ["".join("^.?ab"[one] for one in row if one != self.eos_token_id) for row in ids]


@pytest.fixture(params=[True, False], ids=["the tokenizer writes an end", "it writes none"])
def letters(request, tiny):
    """A language model of a, b, an unknown piece, a beginning and an end, with room for six of them."""
    torch.manual_seed(1)
    generator = LanguageModelGenerator(tiny.ar)
    config = GPT2Config(vocab_size=5, n_positions=7, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=1,
                        initializer_range=0.15, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    generator.model, generator.tokenizer = GPT2LMHeadModel(config).eval(), Letters(request.param)
    return generator


def test_a_language_models_likelihood_is_that_of_the_texts_it_writes(letters):
    written, texts = Counter(letters.generate(None, 4000, 0)), ["", "a", "b", "aa", "ab", "ba", "bb"]
    found = letters.log_prob(texts).values.exp()
    assert (found > 0.002).all()
    for text, share in zip(texts, found.tolist(), strict=True):
        assert written[text] / 4000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 4000))


def test_a_language_model_says_nothing_of_texts_that_it_cannot_read(letters):
    values = letters.log_prob(["aaaaa", "aaaaaa", "axa"]).values  # an end is the sixth token, then the seventh
    assert values.isnan().tolist() == [False, True, True]


def test_a_language_model_that_ends_no_text_has_no_likelihood(letters):
    letters.model.generation_config.eos_token_id = None
    assert letters.log_prob(["a"]) is None


def test_what_samples_from_a_language_model_is_no_matter(tiny):
    texts = [story.text for story in storyworld.sample(2, 4)]
    assert torch.equal(*(LanguageModelGenerator(tiny.ar, top_p).log_prob(texts).values for top_p in (1, 0.5)))


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
