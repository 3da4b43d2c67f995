"""The sentence codec's recipe, and a denoiser on it: fresh, interrupted, and started with mistakes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from latdiff.recipes import train_denoiser, train_sentence
from latdiff.recipes.writing import RAW, WritingLoss, encoded
from runs import Interrupted, cached, weights
from sentence_models import KINDS, LABELS, TEXTS
from sentence_runs import assert_same_codec, nats, words

from latdiff import cli, fit_head
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec
from latdiff.codecs.protocol import TextError
from latdiff.config import RecipeError
from latdiff.data.corpus import DataError
from latdiff.errors import UserError
from latdiff.models.writer import SentenceModelError, load_writer, writer_features
from latdiff.pipelines.files import open_checkpoint
from latdiff.resuming import ResumeError


@pytest.fixture
def pipe(whole, monkeypatch):
    monkeypatch.chdir(whole)
    loaded = open_checkpoint("checkpoints/words")
    loaded.set_progress_bar_config(disable=True)
    return loaded


# From texts to samples


def test_a_run_leaves_a_codec_its_latents_and_its_figures(whole, recipe):
    folder = whole / "checkpoints" / "codec"
    assert [file.name for file in (folder / "train").iterdir()] == ["latents"]
    assert {file.name for file in folder.iterdir()} == {
        "codec", "train", "metrics.json", "metrics.jsonl", "recipe.yaml"}
    figures = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["meaning"]
    assert figures["n"] == 4 and figures["decoding"] == "sampled" and figures["dtype"]
    assert 0 <= figures["token_accuracy"] <= 1 and -1 <= figures["cosine"] <= 1
    codec = load_codec(folder)
    latents = cached(recipe(), folder)
    assert latents.shape == (36, 4, 4)
    torch.testing.assert_close(latents.mean(0), torch.zeros(4, 4), rtol=0, atol=1e-4)
    assert codec.config.language_model == "llama" and codec.config.encoder == "encoder"


def test_prompts_and_updates_are_trained_and_nothing_else(whole, recipe):
    codec = load_codec(whole / "checkpoints" / "codec")
    untrained = train_sentence.build(words())
    for name, value in untrained.soft_prompts.state_dict().items():
        assert not torch.equal(value, codec.soft_prompts.state_dict()[name])
    adapter = weights(whole / "checkpoints" / "codec" / "codec" / "adapter")
    assert adapter and all(value.any() for value in adapter.values())
    assert codec.config.writer_digest == untrained.config.writer_digest
    rows = torch.tensor([[5, 6, 7]])
    assert not torch.equal(codec.language_model(rows).logits, load_writer("llama")[1](rows).logits)


def test_more_training_makes_texts_likelier(recipe):
    found = []
    for name, steps in (("little", 1), ("much", 100)):
        run = recipe(f"name={name}", f"train_sentence.steps={steps}", "train_sentence.learning_rate=0.01")
        train_sentence.main(run, quiet=True)
        found.append(nats(run.folder, TEXTS))
    assert found[1] < found[0] - 1


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_texts_go_on_from_first_words(recipe, capsys):
    started = recipe("data.condition=start", "name=started")
    train_denoiser.main(started, quiet=True)
    assert [file.name for file in (started.folder / "train").iterdir()] == ["latents"]  # sources are trained with alone
    pipe = open_checkpoint("checkpoints/started")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.codec.continues and pipe.denoiser.config.source_dim == 16

    def draw(*given, **settings):
        return pipe(*given, generator=torch.Generator().manual_seed(0), **settings)

    one, two = draw("the big", num_samples=3), draw(["the big", "a"], num_samples=3)
    assert one.texts == two.texts[:3] and torch.equal(one.latents, two.latents[:3])
    assert not torch.equal(one.latents, draw(num_samples=3).latents)
    assert draw("the big", num_samples=3, guidance_scale=2.0).latents.isfinite().all()
    latents = one.latents[:1].expand(3, -1, -1)
    told = [pipe.codec.generate(latents, [start] * 3, preset="greedy").texts for start in ("the big", "a small red")]
    assert told[0] != told[1] and len(set(told[0])) == 1
    capsys.readouterr()
    cli.main(["sample", "checkpoints/started", "--quiet", "--prompt", "the big", "--num-samples", "2"])
    assert all(line.startswith("the big ") for line in capsys.readouterr().out.strip().splitlines())
    with pytest.raises(SystemExit, match=r"--cond is 'big', but the texts of .* go on from first words"):
        cli.main(["sample", "checkpoints/started", "--quiet", "--cond", "big"])
    for bad, said in (("", "1 of 1 sources are empty"), ("a " * 60, "has 61 tokens, more"), ("\ud800", "surrogate")):
        with pytest.raises(TextError, match=said):
            pipe(bad)


def test_a_prompt_is_refused_by_texts_that_go_on_from_none(pipe):
    with pytest.raises(SystemExit, match="do not go on from first words"):
        cli.main(["sample", "checkpoints/words", "--quiet", "--prompt", "the big"])
    with pytest.raises(SystemExit, match="give one of them"):
        cli.main(["sample", "checkpoints/words", "--quiet", "--prompt", "the big", "--cond", "size"])


@pytest.mark.filterwarnings("ignore:head 'kind' is right on")
def test_a_pipeline_samples_by_class_and_guide(pipe):
    assert pipe.denoiser.config.classes == ["colour", "size"]
    out = pipe("size", num_samples=3, generator=torch.Generator().manual_seed(0))
    assert len(out.texts) == len(out.cut) == 3
    assert pipe("size", num_samples=3, generator=torch.Generator().manual_seed(0)).texts == out.texts
    head = fit_head(pipe.codec, TEXTS, LABELS, name="kind")
    steered = pipe("size", num_samples=3, guides=head.toward("colour", 3.0), guidance_scale=2.0,
                   generator=torch.Generator().manual_seed(0))
    assert not torch.equal(steered.latents, out.latents) and steered.latents.isfinite().all()
    greedy = pipe("size", num_samples=3, decode_options="greedy", generator=torch.Generator().manual_seed(0))
    assert torch.equal(greedy.latents, out.latents) and greedy.texts != out.texts
    assert len(pipe("size", decode_options={"preset": "beam", "num_beams": 2}).texts) == 1
    with pytest.raises(UserError, match="no decoding 'ld4lg', only sampled, careful, greedy, beam"):
        pipe("size", decode_options="ld4lg")


def test_a_sample_is_the_same_whatever_is_sampled_beside_it(pipe):
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    together = pipe("size", num_samples=4, generator=seeds).texts
    alone = [pipe("size", generator=torch.Generator().manual_seed(seed)).texts[0] for seed in range(4)]
    assert together == alone
    seeds = [torch.Generator().manual_seed(seed) for seed in range(4)]
    assert pipe("size", num_samples=4, generator=seeds, batch_size=3).texts == together


@pytest.mark.filterwarnings("ignore:head 'kind' is right on")
def test_a_pipeline_edits_and_interpolates(pipe):
    head = fit_head(pipe.codec, TEXTS, LABELS, name="kind")
    edited = pipe.edit(TEXTS[:2], head.toward("size", 3.0), cond="size", generator=torch.Generator().manual_seed(0))
    assert len(edited.texts) == 2 and edited.latents.isfinite().all()
    between = pipe.interpolate(TEXTS[0], TEXTS[7], n=3)
    assert len(between.texts) == 3
    ends = pipe.codec.encode([TEXTS[0], TEXTS[7]])
    torch.testing.assert_close(between.latents[[0, 2]], ends, rtol=1e-3, atol=1e-3)


def test_a_saved_pipeline_writes_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = open_checkpoint(tmp_path)
    again.set_progress_bar_config(disable=True)
    found, expected = (p("size", num_samples=2, generator=torch.Generator().manual_seed(1)) for p in (again, pipe))
    assert found.texts == expected.texts and torch.equal(found.latents, expected.latents)


def test_a_pipeline_in_bfloat16_takes_the_frozen_models_along(pipe):
    assert pipe.to(torch.bfloat16).to("cpu") is pipe
    codec = pipe.codec
    assert codec.language_model.dtype == codec.encoder.dtype == torch.bfloat16
    assert len(pipe("size", num_samples=2).texts) == 2


def test_a_pipeline_whose_models_are_gone_says_so(finished):
    shutil.rmtree("llama")
    with pytest.raises(UserError, match=r"^no model 'llama': neither a folder, nor") as error:
        open_checkpoint("checkpoints/words")
    assert not isinstance(error.value, CheckpointError)


def test_a_language_model_in_gpt2s_layout_without_updates(recipe):
    train_denoiser.main(recipe("sentence.language_model=gpt2", "sentence.rank=0"), quiet=True)
    assert len(open_checkpoint("checkpoints/words")("size", num_samples=2).texts) == 2
    assert not Path("checkpoints/words/codec/adapter").exists()


# A run that was interrupted


@pytest.mark.parametrize("stopped_before", [1, 3, 5])
def test_a_codec_that_was_interrupted_is_the_same_in_the_end(whole, recipe, interrupt, stopped_before):
    interrupt(train_sentence, stopped_before)
    with pytest.raises(Interrupted):
        train_sentence.main(recipe(), quiet=True)
    assert not (recipe().folder / "codec").exists()
    interrupt(train_sentence)
    train_sentence.main(recipe(), quiet=True)
    assert interrupt.starts == [0, 3 if stopped_before >= 3 else 0]
    assert_same_codec(recipe().folder, whole / "checkpoints" / "codec")
    assert [file.name for file in (recipe().folder / "train").iterdir()] == ["latents"]


def test_looking_at_texts_changes_nothing_in_what_is_trained(whole, recipe):
    train_sentence.main(recipe("train_sentence.sample_every=2"))
    assert_same_codec(recipe().folder, whole / "checkpoints" / "codec")


def test_a_codec_goes_on_with_its_own_settings_only(recipe, interrupt):
    interrupt(train_sentence, 4)
    with pytest.raises(Interrupted):
        train_sentence.main(recipe(), quiet=True)
    with pytest.raises(ResumeError, match=r"sentence\.rank was 2, is 3"):
        train_sentence.main(recipe("sentence.rank=3"), quiet=True)


def test_a_finished_run_says_so_and_does_nothing(finished, fingerprint, capsys):
    before = fingerprint("checkpoints")
    train_sentence.main(finished(), quiet=True)
    assert "words/codec is already trained; delete checkpoints/words or set name=" in capsys.readouterr().out
    with pytest.raises(ResumeError, match=r"train_sentence\.steps was 6, is 7"):
        train_sentence.main(finished("train_sentence.steps=7"), quiet=True)
    assert fingerprint("checkpoints") == before


def test_cached_vectors_are_those_of_the_same_texts_and_encoder(recipe, monkeypatch):
    codec, folder, calls = train_sentence.build(recipe()), Path("run"), []
    own = type(codec).vectors
    monkeypatch.setattr(type(codec), "vectors", lambda *given, **more: calls.append(1) or own(*given, **more))

    def cached(texts):
        found = encoded(folder, codec.encoder_weights, codec.vectors, texts, quiet=True)
        return found[range(len(found))]

    first = cached(TEXTS[:5])
    assert torch.equal(first, cached(TEXTS[:5])) and len(calls) == 1
    other = cached(TEXTS[5:10])
    assert not torch.equal(other, first) and len(calls) == 2
    with torch.no_grad():
        codec.encoder.get_input_embeddings().weight.mul_(2)
    assert not torch.equal(cached(TEXTS[5:10]), other) and len(calls) == 3
    (cache,) = (folder / RAW).glob("*.safetensors")
    cache.write_bytes(cache.read_bytes()[:-9])
    cached(TEXTS[5:10])
    assert len(calls) == 4


def test_texts_that_changed_while_a_run_was_interrupted_are_encoded_again(recipe, interrupt):
    interrupt(train_sentence, 1)
    with pytest.raises(Interrupted):
        train_sentence.main(recipe(), quiet=True)
    lines = Path("words.jsonl").read_text(encoding="utf-8").splitlines()
    Path("words.jsonl").write_text("\n".join(line.replace("cat", "frog") for line in lines), encoding="utf-8")
    interrupt(train_sentence)
    train_sentence.main(recipe(), quiet=True)
    codec = load_codec(recipe().folder)
    latents = cached(recipe())
    frogs = codec.encode([text.replace("cat", "frog") for text in TEXTS])
    assert (torch.cdist(latents.flatten(1), frogs.flatten(1)).min(1).values < 1e-2).all()


# Other texts


def test_extra_texts_train_the_codec_alone(recipe, capsys):
    rows = (json.dumps({"text": f"A bird number {i}."}) + "\n" for i in range(20))
    Path("more.jsonl").write_text("".join(rows), encoding="utf-8")
    train_denoiser.main(recipe('data.extra_sources=["more.jsonl"]'), quiet=True)
    said = capsys.readouterr().out
    assert "20 extra texts that are short enough, for the codec alone" in said and "56 texts -> " in said
    assert len(cached(recipe())) == 36


def test_texts_that_are_too_long_are_left_out_and_counted(recipe, capsys):
    with open("words.jsonl", "a", encoding="utf-8") as file:
        for kind in KINDS:
            file.write("\n" + json.dumps({"text": f"The {kind} goes on. " * 30, "kind": kind}))
    train_denoiser.main(recipe("data.valid_size=2"), quiet=True)
    said = capsys.readouterr().out
    assert "texts of at most 24 tokens; left out: " in said
    assert len(open_checkpoint("checkpoints/words")("size").texts) == 1


def test_the_loss_is_of_the_logits_that_are_written_from_and_ends_are_trained_in_place(whole, recipe):
    codec = load_codec(whole / "checkpoints" / "codec")
    assert codec.ending.any()
    ids, latents = codec.tokenize(TEXTS[:5]), codec.encode(TEXTS[:5])
    pieces = torch.tensor(sorted({one for row in ids for one in row}))
    objective = WritingLoss(codec, 0.0, pieces)
    loss = objective(latents, ids, [[]] * 5, torch.Generator().manual_seed(0))
    head, expected = codec.language_model.get_output_embeddings(), []
    for prompt, row in zip(codec.reader(latents, torch.zeros(5)), ids, strict=True):
        logits = head(writer_features(codec.language_model, prompt[None], [row]))[:, pieces]
        wanted = torch.searchsorted(pieces, torch.tensor(row))
        expected.append(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").item())
    assert loss.item() == pytest.approx(sum(expected) / sum(map(len, ids)), rel=1e-4)
    loss.backward()
    assert objective.ending.weight.grad.any()
    with torch.no_grad():
        objective.ending.weight += 1
    assert torch.equal(codec.ending, objective.ending.weight)


# Mistakes


@pytest.mark.parametrize("settings, kind, said", [
    (["sentence.num_latents=3"], SentenceModelError,
     r"sentence\.num_latents is 3, which does not divide the encoder's width 16"),
    (["sentence.max_tokens=46"], SentenceModelError,
     r"sentence\.max_tokens is 46, but 'llama' reads no more than 45 tokens beside 3 soft prompts; lower it"),
    (["data.max_tokens=4"], DataError, r"words\.jsonl: 0 training texts are short enough, two are the least, and an "),
    (["sentence.language_model=nowhere"], UserError, "no model 'nowhere': neither a folder, nor a hub id"),
    (["sentence.encoder=llama"], SentenceModelError, "the sentence encoder is 'llama', a llama that writes"),
    (["sentence.path=checkpoints/nowhere"], UserError, "nowhere"),
])
def test_what_cannot_be_trained_is_refused_before_anything_is_written(recipe, settings, kind, said):
    with pytest.raises(kind, match=said) as error:
        train_sentence.main(recipe(*settings), quiet=True)
    assert "\n" not in str(error.value)
    assert not Path("checkpoints").exists()


def test_as_many_tokens_as_the_context_has_room_for_are_taken(recipe):
    train_sentence.main(recipe("sentence.max_tokens=45", "train_sentence.steps=1"), quiet=True)
    assert load_codec("checkpoints/words").config.max_tokens == 45


@pytest.mark.parametrize("settings, said", [
    (["sampling.decoding=ld4lg"], "sampling.decoding: is 'ld4lg', must be one of sampled, careful, greedy, beam"),
    (["sampling.decoding=gready"], "must be one of sampled, careful, greedy, beam; did you mean greedy?"),
    (["sentence.assumed_noise=0.8"], "sentence.assumed_noise: is 0.8, but training adds noise of at most"),
    (["sentence.finetune=true"], "sentence.finetune: is true, but sentence.path names no checkpoint; set it"),
    (["data.max_tokens=25"], "data.max_tokens: 25 is more than sentence.max_tokens=24; raise the latter"),
])
def test_settings_that_do_not_go_together(recipe, settings, said):
    with pytest.raises(RecipeError) as error:
        recipe(*settings)
    assert said in str(error.value)
