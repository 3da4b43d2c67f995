"""The compressor, the whitening and the reconstructor."""

import pytest
import torch

from latdiff.data.tokens import pad
from latdiff.models.autoencoder import LatentAutoencoder

L, D, H = 3, 4, 10


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return LatentAutoencoder(
        feature_dim=H, num_latents=L, latent_dim=D, width=16, depth=2, heads=2, max_tokens=12
    )


def features(*lengths, seed=0):
    """Random features [B, T, H] and their mask."""
    _, mask = pad([[1] * length for length in lengths], 0)
    return torch.randn(*mask.shape, H, generator=torch.Generator().manual_seed(seed)), mask


def test_shapes(autoencoder):
    latents = autoencoder.compress(*features(5, 12))
    assert latents.shape == (2, L, D)
    assert autoencoder.normalise(latents).shape == (2, L, D)
    assert autoencoder.reconstruct(latents).shape == (2, L, H)


def test_padding_does_not_matter(autoencoder):
    values, mask = features(5, 9, 2)
    together = autoencoder.compress(values, mask)
    for row, length in enumerate((5, 9, 2)):
        alone = autoencoder.compress(values[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row], alone[0], rtol=1e-4, atol=1e-5)


def test_every_token_and_its_place_matter(autoencoder):
    values, mask = features(6)
    latents = autoencoder.compress(values, mask)
    for token in range(6):
        changed = values.clone()
        changed[0, token] += 1
        assert (autoencoder.compress(changed, mask) - latents).abs().max() > 1e-4
    assert (autoencoder.compress(values.flip(1), mask) - latents).abs().max() > 1e-4


def test_every_latent_matters_to_the_reconstruction(autoencoder):
    latents = torch.zeros(1, L, D)
    before = autoencoder.reconstruct(latents)
    for latent in range(L):
        changed = latents.clone()
        changed[0, latent] += 1
        assert (autoencoder.reconstruct(changed) - before).abs().max() > 1e-4


def test_whitening_of_the_set_it_was_fixed_on(autoencoder):
    autoencoder.eval()
    latents = 3 + 2 * torch.randn(500, L, D, generator=torch.Generator().manual_seed(0)) * torch.arange(
        1, D + 1
    )
    autoencoder.set_whitening(latents.mean(0), latents.var(0))
    white = autoencoder.normalise(latents)
    torch.testing.assert_close(white.mean(0), torch.zeros(L, D), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.std(0), torch.ones(L, D), rtol=1e-3, atol=1e-3)
    # row by row the same: no batch statistics outside of training
    torch.testing.assert_close(autoencoder.normalise(latents[:1]), white[:1])


def test_whitening_in_training_is_over_the_batch(autoencoder):
    autoencoder.train()
    latents = 5 + 3 * torch.randn(64, L, D, generator=torch.Generator().manual_seed(0))
    white = autoencoder.normalise(latents)
    torch.testing.assert_close(white.mean(0), torch.zeros(L, D), rtol=0, atol=1e-4)
    torch.testing.assert_close(white.var(0, correction=0), torch.ones(L, D), rtol=1e-3, atol=1e-3)


def test_l2_gives_every_latent_the_norm_of_white_noise():
    torch.manual_seed(0)
    autoencoder = LatentAutoencoder(H, L, D, width=16, depth=1, heads=2, max_tokens=12, normalisation="l2")
    latents = 5 * torch.randn(7, L, D)
    for scaled in (autoencoder.train().normalise(latents), autoencoder.eval().normalise(latents)):
        torch.testing.assert_close(scaled.norm(dim=-1), torch.full((7, L), D**0.5))
        torch.testing.assert_close(torch.cosine_similarity(scaled, latents, dim=-1), torch.ones(7, L))


def test_a_normalisation_that_there_is_not():
    with pytest.raises(ValueError, match="'L2', must be one of whitening, l2"):
        LatentAutoencoder(H, L, D, width=16, depth=1, heads=2, normalisation="L2")


def test_a_reconstructor_given_no_noise_assumes_some():
    torch.manual_seed(0)
    autoencoder = LatentAutoencoder(H, L, D, width=16, depth=1, heads=2, max_tokens=12, assumed_noise=0.5)
    latents = torch.randn(2, L, D)
    given = autoencoder.reconstruct(latents, torch.tensor([0.5, 0.1]).view(2, 1, 1))
    assumed = autoencoder.reconstruct(latents)
    torch.testing.assert_close(assumed[0], given[0])
    assert (assumed[1] - given[1]).abs().max() > 1e-4


def test_gradients_reach_every_weight(autoencoder):
    latents = autoencoder.normalise(autoencoder.compress(*features(12, 9, 4)))
    autoencoder.reconstruct(latents).square().sum().backward()
    assert [
        n for n, p in autoencoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ] == []


def test_a_saved_autoencoder_is_the_same(autoencoder, tmp_path):
    autoencoder.set_whitening(torch.full((L, D), 0.5), torch.full((L, D), 4.0))
    autoencoder.eval().save_pretrained(tmp_path)
    again = LatentAutoencoder.from_pretrained(tmp_path)
    assert {k: v for k, v in again.config.items() if not k.startswith("_")} == {
        k: v for k, v in autoencoder.config.items() if not k.startswith("_")
    }
    before, after = autoencoder.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not again.training


def test_only_safetensors_and_json_are_written(autoencoder, tmp_path):
    autoencoder.save_pretrained(tmp_path)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}
