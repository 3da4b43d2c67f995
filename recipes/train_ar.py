"""Train an autoregressive language model on the recipe's texts: a judge of fluency, and a rival that writes texts.

    latdiff train-ar storyworld train_ar.steps=3000

A GPT-2 with the backbone's vocabulary, written to checkpoints/NAME-ar; `latdiff evaluate --fluency` reads it, and
`latdiff evaluate checkpoints/NAME-ar` measures what it writes. It learns from the training texts alone, never from
samples. Where texts have classes, most of them follow their class; a judge of fluency is to be trained with
train_ar.condition_dropout=1.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from latdiff.batches import BatchOrder, step_generator
from latdiff.checkpoints import save_whole
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, load_corpus
from latdiff.data.tokens import IGNORED, labels_of, pad, short_enough, tokenize
from latdiff.errors import plain_errors
from latdiff.evaluation.card import write_baseline_card
from latdiff.evaluation.judges import FluencyJudge
from latdiff.evaluation.report import refuse_other_texts
from latdiff.lm import class_prefix, load_tokenizer
from latdiff.models.backbone import BackboneError, fast_attention
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.training import Run, training


@training(lambda recipe: Path(f"{recipe.folder}-ar"))
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = Path(f"{recipe.folder}-ar"), recipe.train_ar
    state = folder / "train" / "ar.safetensors"
    # with other data or another seed it would learn the texts that the checkpoint has not seen
    refuse_changes(recipe, ("seed", "data", "backbone"))
    refuse_changes(recipe, ("seed", "data", "backbone", "train_ar"), folder)
    if agreed((folder / "model.safetensors").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished model; delete it to train another, or set name=")
        return
    corpus = load_corpus(recipe.data, recipe.seed)
    refuse_other_texts(recipe.folder, corpus.digest, "put them back, or train the checkpoint anew")
    tokenizer = load_tokenizer(recipe.located(recipe.backbone.path), lambda _: BackboneError(
        f"backbone.path is {recipe.backbone.path!r}, where no tokenizer could be read; train the backbone first, "
        "with `latdiff train-ae` or `latdiff pretrain-backbone`, or name one that is there"
    ))
    by_main(recipe.save)(folder / "recipe.yaml", "train_ar")
    every = tokenize(tokenizer, corpus.train)
    ids = short_enough(every, recipe.data.max_tokens)
    shown = prefixes(recipe, corpus, tokenizer, [len(row) <= recipe.data.max_tokens for row in every])

    torch.manual_seed(recipe.seed)
    model = fast_attention(GPT2LMHeadModel(model_config(recipe, tokenizer, corpus.classes)))
    print(f"GPT-2 with {sum(p.numel() for p in model.parameters()):,} weights, {len(ids):,} texts -> {folder}")
    run = Run(recipe, "ar", state, settings, quiet)
    model = run.prepare(model, corpus.train + corpus.train_conditions, weight_decay=0.1)
    for step, chosen in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, ids.lengths)):
        torch.manual_seed(step_generator(recipe.seed, step).initial_seed())  # of the dropout, and whose class is shown
        begun = [shown[i] if shown and torch.rand(()) >= settings.condition_dropout else [] for i in chosen]
        rows, mask = pad([own + ids[i] for own, i in zip(begun, chosen, strict=True)], tokenizer.pad_token_id)
        given = list(map(len, begun))
        with run.autocast():
            loss = next_token_loss(model, run.own(rows).to(run.device), run.own(mask).to(run.device), run.own(given))
        run.update(run.share(loss, [len(ids[i]) for i in chosen]))
    write(run, tokenizer, corpus.valid)


@by_main
def write(run: Run, tokenizer, unseen: list[str]) -> None:
    """Save the language model, and measure it on unseen texts."""
    model, folder = run.finish(), run.state.parents[1]
    took = f"{run.settings.steps} steps in {run.minutes:.1f} minutes"
    write_baseline_card(folder, "causal language model, trained from scratch", "AutoModelForCausalLM",
                        f"Trained with {took}; `latdiff evaluate {folder}` measures what it writes.")
    save_whole(folder, "model.safetensors", tokenizer.save_pretrained, model.save_pretrained)
    run.state.unlink(missing_ok=True)
    found = FluencyJudge(folder).perplexity(unseen)
    print(f"perplexity of {len(unseen):,} unseen texts: {found['tokens']:.2f} a token, mean of the texts' own "
          f"{found['texts']:.2f}; {took} -> {folder}")


def prefixes(recipe: Recipe, corpus: Corpus, tokenizer, fits: list[bool]) -> list[list[int]]:
    """The classes of the texts that fit, as pieces to read before them; nothing where the recipe has no classes."""
    if not corpus.classes or recipe.train_ar.condition_dropout == 1:
        return []
    of_class = {one: class_prefix(tokenizer, one, tokenizer.pad_token_id) for one in corpus.classes}
    return [of_class[one] for one in itertools.compress(corpus.train_conditions, fits)]


def model_config(recipe: Recipe, tokenizer, classes: list[str]) -> GPT2Config:
    """GPT-2's layout; a text begins after the padding piece, as in a T5 decoder. Room for samples that run on."""
    settings = recipe.train_ar
    return GPT2Config(
        vocab_size=len(tokenizer), n_positions=2 * recipe.data.max_tokens, n_embd=settings.width,
        n_layer=settings.layers, n_head=settings.heads, bos_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        classes=classes if settings.condition_dropout < 1 else [],
    )


def next_token_loss(model, ids: Tensor, mask: Tensor, given: list[int]) -> Tensor:
    """Cross-entropy in nats a token of ids [B, T] with mask [B, T], end-of-text included, but for the first `given`."""
    start = ids.new_full((len(ids), 1), model.config.bos_token_id)
    inputs = torch.cat([start, ids[:, :-1]], dim=1)
    logits = model(inputs, attention_mask=torch.ones_like(inputs), use_cache=False).logits
    mask = mask & (torch.arange(ids.shape[1], device=ids.device) >= torch.tensor(given, device=ids.device)[:, None])
    return F.cross_entropy(logits.flatten(0, 1).float(), labels_of(ids, mask).flatten(), ignore_index=IGNORED)


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
