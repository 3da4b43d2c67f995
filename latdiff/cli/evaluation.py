"""`latdiff evaluate`: its options; evaluation/command.py does the work."""

from __future__ import annotations

import argparse
from pathlib import Path

from latdiff.cli.options import command_of, decode_option, keep_option, seed_option


def add_evaluate(commands) -> None:
    command = command_of(
        commands, "evaluate", run_evaluate,
        "measure a checkpoint, a language model or a file of texts; write every figure as JSON, and plots beside it",
        "storyworld or english, a folder such as checkpoints/mine or checkpoints/mine-ar, a hub id, or a file of texts",
    )
    command.set_defaults(all_processes=True)
    command.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (default: metrics.json in "
                         "the checkpoint's folder; NAME.json here for a file of texts or a hub id)")
    command.add_argument("--num-samples", type=int, default=1000, help="texts per figure (default 1000)")
    command.add_argument("--scale", type=float, help="scale of every guide (default: what is usual for the mode)")
    command.add_argument("--sweep-scale", nargs="*", type=float, metavar="SCALE",
                         help="also plot control against fluency into NAME-control-HEAD.png, every mode of every head "
                         "(default scales: 1/4 to 4 times the usual one)")
    command.add_argument("--guidance-scale", nargs="+", type=float, metavar="SCALE",
                         help="of classifier-free guidance, for a conditional model (default 1 2)")
    command.add_argument("--judge", action="append", default=[], metavar="HEAD=DATA[:COLUMN[:TEXTS]]",
                         help="labelled texts other than the head's, for a classifier of another kind that "
                         "judges whether a text has HEAD's label; or HEAD is the column of the classes that the model "
                         "is conditioned on; may be repeated (default columns: label and text)")
    command.add_argument("--fluency", metavar="MODEL", help="a causal language model, a folder, a hub id or "
                         "smollm2-135m-instruct, which `latdiff fetch` brings, whose perplexity of "
                         "the texts is measured; recipes/train_ar.py trains one, where there are classes "
                         "with train_ar.condition_dropout=1")
    command.add_argument("--mauve", metavar="MODEL", help="a language model or text encoder, folder or hub id, whose "
                         "hidden states MAUVE compares between samples and unseen texts")
    command.add_argument("--bert-score", metavar="MODEL", help="a text encoder, folder or hub id, whose hidden "
                         "states BERTScore compares between a text-conditional model's texts and the references")
    decode_option(command)
    keep_option(command)
    seed_option(command)
    command.add_argument("--seeds", type=int, default=5, metavar="N",
                         help="number of seeds, from --seed on, for means and standard deviations (default 5)")
    command.add_argument("--recipe", help="of a baseline: the recipe whose corpus it is compared with (default: "
                         "the recipe.yaml beside it)")
    command.add_argument("--data", metavar="PATH", help="the texts that it is compared with, in place of the "
                         "recipe's: a file or folder of jsonl/csv/tsv/txt/parquet, a hub id or storyworld; to be given "
                         "where a checkpoint's recipe names a file outside the current folder, or comes from the hub")
    command.add_argument("--top-p", type=float, metavar="P",
                         help="of a language model: nucleus sampling (default 1: ancestral sampling)")
    command.add_argument("--text-column", help="of a file: the column of the texts (default text)")
    command.add_argument("--rerank", metavar="CHECKPOINT:K", help="of a language model or a pipeline of another class: "
                         "also take the best of K of its texts, for every label of the heads of a pipeline's folder")
    command.add_argument("--samplers", nargs="+", metavar="NAME:STEPS",
                         help="unconditional rows (default: the checkpoint's own, and renoise:25)")


def run_evaluate(options: argparse.Namespace) -> None:
    from latdiff.evaluation.command import run

    run(options)
