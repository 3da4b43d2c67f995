"""Ready backbones in the hub's layout go all the way: trained around, saved, loaded, sampled from and steered."""

import hub_layouts
import pytest
import torch
from latdiff.recipes import train_autoencoder, train_denoiser
from runs import TINY
from transformers import AutoModelForSeq2SeqLM

from latdiff.codecs.files import load_codec
from latdiff.config import load_recipe
from latdiff.data.tokens import labels_of, pad, tokenize
from latdiff.errors import UserError
from latdiff.models.backbone import BackboneError
from latdiff.pipelines.files import open_checkpoint

SETTINGS = ["backbone.path=hub", "data.train_size=30", "data.max_tokens=128", "autoencoder.max_tokens=128",
            "train_autoencoder.steps=3", "train_denoiser.steps=3"]


def recipe(*settings):
    return load_recipe("tiny.yaml", [*SETTINGS, *settings])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty `hub` for a backbone, beside the tiny recipe."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY, encoding="utf-8")
    hub = tmp_path / "hub"
    hub.mkdir()
    return hub


@pytest.fixture(scope="module", params=hub_layouts.LAYOUTS, ids=lambda layout: layout.__name__)
def trained(request, tmp_path_factory):
    """Backbone and checkpoint of a run that hid spans; to be read, never written to."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp(request.param.__name__)
        patch.chdir(root)
        (root / "tiny.yaml").write_text(TINY, encoding="utf-8")
        (root / "hub").mkdir()
        request.param(root / "hub")
        train_autoencoder.main(recipe("train_autoencoder.mask_rates=[0.3]"), quiet=True)
        train_denoiser.main(recipe("train_autoencoder.mask_rates=[0.3]"), quiet=True)
    return root / "hub", root / "checkpoints" / "tiny"


@pytest.fixture
def pipe(trained):
    loaded = open_checkpoint(trained[1])
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_a_run_writes_a_pipeline_that_samples_and_edits(pipe):
    out = pipe(num_samples=2, generator=torch.Generator().manual_seed(0))
    assert len(out.texts) == len(out.cut) == 2
    for special in ("<s>", "</s>", "<pad>", "<mask>"):
        assert not any(special in text for text in out.texts)
    short = [text for text, fits in zip(hub_layouts.TEXTS, pipe.codec.fits(hub_layouts.TEXTS), strict=True) if fits]
    edited = pipe.edit(short[:2], num_inference_steps=2, decode_options="ld4lg")
    assert edited.latents.isfinite().all()


def test_the_checkpoint_holds_the_backbone_as_it_was(trained, pipe):
    hub, _ = trained
    untouched = AutoModelForSeq2SeqLM.from_pretrained(hub).eval()
    theirs, own = untouched.state_dict(), pipe.text_model.state_dict()
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in theirs)
    ids, mask = pad(tokenize(pipe.tokenizer, hub_layouts.TEXTS[:3]), pipe.tokenizer.pad_token_id)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "labels": labels_of(ids, mask)}
    with torch.no_grad():
        found, expected = pipe.text_model(**inputs).logits, untouched(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_saved_pipeline_writes_the_same(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = open_checkpoint(tmp_path)
    again.set_progress_bar_config(disable=True)
    found, expected = (p(num_samples=2, generator=torch.Generator().manual_seed(1)) for p in (again, pipe))
    assert found.texts == expected.texts
    assert torch.equal(found.latents, expected.latents)


def test_pipeline_and_autoencoder_are_of_one_codec(trained, pipe):
    assert load_codec(trained[1]).digest == pipe.codec.digest


def test_a_text_as_long_as_the_positions_goes_in_and_comes_out(pipe):
    codec, limit = pipe.codec, hub_layouts.POSITIONS
    (row,) = tokenize(codec.tokenizer, [" ".join(hub_layouts.TEXTS[:3])])
    assert codec.compress([[*row[: limit - 1], row[-1]]]).isfinite().all()
    codec.text_model.generation_config.eos_token_id = None  # so that it writes on to the limit
    with pytest.warns(UserWarning, match=f"1 of 1 texts are cut: .*{limit}"):
        codec.decode(torch.zeros(1, *codec.latent_shape))


def test_hidden_spans_reach_the_encoder_as_the_tokenizers_own_tokens(pipe, folder):
    rows, masked = tokenize(pipe.tokenizer, hub_layouts.TEXTS[:4]), recipe("train_autoencoder.mask_rates=[0.4]")
    ids, mask, labels = train_autoencoder.corrupted_batch(rows, pipe.tokenizer, masked, step=0)
    assert [row[row >= 0].tolist() for row in labels] == rows  # the labels are the whole texts
    assert int(mask.sum()) < sum(map(len, rows))
    assert pipe.tokenizer.unk_token_id not in ids[mask].tolist()
    text = pipe.tokenizer.decode(ids[0][mask[0]])
    assert "<extra_id_0>" in text or "<mask>" in text


# Refused before training


def test_more_tokens_than_positions_are_refused_before_training(folder):
    hub_layouts.bart(folder)
    with pytest.raises(BackboneError, match=r"autoencoder\.max_tokens is 129, .*; set autoencoder\.max_tokens=128"):
        train_autoencoder.main(recipe("autoencoder.max_tokens=129"), quiet=True)
    assert not (folder.parent / "checkpoints").exists()


def test_hiding_without_a_token_to_put_there_is_refused_before_training(folder, monkeypatch):
    hub_layouts.bart(folder)
    load = train_autoencoder.load_backbone

    def without_mask(path):
        tokenizer, model = load(path)
        tokenizer.mask_token = None
        return tokenizer, model

    monkeypatch.setattr(train_autoencoder, "load_backbone", without_mask)
    with pytest.raises(UserError, match=r"set train_autoencoder\.mask_rates=\[0\]") as error:
        train_autoencoder.main(recipe("train_autoencoder.mask_rates=[0, 0.3]"), quiet=True)
    assert "\n" not in str(error.value)
    assert not (folder.parent / "checkpoints").exists()
    train_autoencoder.main(recipe("train_autoencoder.mask_rates=[0]"), quiet=True)
    assert (folder.parent / "checkpoints" / "tiny" / "autoencoder").is_dir()
