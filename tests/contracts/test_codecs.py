"""One suite that every codec passes, and a toy one from end to end: denoised, steered, edited and saved."""

import sys
from types import SimpleNamespace

import pytest
import torch
from latdiff.recipes import train_autoencoder, train_denoiser
from safetensors.torch import save_file
from sentence_models import TEXTS, perceiver_codec, sentence_codec
from toy_codec import ANIMALS, COLOURS, ToyCodec

import latdiff
from latdiff import AttributeHead, GaussianDiffusion, LatentDenoiser, LatentTextDiffusionPipeline
from latdiff.checkpoints import CheckpointError
from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.protocol import Codec, TextError
from latdiff.config import load_recipe
from latdiff.config.sections import STAGES, Stage
from latdiff.diffusion.sampling import make_scheduler
from latdiff.errors import UserError
from latdiff.evaluation.report import reconstruction_table
from latdiff.evaluation.rows import reconstruction
from latdiff.pipelines.files import open_checkpoint
from latdiff.schedule import betas

PAIRS = [f"{colour} {animal}" for colour in COLOURS for animal in ANIMALS]


@pytest.fixture(params=["t5", "sentence", "perceiver", "toy"])
def one(request, stories):
    """A codec, and ten texts that it reads."""
    if request.param == "t5":
        return request.getfixturevalue("codec"), [text for text, _ in stories[:10]]
    if request.param == "sentence":
        writers = request.getfixturevalue("writers")
        return sentence_codec(writers.llama, writers.encoder, rank=4), TEXTS[:10]
    if request.param == "perceiver":
        writers = request.getfixturevalue("writers")
        return perceiver_codec(writers.gpt2, writers.encoder, rank=4), TEXTS[:10]
    return ToyCodec(), PAIRS[:10]


def numbers(n, base=0):
    """A generator for each of n texts."""
    return [torch.Generator().manual_seed(base + row) for row in range(n)]


def test_it_is_a_codec(one):
    codec, _ = one
    assert isinstance(codec, Codec)
    assert len(codec.digest) == 16
    assert isinstance(codec.device, torch.device)


def test_texts_become_float32_latents_of_its_shape(one):
    codec, texts = one
    latents = codec.encode(texts)
    assert latents.shape == (10, *codec.latent_shape)
    assert latents.dtype == torch.float32
    assert latents.isfinite().all()


def test_each_text_is_encoded_by_itself(one):
    codec, texts = one
    whole = codec.encode(texts)
    torch.testing.assert_close(codec.encode(texts, batch_size=3), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(codec.encode(texts[4]), whole[4:5], rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_latents_become_as_many_texts(one):
    codec, texts = one
    latents = codec.encode(texts)
    decoded = codec.generate(latents, batch_size=4)
    assert len(decoded.texts) == len(decoded.cut) == 10
    assert codec.decode(latents) == decoded.texts
    assert codec.generate(latents[:0]) == ([], [])


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_text_depends_on_its_own_latent_and_generator_alone(one):
    codec, texts = one
    latents = codec.encode(texts)
    whole = codec.generate(latents, generators=numbers(10)).texts
    for batch_size in (1, 3):
        assert codec.generate(latents, batch_size=batch_size, generators=numbers(10)).texts == whole
    assert codec.generate(latents.flip(0), generators=numbers(10)[::-1]).texts == whole[::-1]
    beside = torch.cat([latents[:4].flip(0), latents[4:5]])
    assert codec.generate(beside, generators=[*numbers(4, base=50), *numbers(1, base=4)]).texts[4] == whole[4]


@pytest.mark.parametrize("bad", [[""], [None], [], ["a", " "]])
def test_what_is_no_text_is_refused_in_a_sentence(one, bad):
    with pytest.raises(TextError):
        one[0].encode(bad)


def test_an_option_that_it_does_not_know_is_refused(one):
    with pytest.raises(UserError):
        one[0].check_options(num_beems=3)


def test_what_evaluation_asks_of_it(one):
    codec, texts = one
    assert codec.fits(texts) == [True] * 10 and codec.fits(texts[:1], max_tokens=10**6) == [True]
    assert codec.to("cpu") is codec
    accuracy = codec.token_accuracy(codec.encode(texts), texts, batch_size=4)
    assert accuracy is None or 0 <= accuracy <= 1
    measured = reconstruction(codec, texts)
    assert measured["n"] == 10 and (accuracy is None) == ("token_accuracy" not in measured)
    assert "exact match" in reconstruction_table(measured)


def test_the_round_trip_is_zero_for_what_comes_back_and_infinite_for_what_cannot_be_read(one):
    codec, texts = one
    latents = codec.encode(texts)
    distances = codec.round_trip(latents, texts)
    assert distances.shape == (10,)
    assert distances.max() < 1e-3
    assert codec.round_trip(latents[:2], [texts[0], " "]).isinf().tolist() == [False, True]
    assert codec.round_trip(latents[:0], []).shape == (0,)


def test_it_is_saved_and_opened_as_it_was(one, tmp_path, monkeypatch):
    codec, texts = one
    monkeypatch.setattr(latdiff, "ToyCodec", ToyCodec, raising=False)
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert again.digest == codec.digest
    assert torch.equal(again.encode(texts), codec.encode(texts))


def test_a_codec_that_lacks_weights_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(latdiff, "ToyCodec", ToyCodec, raising=False)
    save_codec(ToyCodec(), tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    save_file({}, file)
    with pytest.raises(CheckpointError, match="lacks 1 of its weights"):
        load_codec(tmp_path)


def test_a_codec_of_an_unknown_kind_is_refused(tmp_path):
    save_codec(ToyCodec(), tmp_path)
    with pytest.raises(CheckpointError, match="names the class ToyCodec, which this latdiff cannot open"):
        load_codec(tmp_path)


# A new codec from end to end: beside its own file, a public name of latdiff and a stage


@pytest.fixture(scope="module")
def toy():
    """A pipeline around the toy codec, trained for some seconds on black and green animals and on cats."""
    torch.manual_seed(0)
    codec, alpha2 = ToyCodec(), make_scheduler("ddpm", betas("cosine")).alphas_cumprod
    latents = codec.encode([text for text in PAIRS if "red" not in text])
    denoiser = LatentDenoiser(*codec.latent_shape, width=64, depth=2, heads=2, codec_digest=codec.digest)
    diffusion = GaussianDiffusion(denoiser, alpha2)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    for step in range(400):
        generator = torch.Generator().manual_seed(step)
        rows = torch.randint(len(latents), (64,), generator=generator)
        optimizer.zero_grad()
        diffusion.loss(latents[rows], generator).backward()
        optimizer.step()
    pipe = LatentTextDiffusionPipeline(denoiser.eval(), make_scheduler("ddpm", betas("cosine")), codec=codec,
                                       num_inference_steps=20)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_new_codec_is_denoised(toy):
    texts = toy(num_samples=200, generator=torch.Generator().manual_seed(0)).texts
    assert sum("red" in text for text in texts) < 10  # of which it saw none
    assert {text.split()[1] for text in texts} == set(ANIMALS)


def test_a_new_codec_is_steered_and_edited(toy):
    weight = torch.zeros(2, 2, 4)
    weight[1, 1, ANIMALS.index("owl")], weight[0, 1, ANIMALS.index("owl")] = 1.0, -1.0
    head = AttributeHead.from_weights(["no", "yes"], weight, torch.zeros(2), name="owl", codec_digest=toy.codec.digest)
    generator = torch.Generator().manual_seed(0)
    texts = toy(num_samples=100, guides=head.toward("yes", 3.0), generator=generator).texts
    assert sum("owl" in text for text in texts) > 90
    edited = toy.edit(["blue cat"] * 20, head.toward("yes", 3.0), strength=0.6, generator=generator).texts
    assert sum(text == "blue owl" for text in edited) > 12
    assert toy.interpolate("blue cat", "green fox", n=3).texts[::2] == ["blue cat", "green fox"]


def test_a_new_codec_is_saved_with_its_pipeline(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(latdiff, "ToyCodec", ToyCodec, raising=False)
    monkeypatch.setattr(ToyCodec, "__module__", "latdiff")
    toy.save_pretrained(tmp_path)
    again = open_checkpoint(tmp_path)
    again.set_progress_bar_config(disable=True)
    first, second = (p(num_samples=4, generator=torch.Generator().manual_seed(1)) for p in (toy, again))
    assert first.texts == second.texts


def test_a_pipeline_whose_codec_cannot_be_saved_is_not_saved_without_it(toy, tmp_path):
    class Unsaved(Codec):
        latent_shape, digest, device = toy.codec.latent_shape, toy.codec.digest, toy.codec.device
        to = encode = generate = fits = None

    pipe = LatentTextDiffusionPipeline(toy.denoiser, toy.scheduler, codec=Unsaved())
    with pytest.raises(UserError, match="codec Unsaved cannot be saved"):
        pipe.save_pretrained(tmp_path / "lost")
    assert not (tmp_path / "lost").exists()


def test_a_new_codec_goes_through_the_recipe(tmp_path, monkeypatch):
    """Beside its own file and its own stage, nothing is touched."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latdiff, "ToyCodec", ToyCodec, raising=False)
    monkeypatch.setattr(ToyCodec, "__module__", "latdiff")
    stage = SimpleNamespace(SETTINGS=("seed", "data"), finished=lambda recipe: (recipe.folder / "codec").exists(),
                            main=lambda recipe, quiet: save_codec(ToyCodec(), recipe.folder))
    monkeypatch.setitem(sys.modules, "latdiff.recipes.train_toy", stage)
    monkeypatch.setitem(STAGES, "train_toy", Stage(("data",), codec=True))  # as `stage` does
    (tmp_path / "pairs.jsonl").write_text("".join(f'{{"text": "{text}"}}\n' for text in PAIRS), encoding="utf-8")
    (tmp_path / "toy.yaml").write_text("""
codec: toy
data: {source: pairs.jsonl, valid_size: 2}
denoiser: {width: 32, depth: 1, heads: 2}
train_denoiser: {steps: 3, batch_size: 8, sample_every: 2}
sampling: {steps: 3}
""", encoding="utf-8")
    train_denoiser.main(load_recipe("toy.yaml"), quiet=True)
    pipe = open_checkpoint("checkpoints/toy")
    assert all(text.split()[0] in COLOURS for text in pipe(num_samples=3).texts)


def test_another_kind_of_codec_is_no_autoencoder_to_take(tmp_path, monkeypatch):
    monkeypatch.setattr(latdiff, "ToyCodec", ToyCodec, raising=False)
    save_codec(ToyCodec(), tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("storyworld", ["data.train_size=9", "data.valid_size=2", "autoencoder.path=toy"])
    with pytest.raises(UserError, match="a checkpoint with a ToyCodec, must be one with a TextCodec"):
        train_autoencoder.main(recipe, quiet=True)


def test_what_only_the_t5_codec_can_do_is_refused_in_a_sentence(toy):
    with pytest.raises(UserError, match="decodes without options, and was given preset"):
        toy(decode_options="ld4lg")
    with pytest.raises(UserError, match="ToyCodec reads no source texts"):
        toy.codec.encode_condition(["red cat"])
