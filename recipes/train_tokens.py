"""Train diffusion of the tokens themselves on the recipe's texts: masked, in blocks, or uniform.

    latdiff train-tokens masked train_tokens.steps=500

The rivals of latent diffusion that have a likelihood. Takes the backbone's vocabulary, fills every text up with its end
to data.max_tokens, resumes where an earlier run stopped, and writes a pipeline to checkpoints/NAME.
"""

from __future__ import annotations

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from latdiff.batches import BatchOrder
from latdiff.checkpoints import save_whole
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import load_corpus
from latdiff.data.tokens import kept_report, length_report, short_enough, tokenize
from latdiff.errors import plain_errors
from latdiff.evaluation.card import write_card
from latdiff.evaluation.report import update_metrics
from latdiff.lm import load_tokenizer
from latdiff.models.backbone import BackboneError, fast_attention
from latdiff.models.token_model import token_model
from latdiff.pipelines.tokens import TokenDiffusionPipeline
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.training import Run, training

SETTINGS = ("seed", "data", "backbone", "tokens", "train_tokens")  # that its result depends on


@training(lambda recipe: recipe.folder)
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = recipe.folder, recipe.train_tokens
    state = folder / "train" / "tokens.safetensors"
    refuse_changes(recipe, SETTINGS)
    if agreed((folder / "model_index.json").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished pipeline; delete it to train another, or set name=")
        return
    corpus = load_corpus(recipe.data, recipe.seed)
    tokenizer = load_tokenizer(recipe.located(recipe.backbone.path), lambda _: BackboneError(
        f"backbone.path is {recipe.backbone.path!r}, where no tokenizer could be read; train the backbone first, "
        "with `latdiff pretrain-backbone`, or name one that is there"))
    by_main(recipe.save)(folder / "recipe.yaml", "train_tokens")
    whole = tokenize(tokenizer, corpus.train)
    ids = short_enough(whole, recipe.data.max_tokens)
    print(kept_report(len(ids), recipe.data.max_tokens, {"too long": len(whole) - len(ids)} | corpus.dropped))
    print(length_report(whole))

    torch.manual_seed(recipe.seed)
    model = fast_attention(token_model(len(tokenizer), recipe.tokens.width, recipe.tokens.layers, recipe.tokens.heads,
                                       recipe.data.max_tokens))
    print(f"{recipe.tokens.process} diffusion with {sum(p.numel() for p in model.parameters()):,} weights -> {folder}")
    ema = EMAModel(model.parameters(), decay=settings.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
    run = Run(recipe, "tokens", state, settings, quiet)
    model = run.prepare(model, corpus.train, weight_decay=0.1, ema=ema)
    process = pipeline(recipe, tokenizer, model).process
    for step, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed)):
        batch = filled_up([ids[row] for row in run.own(rows)], recipe.data.max_tokens, tokenizer.eos_token_id)
        with run.autocast():
            loss = process.loss(model, batch.to(run.device), run.draws())
        run.update(run.share(loss))
        if run.shows(settings.sample_every) and step + 1 < settings.steps:
            run.show([("sample", text) for text in samples(recipe, pipeline(recipe, tokenizer, model), 3)])

    write_pipeline(recipe, run, tokenizer, corpus.digest, quiet)


def filled_up(rows: list[list[int]], length: int, end_id: int) -> Tensor:
    """Texts [B, L], the end of each repeated up to L: a model has to be able to choose how long a text is."""
    return torch.tensor([row + [end_id] * (length - len(row)) for row in rows])


def pipeline(recipe: Recipe, tokenizer, model) -> TokenDiffusionPipeline:
    made = TokenDiffusionPipeline(
        tokenizer, model, recipe.tokens.process, recipe.data.max_tokens, recipe.tokens.block_size,
        recipe.tokens.sampling_steps, recipe.tokens.top_p)
    made.set_progress_bar_config(disable=True)
    return made


def samples(recipe: Recipe, pipe: TokenDiffusionPipeline, n: int) -> list[str]:
    return pipe(n, generator=torch.Generator().manual_seed(recipe.seed)).texts


@by_main
def write_pipeline(recipe: Recipe, run: Run, tokenizer, digest: str, quiet: bool) -> None:
    """Save the pipeline with a few samples, its figures and its card."""
    folder = recipe.folder
    pipe = pipeline(recipe, tokenizer, run.finish())
    texts = samples(recipe, pipe, 20)
    (folder / "samples.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    update_metrics(folder, {"training": {"tokens_minutes": round(run.minutes, 2), "tokens_steps": run.settings.steps,
                                         "dtype": run.dtype, "texts_digest": digest}})
    write_card(folder)
    save_whole(folder, "model_index.json", pipe.save_pretrained)
    run.state.unlink(missing_ok=True)
    print(*([] if quiet else texts[:5]), f"trained in {run.minutes:.1f} minutes -> {folder}", sep="\n")


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
