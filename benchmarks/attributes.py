"""Measure how well heads steer real text, beside what a user would do instead, and write every figure as JSON.

    python benchmarks/attributes.py english --head sentiment --judge data/english/sentiment-judge.jsonl \\
        --guide kind=review --prompt positive="Write one short positive sentence from a restaurant review." \\
        --fudge-data data/english/sentiment-head.jsonl --fudge-prompt "Write one sentence from a restaurant review." \\
        --fluency smollm2-135m-instruct --json docs/lab/results/english-sentiment.json --plot sentiment.svg

One head is steered to each of its labels; several, to each combination of theirs. The rows are real texts, samples
without a guide, samples steered at 1, 2 and 4 times the usual scale, the best of K samples by the same heads, what an
instruct model writes when it is asked, the same language model by FUDGE (benchmarks/fudge.py), and one that learnt the
classes. A judge of another kind, fitted on texts that no head has seen, says whether a text is right; half of its texts
are the real ones in the table and are kept from it.

With --prefixes every row goes on from the first words of the same real texts, one text each. Right is then what goes on
alone, and real is how the texts themselves went on; perplexity is that of both together.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the parts in benchmarks/, where this is run as a file
from benchmarks.curves import check_picture
from benchmarks.curves import draw as draw_curves
from benchmarks.fudge import Fudge
from benchmarks.measured import SHOWN, Measured, judge_and_real
from benchmarks.rivals import ClassModel, Writer, read_prompts
from benchmarks.starts import check_unseen, starts_of
from benchmarks.table import Table, title
from latdiff.checkpoints import folder_of
from latdiff.cli.guides import guide_words, read_guides
from latdiff.data.corpus import load_labelled
from latdiff.data.splits import Split
from latdiff.errors import UserError, nearest, plain_errors
from latdiff.evaluation.judges import FluencyJudge, MauveJudge, WellFormedJudge
from latdiff.evaluation.report import check_writable, machine
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.files import load_head
from latdiff.heads.inputs import HeadError
from latdiff.pipelines.files import load_for_commands

PREFIX_WORDS = 4


def targets_of(heads: list[AttributeHead], wanted: Sequence[str] = ()) -> list[dict[str, str]]:
    """Every combination of the heads' labels, or those whose titles are wanted. Raises UserError for unknown ones."""
    names = [head.name for head in heads]
    every = itertools.product(*(map(str, head.classes_) for head in heads))
    found = {title(one): one for one in (dict(zip(names, labels, strict=True)) for labels in every)}
    check_titles("--target", wanted, list(found))
    return [found[one] for one in wanted or found]


def check_titles(flag: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Raise UserError for a title that is not among the known ones."""
    for one in given:
        if one not in known:
            raise UserError(f"{flag} is of {one!r}, must be of one of {', '.join(known)}{nearest(one, known)}")


def attribute_head(folder: Path) -> AttributeHead:
    """A head of labels; raises HeadError for one of numbers."""
    head = load_head(folder)
    if not isinstance(head, AttributeHead):
        raise HeadError(f"head {head.name!r} is of numbers, which no judge here can judge; name a head of labels")
    return head


def fitted_fudge(
    options: argparse.Namespace, writer: Writer, labelled: list[tuple[list[str], list[str]]],
    heads: list[AttributeHead],
) -> tuple[Fudge, dict]:
    """FUDGE with a classifier for each head, and what stands beside its figures."""
    fudge = Fudge(writer.tokenizer, writer.model, writer.begun(options.fudge_prompt), options.fudge_top)
    reports = {head.name: fudge.fit(head.name, texts, labels) | {"texts_of_the_head": sum(head.saw(texts))}
               for head, (texts, labels) in zip(heads, labelled, strict=True)}
    return fudge, {"reads": "the mean of the language model's last states of the tokens so far", "top": fudge.top,
                   "prompt": options.fudge_prompt, "classifiers": reports}


def read_starts(options: argparse.Namespace) -> list[Split]:
    """First words for the longest row, none without --prefixes."""
    if not options.prefixes:
        return []
    longest = max(options.num_samples, options.best * bool(options.best_of), options.fudge_samples * bool(
        options.fudge_data))
    return starts_of(options.prefixes, options.prefix_label, options.prefix_words or PREFIX_WORDS, longest)


def fudge_data(options: argparse.Namespace, heads: list[AttributeHead]) -> list[tuple[list[str], list[str]]]:
    """Texts and labels for each head. Raises UserError for labels that are not the head's."""
    found = [load_labelled(source, limit=options.fudge_limit) for source in options.fudge_data]
    for head, source, (_, labels) in zip(heads, options.fudge_data, found, strict=False):
        if set(labels) != set(map(str, head.classes_)):
            raise UserError(f"--fudge-data is {source}, whose labels are {', '.join(sorted(set(labels)))}, but those "
                            f"of head {head.name!r} are {', '.join(map(str, head.classes_))}; give texts with these")
    return found


def main() -> None:
    options = _options()
    prompts, guides = read_prompts(options.prompt), guide_words(options.guide)
    check(options)
    folder = folder_of(options.checkpoint)
    heads = [attribute_head(folder / "heads" / name) for name in options.head]
    targets = targets_of(heads, options.target)
    check_titles("--prompt", list(prompts), list(map(title, targets)))
    always = read_guides(folder, guides)
    starts = read_starts(options)
    check_unseen(heads, [start.text for start in starts], str(options.prefixes))
    labelled = fudge_data(options, heads)
    known = [text for texts, _ in labelled for text in texts]
    judged = {head.name: judge_and_real(head, source, starts, known)
              for head, source in zip(heads, options.judge, strict=True)}
    pipe = load_for_commands(folder, quiet=True)
    if starts and not pipe.codec.continues:
        raise UserError(f"--prefixes is {options.prefixes}, but the texts of {options.checkpoint} do not go on from "
                        "first words; leave it out, or train with data.condition=start")
    classes = ClassModel(options.class_lm, list(map(title, targets))) if options.class_lm else None
    writer = Writer(options.writer) if starts or prompts or labelled else None
    if writer:
        for prompt in [*prompts.values(), options.fudge_prompt]:
            writer.begun(prompt)  # which a language model that cannot be asked refuses
    fluency = FluencyJudge(options.fluency) if options.fluency else None
    wellformed = WellFormedJudge(options.wellformed) if options.wellformed else None
    mauve = MauveJudge(options.mauve) if options.mauve else None
    fudge, how = fitted_fudge(options, writer, labelled, heads) if writer and labelled else (None, None)
    table = Table(options, pipe, always, starts, Measured(
        {name: judge for name, (judge, _) in judged.items()}, fluency, wellformed, mauve), {
        "checkpoint": folder.name, "seed": options.seed, "cond": options.cond, "guides": options.guide,
        "machine": machine(pipe.config.dtype), "date": datetime.date.today().isoformat(),
        "steps": pipe.config.num_inference_steps, "fluency": options.fluency,
        "wellformed": options.wellformed, "mauve": options.mauve, "decoding": options.decode or pipe.decoding,
        "heads": {head.name: head.report for head in heads},
        "judges": {name: judge.describe() for name, (judge, _) in judged.items()},
    } | (described(options, starts) if starts else {}) | ({"fudge": how} if how else {}))
    table.samples(targets, heads, real_texts(targets, {name: real for name, (_, real) in judged.items()}))
    table.rivals(targets, prompts, writer, fudge, classes)
    if options.plot:
        draw_curves(table.document, options.plot)


def real_texts(targets: list[dict[str, str]], labelled: dict[str, dict[str, list[str]]]) -> dict[str, list[str]]:
    """By the title of each target, the texts that have its labels in the labelled texts of every head; maybe none."""
    found = {}
    for target in targets:
        first, *others = (labelled[name].get(label, []) for name, label in target.items())
        known = [set(texts) for texts in others]
        found[title(target)] = [text for text in first if all(text in texts for texts in known)]
    return found


def described(options: argparse.Namespace, starts: list[Split]) -> dict:
    """What a document says of first words."""
    return {"prefixes": {
        "file": Path(options.prefixes).name, "label": options.prefix_label,
        "words": options.prefix_words or PREFIX_WORDS, "n": len(starts),
        "judged": "what goes on alone; well_formed and perplexity are of the first words and what goes on together",
        "first_words": [start.before for start in starts[:SHOWN]],
    }}


def check(options: argparse.Namespace) -> None:
    """Raise UserError, before anything loads, for options that do not go together."""
    check_writable(options.json)
    if options.plot:
        check_picture(options.plot)
        if not (options.fluency or options.wellformed):
            raise UserError("--plot draws control against fluency, which is not measured; give --fluency or "
                            "--wellformed, or leave it out")
    for flag, given in (("--judge", options.judge), ("--fudge-data", options.fudge_data)):
        if len(given) != len(options.head) and (given or flag == "--judge"):
            raise UserError(f"{len(given)} {flag} for {len(options.head)} --head; give one for each, in the same order")
    both = [name for _, name, _ in guide_words(options.guide) if Path(name).name in options.head]
    if both:
        raise UserError(f"--guide is of the head {both[0]!r}, which --head steers and judges; leave one of them out")
    if options.mauve and (options.prefixes or len(options.head) > 1):
        raise UserError("--mauve compares texts with real ones of their label, of which there are some for one --head "
                        "and without --prefixes; leave it out")
    if options.prefixes and options.cond:
        raise UserError("--prefixes is a condition, as --cond is; give one of them")
    for flag, value in (("--prefix-label", options.prefix_label), ("--prefix-words", options.prefix_words)):
        if value is not None and not options.prefixes:
            raise UserError(f"{flag} is {value}, but there are no --prefixes; give a file of texts, or leave it out")
    for flag, value in (("--num-samples", options.num_samples), ("--best", options.best),
                        *(("--best-of", count) for count in options.best_of),
                        ("--prefix-words", options.prefix_words), ("--fudge-limit", options.fudge_limit),
                        ("--fudge-top", options.fudge_top), ("--fudge-samples", options.fudge_samples)):
        if value is not None and value < 1:
            raise UserError(f"{flag} is {value}, must be 1 or more")
    if options.fudge_prompt and not options.fudge_data:
        raise UserError("--fudge-prompt is what FUDGE's language model is asked, but there is no --fudge-data; give "
                        "it, or leave the prompt out")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("checkpoint")
    add("--head", action="append", required=True, help="of the checkpoint; repeat to steer by several")
    add("--judge", action="append", required=True, metavar="FILE", help="labelled texts, for each head")
    add("--target", action="append", default=[], metavar="LABEL",
        help="steer to this alone; LABEL+LABEL with several heads; may be repeated (default: to all)")
    add("--guide", action="append", default=[], metavar="HEAD=LABEL[:SCALE]",
        help="as of `latdiff sample`, on in all samples, unsteered ones too, and not judged; may be repeated")
    add("--cond", help="class that the texts are conditioned on")
    add("--decode", help="how texts are written (default: the checkpoint's)")
    add("--num-samples", type=int, default=200, help="texts of each row (default 200)")
    add("--times", type=float, nargs="*", default=[1.0, 2.0, 4.0], help="of the usual scale")
    add("--best-of", type=int, nargs="*", default=[8, 25], metavar="K")
    add("--best", type=int, default=40, help="texts of each row of best of K (default 40)")
    add("--prefixes", metavar="FILE", help="real texts whose first words all rows go on from, one text each")
    add("--prefix-label", metavar="LABEL", help="of those texts alone that have it")
    add("--prefix-words", type=int, metavar="N", help=f"how many words those are (default {PREFIX_WORDS})")
    add("--prompt", action="append", default=[], metavar="LABEL=TEXT",
        help="what an instruct model is asked for; LABEL+LABEL with several heads. With --prefixes its answer begins "
        "with the first words, which {prefix} stands for in the text")
    add("--writer", default="smollm2-135m-instruct",
        help="the language model that is asked, goes on from prefixes, and writes by FUDGE")
    add("--fudge-data", action="append", default=[], metavar="FILE",
        help="labelled texts for FUDGE's classifier of each head: those that the head was fitted on")
    add("--fudge-limit", type=int, default=400, help="of them, at random as fit-head takes them (default 400)")
    add("--fudge-prompt", metavar="TEXT", help="what the language model is asked whatever the label (default: nothing)")
    add("--fudge-top", type=int, default=100, metavar="K", help="likeliest tokens that are reweighted (default 100)")
    add("--fudge-times", type=float, nargs="*", default=[1.0], help="powers of the label's probability (default 1)")
    add("--fudge-samples", type=int, default=40, help="texts of each row of FUDGE, the slowest (default 40)")
    add("--class-lm", metavar="FOLDER",
        help="a language model that read LABEL, or LABEL+LABEL, before every text: latdiff train-ar")
    add("--fluency", help="a language model for perplexity")
    add("--wellformed", help="folder of a judge that recipes/train_wellformed.py wrote")
    add("--mauve", metavar="MODEL", help="a language model or an encoder for MAUVE against real texts of the label "
        "that are not in the table: a name, a folder, or a hub id; of rows with --num-samples texts")
    add("--seed", type=int, default=0)
    add("--json", type=Path, required=True)
    add("--plot", type=Path, metavar="FILE", help="also draw right against fluency: .svg, .png or .pdf")
    return parser.parse_args()


if __name__ == "__main__":
    with plain_errors():
        main()
