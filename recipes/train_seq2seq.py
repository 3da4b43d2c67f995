"""Fine-tune the recipe's backbone on pairs of source and text: what a text-conditional denoiser is held against.

    latdiff train-seq2seq asset train_seq2seq.steps=3000

The same backbone, not frozen and without latents, written to checkpoints/NAME-seq2seq with the figures of what it
writes for unseen sources: those of `latdiff evaluate`, with the same decoding.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from latdiff.batches import BatchOrder, step_generator
from latdiff.checkpoints import save_whole
from latdiff.codecs.t5 import decoding
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.data.packed import PackedIds
from latdiff.data.tokens import IGNORED, labels_of, pad, tokenize
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.card import write_baseline_card
from latdiff.evaluation.metrics import require_packages
from latdiff.evaluation.report import write_json
from latdiff.evaluation.scoring import Pairs
from latdiff.models.backbone import decoder_logits, encode_features, load_backbone
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.training import Run, training

UNSEEN = 1000  # sources to write for


@training(lambda recipe: Path(f"{recipe.folder}-seq2seq"))
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = Path(f"{recipe.folder}-seq2seq"), recipe.train_seq2seq
    state = folder / "train" / "seq2seq.safetensors"
    if not recipe.data.reads_source:
        raise UserError(f"data.condition is {recipe.data.condition!r}, must be text or prefix: pairs are learnt here")
    refuse_changes(recipe, ("seed", "data", "backbone", "train_seq2seq"), folder)
    if agreed((folder / "model.safetensors").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished model; delete it to train another, or set name=")
        return
    require_packages()  # what it ends with needs them
    corpus = load_corpus(recipe.data, recipe.seed)
    tokenizer, model = load_backbone(recipe.located(recipe.backbone.path))
    by_main(recipe.save)(folder / "recipe.yaml", "train_seq2seq")
    most = recipe.data.max_tokens, recipe.autoencoder.max_tokens
    sides = [tokenize(tokenizer, rows) for rows in (corpus.train_conditions, corpus.train)]
    fit = [len(source) <= most[1] and len(text) <= most[0] for source, text in zip(*sides, strict=True)]
    sources, texts = (PackedIds(itertools.compress(side, fit)) for side in sides)
    print(f"{len(texts):,} pairs, {len(fit) - len(texts):,} too long -> {folder}")

    run = Run(recipe, "seq2seq", state, settings, quiet)
    torch.manual_seed(recipe.seed)
    model.requires_grad_(True).train()
    model = run.prepare(model, corpus.train + corpus.train_conditions)
    order = BatchOrder(len(texts), settings.batch_size, recipe.seed, sources.lengths)
    for step, rows in run.steps(order):
        torch.manual_seed(step_generator(recipe.seed, step).initial_seed())  # of the dropout, if there is any
        batch = [pad([side[i] for i in rows], tokenizer.pad_token_id) for side in (sources, texts)]
        with run.autocast():
            loss = pair_loss(model, *(run.own(x).to(run.device) for x in itertools.chain(*batch)))
        run.update(run.share(loss, [len(texts[i]) for i in rows]))
    measure(recipe, run, tokenizer, corpus)


@by_main
def measure(recipe: Recipe, run: Run, tokenizer, corpus: Corpus) -> None:
    """Save the model with the figures of what it writes for unseen sources."""
    model, folder = run.finish(), run.state.parents[1]
    most = recipe.data.max_tokens, recipe.autoencoder.max_tokens
    unseen = Pairs.of(corpus, lambda texts: [len(row) <= most[1] for row in tokenize(tokenizer, texts)], UNSEEN)
    figures = unseen.figures(write(model, tokenizer, unseen.sources, most[0], recipe.sampling.decoding or "greedy"))
    document = {"training_minutes": round(run.minutes, 2), "dtype": run.dtype, "by_source": [figures]}
    write_json(folder / "metrics.json", document)
    measured = (f"BLEU {figures['bleu']:.1f}, SARI {figures['sari']:.1f}, {figures['n']:,} unseen sources; "
                f"{run.settings.steps} steps in {run.minutes:.1f} minutes")
    write_baseline_card(folder, "backbone, fine-tuned on pairs of source and text", "AutoModelForSeq2SeqLM",
                        f"Measured: {measured}.")
    save_whole(folder, "model.safetensors", tokenizer.save_pretrained, model.save_pretrained)
    run.state.unlink(missing_ok=True)
    print(f"{measured} -> {folder}")


def pair_loss(model, source: Tensor, source_mask: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy in nats a token of ids [B, T] with mask [B, T], given source [B, T'] with source_mask [B, T']."""
    logits = decoder_logits(model, encode_features(model, source, source_mask), labels_of(ids, mask), source_mask)
    return F.cross_entropy(logits.flatten(0, 1).float(), labels_of(ids, mask).flatten(), ignore_index=IGNORED)


@torch.no_grad()
def write(model, tokenizer, sources: list[str], max_tokens: int, preset: str) -> list[str]:
    """A text for each of the sources."""
    texts: list[str] = []
    ids = tokenize(tokenizer, sources)
    for start in range(0, len(ids), 64):
        padded, mask = (x.to(model.device) for x in pad(ids[start : start + 64], tokenizer.pad_token_id))
        written = model.generate(padded, attention_mask=mask.long(), max_new_tokens=max_tokens, **decoding(preset))
        texts += tokenizer.batch_decode(written, skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
