"""Train a judge of well-formed English: a text encoder that tells real texts from spoilt ones.

    latdiff train-wellformed english train_wellformed.judged_source=cola.jsonl

Half of the recipe's texts are spoilt in the ways in which decoders spoil them (data/spoiling.py), the other half are
not; texts that people judged, such as CoLA's, come on top. Written to checkpoints/NAME-wellformed, with the judge's
accuracy on unseen texts of each source in metrics.json.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification

from latdiff.bars import without_bars
from latdiff.batches import BatchOrder, step_generator
from latdiff.checkpoints import save_whole
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import load_corpus, load_labelled
from latdiff.data.spoiling import spoilt
from latdiff.data.tokens import plain_ids
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.judges import WellFormedJudge
from latdiff.evaluation.report import update_metrics
from latdiff.fetch import located
from latdiff.lm import load_tokenizer
from latdiff.processes import agreed, by_main
from latdiff.resuming import refuse_changes
from latdiff.training import Run, training

HELD_OUT = 500  # texts that people judged, at most a fifth of them


@training(lambda recipe: Path(f"{recipe.folder}-wellformed"))
def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = Path(f"{recipe.folder}-wellformed"), recipe.train_wellformed
    state = folder / "train" / "wellformed.safetensors"
    refuse_changes(recipe, ("seed", "data", "train_wellformed"), folder)
    if agreed((folder / "model.safetensors").exists()):
        state.unlink(missing_ok=True)  # a kill may have left it
        print(f"{folder} already holds a finished judge; delete it to train another, or set name=")
        return
    corpus = load_corpus(recipe.data, recipe.seed)
    train, unseen = examples(recipe, corpus.train[: settings.texts], corpus.valid)
    place = located(settings.encoder)
    tokenizer = load_tokenizer(place, lambda why: UserError(f"train_wellformed.encoder is {place!r}, which {why}"))
    by_main(recipe.save)(folder / "recipe.yaml", "train_wellformed")

    torch.manual_seed(recipe.seed)
    with without_bars(Path(place).is_dir()):  # of a hub id, they show what is fetched
        model = AutoModelForSequenceClassification.from_pretrained(
            place, num_labels=2, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            local_files_only=Path(place).is_dir(),
        )
    print(f"{len(train):,} texts, some spoilt or judged broken -> {folder}")
    run = Run(recipe, "wellformed", state, settings, quiet)
    model = run.prepare(model, [f"{label} {text}" for text, label in train], muon=False).train()
    ids = plain_ids(tokenizer, [text for text, _ in train], truncation=True, max_length=settings.max_tokens)
    order = BatchOrder(len(ids), settings.batch_size, recipe.seed, ids.lengths)
    for step, rows in run.steps(order):
        torch.manual_seed(step_generator(recipe.seed, step).initial_seed())  # of the dropout
        batch = tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt").to(run.device)
        wanted = torch.tensor([train[i][1] for i in rows], device=run.device)
        with run.autocast():
            logits = model(**{name: run.own(x) for name, x in batch.items()}).logits
            loss = F.cross_entropy(logits.float(), run.own(wanted))
        run.update(run.share(loss))
    write(run, tokenizer, unseen)


@by_main
def write(run: Run, tokenizer, unseen: dict[str, list]) -> None:
    """Save the judge with its accuracy on unseen texts."""
    finished, folder = run.finish(), run.state.parents[1]
    finished.config.max_tokens = run.settings.max_tokens
    figures: dict[str, float] = {}

    def measure(place: Path) -> None:
        judge = WellFormedJudge(place)
        figures.update({name: judge.accuracy(texts) for name, texts in unseen.items()})
        made = {"training_minutes": round(run.minutes, 2), "dtype": run.dtype}
        update_metrics(place, {"wellformed": figures | made})

    save_whole(folder, "model.safetensors", finished.save_pretrained, tokenizer.save_pretrained, measure)
    run.state.unlink(missing_ok=True)
    print(", ".join(f"right on {value:.3f} of unseen texts of {name}" for name, value in figures.items()))


def examples(recipe: Recipe, texts: list[str], valid: list[str]) -> tuple[list, dict[str, list]]:
    """Pairs of a text and whether it is well-formed, 0 or 1: to train on, and unseen ones of each source."""
    settings = recipe.train_wellformed
    train = paired(texts, recipe.seed)
    unseen = {"the corpus": paired(valid, recipe.seed + 1)}
    if settings.judged_source:
        judged, labels = load_labelled(settings.judged_source)
        if settings.judged_as_good not in labels:
            raise UserError(f"train_wellformed.judged_as_good is {settings.judged_as_good!r}, must be one of "
                            f"{', '.join(sorted(set(labels)))}, the labels of {settings.judged_source}")
        pairs = [(text, int(label == settings.judged_as_good)) for text, label in zip(judged, labels, strict=True)]
        random.Random(recipe.seed).shuffle(pairs)
        held = min(HELD_OUT, len(pairs) // 5)
        train, unseen["people's judgements"] = train + pairs[held:], pairs[:held]
    return train, unseen


def paired(texts: list[str], seed: int) -> list[tuple[str, int]]:
    """Every text, and every one spoilt."""
    return [(text, 1) for text in texts] + [(text, 0) for text in spoilt(texts, seed)]


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
