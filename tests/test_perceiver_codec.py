"""The Perceiver codec of a language model: drafts lie among its embeddings, what it saves is what it was."""

import pytest
import sentence_models
import torch
from sentence_models import TEXTS, perceiver_codec

from latdiff import PerceiverCodec
from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.protocol import TextError
from latdiff.errors import UserError
from latdiff.models.drafts import Drafts, directions_of


@pytest.fixture
def codec(writer, writers):
    return perceiver_codec(writer, writers.encoder, rank=2)


class Told(torch.nn.Module):
    """A reconstructor that gives back the latents themselves."""

    def reconstruct(self, latents, noise):
        return latents


def test_a_draft_that_points_to_an_embedding_is_read_as_its_piece():
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 5  # with much in common, as real ones
    drafts = Drafts(Told(), torch.nn.Identity(), table)
    centre = table.mean(0)
    found = drafts(3 * (table - centre)[None], torch.zeros(1))[0]
    distances = (found - centre).norm(dim=1)
    torch.testing.assert_close(distances, (table - centre).norm(dim=1).mean().expand(50))
    assert ((found - centre) @ directions_of(table).T).argmax(-1).tolist() == list(range(50))
    assert directions_of(table, torch.tensor([7, 3])).equal(directions_of(table)[[7, 3]])


def test_drafts_are_as_large_as_embeddings_and_depend_on_noise(codec):
    latents = codec.encode(TEXTS[:3])
    assert codec.prompts(latents).shape == (3, 6, sentence_models.WIDTH)
    embeddings = codec.language_model.get_input_embeddings().weight
    offset = (codec.prompts(latents) - embeddings.mean(0)).norm(dim=-1)
    torch.testing.assert_close(offset, (embeddings - embeddings.mean(0)).norm(dim=1).mean().expand(3, 6))
    assert not torch.equal(codec.reader(latents, torch.zeros(3)), codec.reader(latents, torch.ones(3)))


def test_drafts_end_at_the_end_of_text(codec, monkeypatch):
    ids = codec.tokenize(TEXTS[:1])[0]
    rows = (ids[:-1] + [codec.tokenizer.eos_token_id] * 9)[:6] if len(ids) < 6 else ids[:5] + ids[-1:]
    table = directions_of(codec.language_model.get_input_embeddings().weight)
    monkeypatch.setattr(Drafts, "directions", lambda *given: table[rows][None])
    kept = rows[: rows.index(codec.tokenizer.eos_token_id)]
    assert codec.drafts(torch.zeros(1, 6, 4)) == [" ".join(codec.tokenizer.decode(kept).split())]


def test_latents_are_whitened(codec):
    latents = codec.encode(TEXTS)
    torch.testing.assert_close(latents.mean(0), torch.zeros(6, 4), rtol=0, atol=1e-4)
    torch.testing.assert_close(latents.var(0), torch.ones(6, 4), rtol=0, atol=0.1)  # eps beside small variances


def test_what_reads_latents_may_change_and_the_digest_not(codec):
    before = codec.fingerprint()
    with torch.no_grad():
        codec.draft.weight.add_(1.0)
        codec.autoencoder.latents_in.weight.add_(1.0)
    assert codec.fingerprint() == before == codec.digest
    with torch.no_grad():
        codec.autoencoder.queries.add_(1.0)
    assert codec.fingerprint() != before


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_saved_codec_writes_the_same(codec, tmp_path):
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert isinstance(again, PerceiverCodec) and not again.training
    latents = codec.encode(TEXTS[:4])
    assert again.decode(latents, preset="greedy") == codec.decode(latents, preset="greedy")
    assert again.drafts(latents) == codec.drafts(latents)
    assert again.config.language_model == codec.config.language_model


@pytest.mark.filterwarnings("ignore:.* texts are cut")
def test_a_codec_in_half_precision_keeps_its_latents(codec, tmp_path):
    latents = codec.encode(TEXTS[:4])
    whitening = codec.autoencoder.whitening.running_var.clone()
    codec.to(torch.bfloat16)
    assert codec.language_model.dtype == torch.bfloat16
    assert codec.autoencoder.whitening.running_var.equal(whitening)
    assert codec.digest and (codec.encode(TEXTS[:4]) - latents).abs().mean() < 0.1
    assert len(codec.decode(latents)) == len(codec.drafts(latents)) == 4


def test_another_encoder_is_refused(codec, writers, tmp_path):
    save_codec(codec, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    sentence_models.bert(other, seed=5)
    config = (tmp_path / "codec" / "config.json").read_text()
    (tmp_path / "codec" / "config.json").write_text(config.replace(str(writers.encoder), str(other)))
    with pytest.raises(UserError, match=r"encoder is '.*other', which is not the one that the codec was trained with"):
        load_codec(tmp_path)


def test_what_it_cannot_read_is_refused(codec):
    with pytest.raises(TextError, match="1 of 2 texts are longer than the 24 tokens that this codec writes"):
        codec.encode(["The cat is red.", "The cat is red. " * 20])
    with pytest.raises(UserError, match="PerceiverCodec reads no source texts"):
        codec.encode_condition(["The cat"])
    assert not codec.continues
