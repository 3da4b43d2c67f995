"""What the training loops share: data order, learning rate, optimisers, and how a run stops."""

import hashlib
import json
import os
import signal
from collections import Counter

import pytest
import torch
from runs import fresh
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from latdiff.batches import BatchOrder, step_generator
from latdiff.config import Recipe
from latdiff.config.stages.denoiser import TrainDenoiserConfig
from latdiff.errors import UserError
from latdiff.muon import Float32Muon
from latdiff.optimising import optimizers, set_learning_rate
from latdiff.stopping import Stopped
from latdiff.training import Run, TrainingError, training

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


@pytest.mark.parametrize("lengths, digest", [(None, "9fe4a46a1230b6da"), (LENGTHS, "8d37681dbecc4102")])
def test_the_order_that_every_published_figure_is_of_stays_what_it_is(lengths, digest):
    order = BatchOrder(1000, 8, seed=3, lengths=lengths)
    rows = json.dumps([order[step] for step in range(300)])
    assert hashlib.sha256(rows.encode()).hexdigest().startswith(digest)


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


@pytest.mark.parametrize("dtype, kind", [("float32", Float32Muon), ("bfloat16", torch.optim.Muon)])
def test_muon_computes_in_the_runs_dtype_where_that_is_fast(tmp_path, monkeypatch, dtype, kind):
    monkeypatch.setattr("latdiff.training.has_fast_bfloat16", lambda device: True)
    fitting = Fitting(tmp_path)
    run = Run(Recipe(name="run", dtype=dtype), "denoiser", tmp_path / "state", fitting.settings, quiet=True)
    run.prepare(fresh()[0], [])
    assert type(run.optimizers[0].optimizer) is kind


def test_losses_are_written_whatever_logs_them_and_those_of_a_run_that_went_on_are_of_one_that_did_not_stop(tmp_path):
    Fitting(tmp_path / "whole", steps=45)()
    whole = (tmp_path / "whole" / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["step"] for line in lines] == [1, 21, 41, 45]
    assert all(line["stage"] == "denoiser" and line["loss"] > 0 and line["gradient_norm"] > 0 for line in lines)
    assert lines[-1]["learning_rate"] < lines[1]["learning_rate"] <= 5e-3

    def stop(step, loss):
        if step == 43:
            raise KeyboardInterrupt
        return loss

    run = Fitting(tmp_path / "run", steps=45, at=stop)
    with pytest.raises(KeyboardInterrupt):
        run()
    curve = tmp_path / "run" / "metrics.jsonl"
    with open(curve, "a", encoding="utf-8") as file:
        file.write('{"stage": "autoencoder", "step": 1, "loss": 2.0}\n{"stage": "denoi')  # a kill cut it off
    Fitting(tmp_path / "run", steps=45)()
    others = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
    assert [line for line in others if line["stage"] == "autoencoder"] == [others[0]]
    assert others[1:] == lines
