"""Pretrain a small T5 and its vocabulary on a corpus, to be frozen ever after.

    latdiff pretrain-backbone storyworld backbone.path=checkpoints/my-t5

Writes tokenizer and model to the recipe's `backbone.path`. The encoder reads a text with spans
masked, the decoder writes the whole text: the job it will have when latents replace the encoder.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration

from latdiff.batches import BatchOrder, step_generator
from latdiff.checkpoints import save_whole
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.data.tokens import (
    IGNORED,
    corrupt_spans,
    kept_report,
    labels_of,
    length_report,
    pad,
    short_enough,
    span_marks,
    tokenize,
    train_vocabulary,
)
from latdiff.errors import plain_errors
from latdiff.lm import load_tokenizer
from latdiff.models.backbone import BackboneError, decoder_logits, encode_features, fast_attention
from latdiff.processes import agreed, by_main, wait_for_everyone
from latdiff.training import Run, training

STATE = Path("train/backbone.safetensors")


@training(lambda recipe: Path(recipe.located(recipe.backbone.path)))
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = Path(recipe.located(recipe.backbone.path)), recipe.pretrain_backbone
    state = folder / STATE
    if agreed(finished(recipe)):
        print(f"{folder} already holds a finished backbone; delete it, or set backbone.path=checkpoints/NAME to "
              "pretrain another")
        return
    corpus = load_corpus(recipe.data, recipe.seed, extra=True)
    tokenizer = tokenizer_of(recipe, corpus)
    whole = tokenize(tokenizer, corpus.train + corpus.extra)
    ids = short_enough(whole, recipe.data.max_tokens)
    print(kept_report(len(ids), recipe.data.max_tokens, {"too long": len(whole) - len(ids)} | corpus.dropped))
    print(length_report(whole))

    torch.manual_seed(recipe.seed)
    model = fast_attention(T5ForConditionalGeneration(model_config(recipe, len(tokenizer))))
    print(f"T5 with {sum(p.numel() for p in model.parameters()):,} weights and {len(tokenizer):,} pieces -> {folder}")
    run = Run(recipe, "backbone", state, settings, quiet)
    model = run.prepare(model, corpus.train + corpus.extra)
    for step, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, ids.lengths)):
        batch = masked_batch([ids[i] for i in rows], tokenizer, recipe, step)
        with run.autocast():
            ids_in, mask, labels, eps = (run.own(x).to(run.device) for x in batch)
            loss = reconstruction_loss(model, ids_in, mask, labels, eps, run.mean)
        run.update(run.share(loss, [len(ids[i]) for i in rows]))
    write(recipe, run, tokenizer, corpus)


@by_main
def write(recipe: Recipe, run: Run, tokenizer, corpus: Corpus) -> None:
    """Measure the backbone on unseen texts, and save it."""
    model, folder = run.finish(), run.state.parents[1]
    print(table(model, tokenizer, corpus.valid[:500], recipe))
    save_whole(folder, "model.safetensors", model.to(torch.bfloat16).save_pretrained)
    run.state.unlink(missing_ok=True)
    print(f"{run.settings.steps} steps in {run.minutes:.1f} minutes -> {folder}")


def tokenizer_of(recipe: Recipe, corpus: Corpus):
    """That of the backbone's folder, trained on the corpus where there is none."""
    folder = Path(recipe.located(recipe.backbone.path))
    if not agreed((folder / "tokenizer_config.json").exists()):
        by_main(train_vocabulary)(corpus.train + corpus.extra, folder, recipe.pretrain_backbone.vocab_size)
        wait_for_everyone()
    return load_tokenizer(folder, lambda reason: BackboneError(
        f"the tokenizer in {folder} {reason}; delete its files to train another"
    ))


def finished(recipe: Recipe) -> bool:
    """Whether the recipe's backbone has its weights; what a kill has left behind them is deleted."""
    folder = Path(recipe.located(recipe.backbone.path))
    found = any(folder.glob("*.safetensors"))
    if found:
        (folder / STATE).unlink(missing_ok=True)
    return found


def model_config(recipe: Recipe, vocab_size: int) -> T5Config:
    """T5 1.1's layout (gated feed-forward) with tied embeddings, without dropout: steps are few."""
    settings = recipe.pretrain_backbone
    return T5Config(
        vocab_size=vocab_size, d_model=settings.width, d_kv=settings.width // settings.heads,
        d_ff=settings.ff_width, num_layers=settings.layers, num_heads=settings.heads, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=True, decoder_start_token_id=0,
    )


def masked_batch(rows: list[list[int]], tokenizer, recipe: Recipe, step: int):
    """Corrupted ids [B, T'], their mask, and labels [B, T] of the whole texts."""
    rng = random.Random(f"{recipe.seed}/mask/{step}")
    rates, marks = recipe.pretrain_backbone.mask_rates, span_marks(tokenizer)
    masked = [corrupt_spans(row, rng.choice(rates), marks, rng) for row in rows]
    noise = step_generator(recipe.seed, step)
    ids, mask = pad(masked, tokenizer.pad_token_id)
    sizes = recipe.pretrain_backbone.feature_noise * torch.rand(len(rows), 1, 1, generator=noise)
    eps = torch.randn(*ids.shape, recipe.pretrain_backbone.width, generator=noise) * sizes
    return ids, mask, labels_of(*pad(rows, tokenizer.pad_token_id)), eps


def reconstruction_loss(model, ids, mask, labels, eps, mean: Callable[[Tensor], Tensor]):
    """Cross-entropy of the whole text, in nats a token; eps [B, T, H] is in units of the features' own size.

    `mean` makes the mean over the whole batch of that over these rows.
    """
    features = encode_features(model, ids, mask)
    features = features + eps * mean(features.detach().pow(2).mean()).sqrt()
    logits = decoder_logits(model, features, labels, mask)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED)


@torch.no_grad()
def table(model, tokenizer, texts: list[str], recipe: Recipe) -> str:
    """Share of tokens right on unseen texts, teacher-forced, by mask rate, and of whole texts copied."""
    lines = ["mask rate   tokens right"]
    ids = short_enough(tokenize(tokenizer, texts), recipe.data.max_tokens)
    if not ids:
        return "no unseen text is short enough to measure on"
    whole, present = (x.to(model.device) for x in pad(ids, tokenizer.pad_token_id))
    labels, marks = labels_of(whole, present), span_marks(tokenizer)
    for rate in sorted(set(recipe.pretrain_backbone.mask_rates)):
        rng = random.Random(f"{recipe.seed}/table")
        masked = [corrupt_spans(row, rate, marks, rng) for row in ids]
        padded, mask = (x.to(model.device) for x in pad(masked, tokenizer.pad_token_id))
        logits = model(input_ids=padded, attention_mask=mask.long(), labels=labels).logits
        right = (logits.argmax(-1) == labels)[labels != IGNORED].float().mean().item()
        lines.append(f"{rate:9.2f}   {right:.3f}")
    # no autoencoder around this model can do better than the model alone
    written = model.generate(whole, attention_mask=present.long(), max_new_tokens=whole.shape[1], do_sample=False)
    written = F.pad(written[:, 1:], (0, whole.shape[1]), value=tokenizer.pad_token_id)[:, : whole.shape[1]]
    copied = (written == whole).all(1).float().mean().item()
    return "\n".join([*lines, f"unmasked texts copied exactly   {copied:.3f}"])


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
