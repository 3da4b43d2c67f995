"""What a run leaves on the disk to go on from: resume states, settings that must not change."""

import json

import pytest
import torch
from diffusers.training_utils import EMAModel
from runs import fresh
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from latdiff.batches import step_generator
from latdiff.config import Recipe, load_recipe
from latdiff.optimising import optimizers
from latdiff.resuming import (
    ResumeError,
    digest_of,
    load_state,
    refuse_changes,
    save_state,
)
from latdiff.storage import StorageError


@pytest.fixture
def model():
    return fresh()[0]


# Resume states


def advance(model, optimisers, ema, steps):
    for step in steps:
        x = torch.randint(7, (5,), generator=step_generator(0, step))
        model(x).square().sum().backward()
        for optimizer in optimisers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(model.parameters())


def test_a_run_goes_on_where_it_was_left(tmp_path):
    path = tmp_path / "train" / "state.safetensors"
    whole, whole_optimisers, whole_ema = fresh()
    advance(whole, whole_optimisers, whole_ema, range(6))

    model, optimisers, ema = fresh()
    advance(model, optimisers, ema, range(3))
    save_state(path, 3, {"model": model}, optimisers, ema, 1.5)
    torch.manual_seed(99)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    optimisers, ema = optimizers(model, 1e-2), EMAModel(model.parameters(), decay=0.9, use_ema_warmup=True)
    assert load_state(path, {"model": model}, optimisers, ema) == (3, 1.5)
    advance(model, optimisers, ema, range(3, 6))

    for expected, found in zip(whole.parameters(), model.parameters(), strict=True):
        assert torch.equal(expected, found)
    for expected, found in zip(whole_ema.shadow_params, ema.shadow_params, strict=True):
        assert torch.equal(expected, found)


def test_tied_weights_can_be_saved(tmp_path):
    path = tmp_path / "state.safetensors"
    config = T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    one, other = (T5ForConditionalGeneration(config) for _ in range(2))
    save_state(path, 5, {"model": one}, optimizers(one, 1e-2))
    assert load_state(path, {"model": other}, optimizers(other, 1e-2)) == (5, 0)
    assert torch.equal(one.shared.weight, other.lm_head.weight)


def test_no_state_means_the_beginning(tmp_path, model):
    before = [p.clone() for p in model.parameters()]
    assert load_state(tmp_path / "none.safetensors", {"model": model}, optimizers(model, 1e-2)) == (0, 0)
    assert all(map(torch.equal, before, model.parameters()))


def test_a_state_cut_short_is_refused(tmp_path, model):
    path = tmp_path / "state.safetensors"
    save_state(path, 3, {"model": model}, optimizers(model, 1e-2))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(
        ResumeError, match=r"state\.safetensors cannot be resumed from .*Delete it to start afresh"
    ):
        load_state(path, {"model": model}, optimizers(model, 1e-2))


def test_a_state_of_another_shape_is_refused(tmp_path, model):
    path = tmp_path / "state.safetensors"
    save_state(path, 3, {"model": model}, optimizers(model, 1e-2))
    other = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 6))
    with pytest.raises(ResumeError, match="other settings") as error:
        load_state(path, {"model": other}, optimizers(other, 1e-2))
    assert "\n" not in str(error.value)


def test_a_write_that_breaks_off_leaves_the_older_state(tmp_path, model, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_state(path, 3, {"model": model}, optimizers(model, 1e-2))

    def full_disk(tensors, file, **_):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("latdiff.resuming.save_file", full_disk)
    with pytest.raises(StorageError, match=r"state\.safetensors could not be written \(No space left.*Free some space"):
        save_state(path, 6, {"model": model}, optimizers(model, 1e-2))
    assert [file.name for file in tmp_path.iterdir()] == ["state.safetensors"]
    assert load_state(path, {"model": model}, optimizers(model, 1e-2)) == (3, 0)


def test_a_state_of_other_texts_is_refused(tmp_path, model):
    path = tmp_path / "state.safetensors"
    save_state(path, 3, {"model": model}, optimizers(model, 1e-2), texts=digest_of(["a", "b"]))
    for texts in (["b", "a"], ["ab"], ["a", "b", "c"]):
        with pytest.raises(ResumeError, match=r"was begun on other texts.*Put it back to go on, delete the file"):
            load_state(path, {"model": model}, optimizers(model, 1e-2), texts=digest_of(texts))
    assert load_state(path, {"model": model}, optimizers(model, 1e-2), texts=digest_of(iter("ab"))) == (3, 0)


# Settings that must not change under way


@pytest.fixture
def begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(json.dumps({"name": "mine", "autoencoder": {"num_latents": 4}}), encoding="utf-8")

    def read(*settings):
        return load_recipe(str(recipe), list(settings))

    read().save(read().folder / "recipe.yaml")
    return read


def test_a_state_of_another_dtype_is_refused(tmp_path):
    path, (model, optimisers, _) = tmp_path / "state.safetensors", fresh()
    save_state(path, 3, {"model": model}, optimisers, dtype="float32")
    with pytest.raises(ResumeError, match=r"begun in float32, but this run computes in bfloat16\. Set dtype=float32"):
        load_state(path, {"model": model}, optimisers, dtype="bfloat16")
    assert load_state(path, {"model": model}, optimisers, dtype="float32") == (3, 0)


def test_the_same_settings_are_no_change(begun):
    assert refuse_changes(begun(), ("seed", "data", "autoencoder", "train_autoencoder")) is None


def test_a_folder_not_begun_refuses_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refuse_changes(Recipe(name="new"), ("seed", "data")) is None


def test_changes_are_all_named_with_both_values(begun):
    changed = begun("seed=5", "autoencoder.num_latents=8", "data.max_tokens=20", "denoiser.depth=9")
    with pytest.raises(ResumeError) as error:
        refuse_changes(changed, ("seed", "data", "autoencoder"))
    said = str(error.value)
    for part in (
        "seed was 0, is 5",
        "autoencoder.num_latents was 4, is 8",
        "data.max_tokens was 96, is 20",
        "name=",
    ):
        assert part in said
    assert "denoiser" not in said


def test_a_section_of_another_stage_is_compared_as_well(begun):
    """A file of settings holds what the recipe's own stages read; the rest are defaults there."""
    assert refuse_changes(begun(), ("seed", "train_ar", "train_seq2seq")) is None
    with pytest.raises(ResumeError, match=r"train_ar.steps was \d+, is 7"):
        refuse_changes(begun("train_ar.steps=7"), ("seed", "train_ar"))


def test_how_often_to_look_and_save_may_change(begun):
    looks = begun("train_autoencoder.sample_every=7", "train_autoencoder.save_every=9")
    assert refuse_changes(looks, ("train_autoencoder",)) is None
