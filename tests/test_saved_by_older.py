"""What an older commit saved opens, samples and steers as it did there: fixtures/v0, which is never written anew."""

import json
from pathlib import Path

import pytest
import torch

from latdiff import load_head
from latdiff.config import load_recipe
from latdiff.diffusion.sampling import make_scheduler
from latdiff.pipelines.files import open_checkpoint

SAVED = Path(__file__).parent / "fixtures" / "v0"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pipe():
    pipe = open_checkpoint(SAVED / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = make_scheduler(EXPECTED["scheduler"], pipe.scheduler.config.trained_betas)
    return pipe


@pytest.fixture(scope="module")
def heads():
    return {name: load_head(SAVED / "pipeline" / "heads" / name) for name in ("sentiment", "aware", "words")}


GUIDES = {
    "none": lambda heads: [],
    "sentiment x0": lambda heads: [heads["sentiment"].toward("positive")],
    "sentiment denoiser": lambda heads: [heads["sentiment"].toward("negative", mode="denoiser")],
    "aware noisy": lambda heads: [heads["aware"].toward("positive", mode="noisy")],
    "words x0": lambda heads: [heads["words"].toward(30.0)],
    "two": lambda heads: [heads["sentiment"].toward("positive"), heads["words"].toward(50.0)],
}


@pytest.mark.parametrize("name", GUIDES)
@pytest.mark.filterwarnings("ignore:half of the steered latents")
def test_an_older_pipeline_samples_and_steers_as_it_did(pipe, heads, name):
    expected = EXPECTED["calls"][name]
    noise = torch.tensor(EXPECTED["noise"])
    out = pipe(latents=noise, guides=GUIDES[name](heads), num_inference_steps=EXPECTED["steps"], dtype="float32")
    torch.testing.assert_close(out.latents, torch.tensor(expected["latents"]), rtol=2e-3, atol=2e-3)
    assert out.texts == expected["texts"]
    for title, values in expected["scores"].items():
        assert out.scores[title] == pytest.approx(values, abs=1e-3)


def test_an_older_codec_and_older_heads_read_as_they_did(pipe, heads):
    expected = EXPECTED["encoded"]
    latents = pipe.codec.encode(expected["texts"])
    torch.testing.assert_close(latents, torch.tensor(expected["latents"]), rtol=1e-3, atol=1e-3)
    for name, values in expected["probabilities"].items():
        torch.testing.assert_close(torch.tensor(heads[name].predict_proba(latents)), torch.tensor(values), atol=1e-4,
                                   rtol=1e-3)
    assert list(heads["words"].predict(latents)) == pytest.approx(expected["words"], rel=1e-3)
    assert pipe.interpolate(*expected["texts"][:2], n=3).texts == EXPECTED["interpolated"]


def test_an_older_recipe_is_read():
    assert load_recipe(str(SAVED / "pipeline" / "recipe.yaml")).autoencoder.latent_dim == 4


def test_a_pipeline_saved_again_names_no_file(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    parts = json.loads((tmp_path / "model_index.json").read_text(encoding="utf-8"))
    assert parts["autoencoder"] == ["latdiff", "LatentAutoencoder"]
    assert parts["denoiser"] == ["latdiff", "LatentDenoiser"]
    assert open_checkpoint(tmp_path).codec.latent_shape == pipe.codec.latent_shape
