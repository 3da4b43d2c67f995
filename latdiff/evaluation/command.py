"""What `latdiff evaluate` does: what is measured, on which corpus, with which judges, and what is written down.

A pipeline, a language model or a file of texts is opened, measured at every seed, averaged over them, and written as
one JSON document with pictures beside it.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from accelerate import PartialState
from diffusers import DiffusionPipeline

from latdiff.checkpoints import class_of, folder_of, name_of
from latdiff.codecs.files import load_codec
from latdiff.config import Recipe, sampler_words
from latdiff.data.corpus import load_corpus
from latdiff.errors import UserError, check_number, shown, whole_word
from latdiff.evaluation.asked import recipe_asked_for
from latdiff.evaluation.averaging import averaged
from latdiff.evaluation.card import write_card
from latdiff.evaluation.figures import require_matplotlib
from latdiff.evaluation.generators import Generator, LanguageModelGenerator, PipelineGenerator, TextsGenerator
from latdiff.evaluation.judges import FluencyJudge, LabelJudge, MauveJudge, SeenTexts, SimilarityJudge
from latdiff.evaluation.labelled import read_labelled_words
from latdiff.evaluation.metrics import require_packages
from latdiff.evaluation.pictures import draw_measured
from latdiff.evaluation.report import (
    check_writable,
    machine,
    older_figures,
    refuse_other_texts,
    summary,
    training_figures,
    write_json,
)
from latdiff.evaluation.rows import (
    Evaluation,
    Sections,
    by_class,
    denoising,
    reconstruction,
    reranked,
    unsteered,
)
from latdiff.evaluation.scoring import Scorer
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import label_heads
from latdiff.pipelines.defaults import LEAST_KEEP
from latdiff.pipelines.files import load_for_commands
from latdiff.pipelines.latent import LatentTextDiffusionPipeline
from latdiff.pipelines.output import check_guides
from latdiff.precision import default_device
from latdiff.processes import launched, shared_out

LATENT, OTHER, MODEL, FILE = "a latent pipeline", "another pipeline", "a language model", "a file of texts"
TAKEN_BY = dict.fromkeys(("samplers", "scale", "sweep_scale", "guidance_scale", "decode", "keep"), (LATENT,)) | {
    "recipe": (OTHER, MODEL, FILE), "rerank": (OTHER, MODEL), "top_p": (MODEL,), "text_column": (FILE,),
}  # options that only some kinds of generator know
Measure = tuple[Callable[[int], Sections], dict]  # what measures at a seed, and what is the same for all seeds


def run(options: argparse.Namespace) -> None:
    """`latdiff evaluate`: measure, write the document, draw it, print its summary.

    Of several processes each measures some of the rows, and the main one writes and prints.
    """
    with launched() as state:
        options.quiet = options.quiet or not state.is_main_process
        _run(options, state)


def _run(options: argparse.Namespace, state: PartialState) -> None:
    place = Path(options.checkpoint)
    kind = _kind(place)
    _check(options, kind)
    if options.json is None:
        here = place.is_dir() and Path(options.given).expanduser().is_dir()
        options.json = place / "metrics.json" if here else Path(f"{Path(options.given).name}.json")
    older_figures(options.json)  # refuses to replace a file of another kind
    if state.is_main_process:
        check_writable(options.json)
    began, labelled = time.monotonic(), list(read_labelled_words("--judge", options.judge))
    measure, document = (_measure_pipeline if kind == LATENT else _measure_texts)(options, place, labelled)
    seeds = list(range(options.seed, options.seed + options.seeds))
    measured = averaged(_measured([measure(seed) for seed in seeds]))
    if not state.is_main_process:
        return
    trained = training_figures(place) if place.is_dir() else {}
    what = {"checkpoint": name_of(options.given), "seeds": seeds, "machine": machine(),
            "date": datetime.date.today().isoformat()}
    what |= {"data": Path(options.data).name} if options.data else {}
    what |= {"processes": state.num_processes} if state.num_processes > 1 else {}  # the pace of each is its own
    document = trained | what | document | measured
    document["evaluation_minutes"] = round((time.monotonic() - began) / 60, 2)
    write_json(options.json, document)
    draw_measured(document, options.json)
    if kind == LATENT and options.json.resolve() == (place / "metrics.json").resolve():
        write_card(place)
    print(summary(document), f"-> {options.json}", sep="\n")


def _measured(documents: list[Sections]) -> list[dict]:
    """Documents with the rows of their sections, which the processes share."""
    rows = iter(shared_out([one for sections in documents for tasks in sections.values() for one in tasks]))
    listed = ([row] if isinstance(row, dict) else row for row in rows)
    return [{name: [row for of_one in itertools.islice(listed, len(tasks)) for row in of_one]
             for name, tasks in sections.items()} for sections in documents]


def _kind(place: Path) -> str:
    """What writes the texts of a place, by what lies there."""
    if place.is_file():
        return FILE
    index = place / "model_index.json"
    if not index.exists() and (place / "config.json").exists():
        return MODEL
    # a folder that holds nothing of all that is refused by open_checkpoint, with the pipelines beside it
    return LATENT if not index.exists() or issubclass(class_of(index), LatentTextDiffusionPipeline) else OTHER


def _check(options: argparse.Namespace, kind: str) -> None:
    """Everything that can be wrong with the words, before anything loads."""
    idle = [flag for flag, kinds in TAKEN_BY.items() if kind not in kinds and getattr(options, flag) is not None]
    if idle:
        said = " and ".join(f"--{flag.replace('_', '-')}" for flag in idle)
        raise UserError(f"{options.checkpoint} is {kind}, which does not take {said}; leave that out")
    scales = {"--sweep-scale": options.sweep_scale or [], "--guidance-scale": options.guidance_scale or [],
              "--scale": [options.scale or 0.0]}
    for flag, values in scales.items():
        if not all(map(math.isfinite, values)):
            raise UserError(f"{flag} has {', '.join(map(str, values))}, must be finite numbers")
    for flag, value in (("--num-samples", options.num_samples), ("--seeds", options.seeds)):
        if value < 1:
            raise UserError(f"{flag} is {value}, must be 1 or more")
    for text in options.samplers or []:
        sampler_words(text)
    if options.rerank:
        _rerank_words(options.rerank)
    if options.top_p is not None:
        check_number("--top-p", options.top_p, above=0, most=1)
    if options.keep is not None:
        check_number("--keep", options.keep, LEAST_KEEP, 1)
    require_matplotlib()
    require_packages()


def _measure_pipeline(options: argparse.Namespace, folder: Path, labelled: list) -> Measure:
    """How our own pipeline is measured, against the corpus that it was trained on."""
    pipe = load_for_commands(folder, options.quiet)
    recipe = recipe_asked_for(folder / "recipe.yaml", options.given, options.data)
    if options.decode:
        pipe.codec.check_options(preset=options.decode)
        pipe.register_to_config(decoding=options.decode)
    heads, keep = label_heads(folder), 1.0 if options.keep is None else options.keep
    samplers = options.samplers or [f"{recipe.sampling.scheduler}:{pipe.config.num_inference_steps}", "renoise:25"]
    samplers = [sampler_words(text) for text in samplers]
    scorer = _scorer(options, recipe, heads, labelled)
    if options.data is None:
        refuse_other_texts(folder, scorer.corpus.digest, "put them back, or give --data PATH to compare with")
    if recipe.data.reads_source and not any(pipe.codec.fits(scorer.corpus.valid_conditions)):
        raise UserError(f"{recipe.data.source}: every unseen source is longer than the autoencoder reads")

    def measure(seed: int) -> Sections:
        evaluation = Evaluation(pipe, scorer, options.num_samples, seed, keep)
        return evaluation.everything(heads, samplers, options.scale, options.sweep_scale,
                                     options.guidance_scale or (1.0, 2.0))

    unseen = scorer.corpus.valid[: options.num_samples]
    back = reconstruction(pipe.codec, unseen, options.seed, pipe.decoding, bleu=True)
    of_training = (training_figures(folder).get("reconstruction") or {}) | back
    return measure, _of_all_seeds(scorer, options) | {
        "machine": machine(pipe.config.dtype), "decoding": pipe.decoding, "keep": keep,
        "reconstruction": of_training, "denoising": denoising(pipe, unseen, options.seed),
    }


def _measure_texts(options: argparse.Namespace, place: Path, labelled: list) -> Measure:
    """How anything else that writes texts is, against the recipe's corpus that lies beside it or is named."""
    own = place / "recipe.yaml"
    if not (options.recipe or own.exists()):
        raise UserError(f"{place} has no recipe.yaml beside it, which says what its texts should be like; name one: "
                        "--recipe storyworld, or the path of a checkpoint's recipe.yaml")
    recipe = recipe_asked_for(own, options.given, options.data, options.recipe)
    generator = _generator(options, place)
    folder, k = _rerank_words(options.rerank) if options.rerank else (None, 0)
    folder = folder and folder_of(folder)
    codec, heads = (load_codec(folder), label_heads(folder)) if folder else (None, [])
    if folder and not heads:
        raise UserError(f"--rerank: {folder} has no heads of labels; fit one with `latdiff fit-head`")
    if codec is not None:
        codec.to(default_device())
        for head in heads:
            check_guides(codec, [head.toward(head.classes_[0])])
    scorer = _scorer(options, recipe, heads, labelled)
    if generator.classes and sorted(generator.classes) != sorted(scorer.corpus.classes):
        classes = ", ".join(scorer.corpus.classes) or "none"
        raise UserError(f"{place} is conditioned on the classes {', '.join(generator.classes)}, but those of the "
                        f"corpus that it is held against are: {classes}; name the recipe that it was trained with")

    def measure(seed: int) -> Sections:
        asked = generator, scorer, options.num_samples, seed
        found: Sections = {"unconditional": [partial(unsteered, *asked)]}
        if generator.classes:
            found["by_class"] = [partial(by_class, *asked)]
        if codec is not None:
            sets = [*([head] for head in heads), *map(list, itertools.combinations(heads, 2))]
            found["reranked"] = [partial(reranked, *asked, codec, sets, k)]
        return found

    return measure, _of_all_seeds(scorer, options)


def _generator(options: argparse.Namespace, place: Path) -> Generator:
    """Raises UserError where there is none, or a file holds too few texts for all seeds."""
    kind = _kind(place)
    if kind == OTHER:
        return PipelineGenerator(load_for_commands(place, options.quiet, DiffusionPipeline))
    if kind == MODEL:
        return LanguageModelGenerator(place, options.top_p or 1.0)
    texts = TextsGenerator(str(place), options.text_column or "text")
    texts.generate(None, options.num_samples, options.seed + options.seeds - 1)
    return texts


def _rerank_words(text: str) -> tuple[Path, int]:
    """'checkpoints/storyworld:8' -> its path and 8. Raises UserError for anything else."""
    folder, _, k = text.rpartition(":")
    count = whole_word(k, 10_000) or 0
    if not folder or count < 2:
        raise UserError(f"--rerank is {shown(text, 200)}, must be CHECKPOINT:K, K from 2 to 10,000, e.g. "
                        "checkpoints/storyworld:8")
    return Path(folder), count


def _scorer(options: argparse.Namespace, recipe: Recipe, heads: list[AttributeHead], labelled: list) -> Scorer:
    if options.bert_score and not recipe.data.reads_source:
        raise UserError(f"--bert-score compares what is written for source texts, but data.condition of the recipe is "
                        f"{recipe.data.condition!r}; leave it out")
    corpus = load_corpus(recipe.data, recipe.seed)
    seen = [SeenTexts(recipe.data.condition_column, corpus.classes, corpus.train)] if corpus.classes else []
    judges = dict(_judges(labelled, [*seen, *heads]))
    fluency = FluencyJudge(options.fluency) if options.fluency else None
    if fluency and getattr(fluency.model.config, "classes", []):
        raise UserError(f"--fluency {options.fluency}: this language model is conditioned on classes, and hardly knows "
                        "texts without; train a judge with train_ar.condition_dropout=1 and another name")
    mauve = MauveJudge(options.mauve) if options.mauve else None
    similarity = SimilarityJudge(options.bert_score) if options.bert_score else None
    return Scorer(recipe, corpus, judges, fluency, mauve, similarity)


def _of_all_seeds(scorer: Scorer, options: argparse.Namespace) -> dict:
    return {"scorers": scorer.scorers(), "unseen": scorer.unseen(options.num_samples)}


def _judges(labelled: list[tuple[str, list[str], list]], heads: list) -> Iterator[tuple]:
    """Name and judge of heads, or of the model's classes, fitted on texts that neither has seen."""
    for name, texts, labels in labelled:
        known = [head for head in heads if head.name == name]
        if not known:
            there = ", ".join(head.name for head in heads) or "none"
            raise UserError(f"--judge names {shown(name)}; heads and classes of labels there: {there}")
        yield name, LabelJudge.apart_from(known, texts, labels)
