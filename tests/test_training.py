"""What the training loops share: data order, learning rate, optimisers, resume states, refusals."""

import json
import os
import signal
from collections import Counter

import pytest
import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from latdiff.config import Recipe, load_recipe
from latdiff.config.stages.denoiser import TrainDenoiserConfig
from latdiff.errors import UserError
from latdiff.resuming import (
    ResumeError,
    digest_of,
    load_latents,
    load_state,
    refuse_changes,
    save_latents,
    save_state,
)
from latdiff.stopping import Stopped
from latdiff.storage import StorageError
from latdiff.training import (
    BatchOrder,
    Run,
    TrainingError,
    optimizers,
    set_learning_rate,
    step_generator,
    training,
)

LENGTHS = [(7 * i) % 60 + 5 for i in range(1000)]

# The order of the data


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_any_step_replays_whatever_was_asked_before(lengths):
    straight = BatchOrder(1000, 8, seed=3, lengths=lengths)
    rows = [straight[step] for step in range(300)]
    jumping = BatchOrder(1000, 8, seed=3, lengths=lengths)
    assert [jumping[step] for step in (299, 0, 130, 124, 125)] == [
        rows[step] for step in (299, 0, 130, 124, 125)
    ]


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_an_epoch_shows_every_row_once_and_the_next_in_another_order(lengths):
    order = BatchOrder(1000, 8, seed=0, lengths=lengths)
    epochs = [[order[step] for step in range(start, start + 125)] for start in (0, 125)]
    for batches in epochs:
        assert sorted(row for batch in batches for row in batch) == list(range(1000))
    assert epochs[0] != epochs[1]


def test_rows_that_fill_no_batch_wait_for_another_epoch():
    order = BatchOrder(10, 4, seed=0)
    seen = Counter(row for step in range(200) for row in order[step])
    assert sorted(seen) == list(range(10))
    assert all(len(set(order[step])) == 4 for step in range(20))


def test_seeds_give_different_orders():
    assert BatchOrder(100, 8, seed=0)[0] != BatchOrder(100, 8, seed=1)[0]


def test_texts_of_similar_length_share_a_batch():
    def padding(order):
        batches = [[LENGTHS[row] for row in order[step]] for step in range(125)]
        return sum(max(lengths) * len(lengths) - sum(lengths) for lengths in batches) / sum(LENGTHS)

    assert padding(BatchOrder(1000, 8, seed=0, lengths=LENGTHS)) < 0.1
    assert padding(BatchOrder(1000, 8, seed=0)) > 0.5


def test_batches_of_a_pool_come_in_no_order_of_length():
    order = BatchOrder(256, 8, seed=0, lengths=LENGTHS[:256])  # one pool
    means = [sum(LENGTHS[row] for row in order[step]) for step in range(32)]
    assert means != sorted(means)


def test_fewer_rows_than_a_batch_make_one_batch():
    order = BatchOrder(3, 8, seed=0)
    assert sorted(order[0]) == sorted(order[5]) == [0, 1, 2]


def test_no_rows_at_all_are_refused_in_a_sentence():
    with pytest.raises(UserError, match="no text, or pair, is short enough; raise "):
        BatchOrder(0, 8, seed=0)


def test_a_steps_random_numbers_depend_on_seed_and_step_alone():
    def draw(seed, step):
        return torch.rand(4, generator=step_generator(seed, step)).tolist()

    assert draw(0, 5) == draw(0, 5)
    assert len({tuple(draw(seed, step)) for seed in range(3) for step in range(3)}) == 9


# The learning rate and the optimisers


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))


def test_the_learning_rate_warms_up_and_falls_to_nothing(model):
    optimisers = optimizers(model, 1.0)
    rates = []
    for step in range(101):
        set_learning_rate(optimisers, 0.5, step, steps=100, warmup=10)
        (rate,) = {group["lr"] for optimizer in optimisers for group in optimizer.param_groups}
        rates.append(rate)
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10] == pytest.approx(0.5)
    assert rates[55] == pytest.approx(0.25)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0)


def test_no_warm_up_begins_at_the_peak(model):
    optimisers = optimizers(model, 1.0)
    set_learning_rate(optimisers, 0.5, 0, steps=10, warmup=0)
    assert optimisers[0].param_groups[0]["lr"] == pytest.approx(0.5)


def trained(optimizer):
    return [id(p) for group in optimizer.param_groups for p in group["params"]]


def test_every_weight_has_one_optimiser_and_only_matrices_have_muon(model):
    muon, adam = optimizers(model, 1e-3)
    assert sorted(trained(muon)) == sorted(map(id, (model[1].weight, model[3].weight)))
    assert sorted(trained(muon) + trained(adam)) == sorted(map(id, model.parameters()))


def test_frozen_and_tied_weights():
    config = T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    model = T5ForConditionalGeneration(config)
    model.encoder.block[0].requires_grad_(False)
    muon, adam = optimizers(model, 1e-3)
    assert sorted(trained(muon) + trained(adam)) == sorted(
        id(p) for p in model.parameters() if p.requires_grad
    )
    # tied: the matrix that writes is the embedding, which Muon is not for
    assert id(model.lm_head.weight) in trained(adam)


def test_gpt2s_matrices_have_muon_too():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    muon, adam = optimizers(model, 1e-3)
    block = model.transformer.h[0]
    matrices = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    assert sorted(trained(muon)) == sorted(id(matrix.weight) for matrix in matrices)
    assert id(model.lm_head.weight) in trained(adam)


def test_without_muon_adamw_trains_all_and_decays_the_matrices_alone():
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.LayerNorm(6))
    model[2].bias.requires_grad_(False)
    (adam,) = optimizers(model, 1e-3, 0.1, muon=False)
    assert isinstance(adam, torch.optim.AdamW)
    decayed, rest = adam.param_groups
    assert decayed["weight_decay"] == 0.1 and [id(p) for p in decayed["params"]] == [id(model[1].weight)]
    assert rest["weight_decay"] == 0 and {id(p) for p in rest["params"]} == {
        id(p) for p in (model[0].weight, model[1].bias, model[2].weight)
    }


# Resume states


def advance(model, optimisers, ema, steps):
    for step in steps:
        x = torch.randint(7, (5,), generator=step_generator(0, step))
        model(x).square().sum().backward()
        for optimizer in optimisers:
            optimizer.step()
            optimizer.zero_grad()
        ema.step(model.parameters())


def fresh():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
    return model, optimizers(model, 1e-2), EMAModel(model.parameters(), decay=0.9, use_ema_warmup=True)


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


# A whole run


class Fitting:
    """A run of a few steps on a tiny objective; `at` is called before the update of each step, with loss and model."""

    def __init__(self, folder, steps=6, at=lambda step, loss: loss):
        self.folder, self.at = folder, at
        self.recipe = Recipe(name="run", output=str(folder), dtype="float32")
        self.settings = TrainDenoiserConfig(steps=steps, batch_size=4, warmup_steps=2, save_every=100)

    def __call__(self):
        """The trained weights; the state stays."""
        model, _, ema = fresh()
        run = Run(self.recipe, "denoiser", self.folder / "train" / "state.safetensors", self.settings, quiet=True)
        model = run.prepare(model, ["a"], ema=ema)
        for step, rows in run.steps(BatchOrder(7, 4, seed=0)):
            run.update(self.at(step, model(torch.tensor(rows)).square().mean()))
        return [p.detach().clone() for p in run.finish().parameters()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_the_step_and_ends_the_same_when_it_is_given_again(tmp_path, number, capsys):
    whole = Fitting(tmp_path / "whole")()

    def ask(step, loss):
        if step == 2:
            os.kill(os.getpid(), number)
        return loss

    @training(lambda fitting: fitting.folder)
    def main(fitting, quiet):
        fitting()

    with pytest.raises(Stopped) as error:
        main(Fitting(tmp_path / "run", at=ask))
    assert error.value.code == 128 + number
    assert "stopped after step 3 of 6, which is saved; the same command goes on" in capsys.readouterr().err
    assert all(map(torch.equal, Fitting(tmp_path / "run")(), whole))


def test_a_run_that_was_killed_after_its_last_step_has_nothing_to_do_again(tmp_path):
    whole, steps = Fitting(tmp_path)(), []
    again = Fitting(tmp_path, at=lambda step, loss: steps.append(step) or loss)()
    assert not steps and all(map(torch.equal, again, whole))


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_before_it_reaches_a_weight(tmp_path, broken):
    sound = Fitting(tmp_path / "sound", steps=6, at=lambda step, loss: loss)
    fails = Fitting(tmp_path / "run", at=lambda step, loss: loss * broken if step == 3 else loss)
    with pytest.raises(TrainingError, match=rf"denoiser: at step 4 the loss is {broken}.*learning_rate is 0.0.*name="):
        fails()
    failed = json.loads((tmp_path / "run" / "train" / "state.failed.json").read_text(encoding="utf-8"))
    assert failed["step"] == 3 and failed["loss"] == str(broken)
    assert failed["rows"] == BatchOrder(7, 4, seed=0)[3]
    assert all(p.isfinite().all() for p in sound())


def test_a_gradient_that_is_not_finite_does_as_well(tmp_path):
    def steep(step, loss):
        return (loss - loss.detach()).abs().sqrt() if step == 1 else loss  # 0, with an infinite slope

    with pytest.raises(TrainingError, match=r"at step 2 the loss is 0 and its gradient's norm (nan|inf)"):
        Fitting(tmp_path, at=steep)()


def test_several_processes_are_refused_for_they_would_train_copies(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="WORLD_SIZE is 2, but latdiff trains in one process only"):
        training(lambda recipe: tmp_path / "run")(lambda recipe, quiet: None)(None)
    assert not (tmp_path / "run").exists()


# The cache of latents


def test_latents_come_back_for_the_codec_that_made_them(tmp_path):
    latents = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    assert load_latents(tmp_path, "abc", "texts") is None
    save_latents(tmp_path, latents, "abc", "texts")
    assert torch.equal(load_latents(tmp_path, "abc", "texts"), latents)
    assert load_latents(tmp_path, "other", "texts") is load_latents(tmp_path, "abc", "other texts") is None


def test_a_torn_cache_counts_as_none(tmp_path):
    save_latents(tmp_path, torch.zeros(5, 2, 3), "abc", "texts")
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    assert load_latents(tmp_path, "abc", "texts") is None


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
