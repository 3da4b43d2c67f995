"""What the autoencoder's settings do to its training and to what it writes."""

import pytest
import torch
from latdiff.recipes import train_autoencoder, train_denoiser

from latdiff.codecs.files import load_codec
from latdiff.data.tokens import labels_of, pad, tokenize
from latdiff.models.backbone import load_backbone
from latdiff.pipelines.files import open_checkpoint


class Recorder(torch.nn.Module):
    """An autoencoder that keeps what it is to reconstruct from: latents of ones."""

    def __init__(self, width):
        super().__init__()
        self.width, self.seen = width, None

    def compress(self, features, mask):
        return torch.ones(len(features), 50, 40)

    def normalise(self, latents):
        return latents

    def reconstruct(self, latents, noise=None):
        self.seen = latents, noise
        return latents.new_zeros(len(latents), 1, self.width)


@pytest.fixture
def seen(recipe):
    """seen(noise, dropout) -> latents [B, L, D] and the sd [B, 1, 1] that the reconstructor gets in training."""
    tokenizer, text_model = load_backbone(recipe().backbone.path)
    ids, mask = pad(tokenize(tokenizer, ["The harbor.", "A lake.", "The sky is deep blue."]), tokenizer.pad_token_id)

    def run(noise, dropout):
        recorder = Recorder(text_model.get_input_embeddings().embedding_dim)
        objective = train_autoencoder.ReconstructionLoss(text_model, recorder, noise, dropout)
        objective(ids, mask, labels_of(ids, mask), torch.Generator().manual_seed(0))
        return recorder.seen

    return run


def test_the_reconstructor_is_conditioned_on_the_noise_on_the_latents(seen):
    latents, sd = seen(0.7, 0.0)
    assert (sd > 0).all() and (sd < 0.7).all()
    torch.testing.assert_close((latents - 1).std((1, 2)), sd.flatten(), rtol=0.1, atol=0)
    latents, sd = seen(0.0, 0.0)
    assert (latents == 1).all() and not sd.any()


def test_a_share_of_the_latents_numbers_is_zero(seen):
    latents, _ = seen(0.0, 0.3)
    assert (latents == 0).float().mean((1, 2)).tolist() == pytest.approx([0.3] * 3, abs=0.05)
    assert set(latents.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("setting", ["normalisation=l2", "assumed_noise=0.3"])
def test_an_autoencoder_of_another_kind_is_trained_saved_and_sampled_from(recipe, setting):
    other = recipe("name=other", f"autoencoder.{setting}")
    train_denoiser.main(other, quiet=True)
    key, _, value = setting.partition("=")
    codec = load_codec(other.folder)
    assert str(codec.autoencoder.config[key]) == value
    assert len(open_checkpoint(other.folder)(num_samples=2).texts) == 2
    if key == "normalisation":
        norms = codec.encode(["The harbor.", "A lake."]).norm(dim=-1)
        torch.testing.assert_close(norms, torch.full_like(norms, codec.latent_shape[1] ** 0.5))
