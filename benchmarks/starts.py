"""First words of real texts, which samples and rivals go on from, beside how the texts themselves went on."""

from __future__ import annotations

from collections.abc import Sequence

from latdiff.data.corpus import load_labelled, load_texts
from latdiff.data.splits import LEFT, Split, cut
from latdiff.errors import UserError, nearest
from latdiff.heads.attribute import AttributeHead


def joined(start: str, text: str) -> str:
    """A text and the words that it goes on from, if any; '' for a text without a word."""
    return f"{start} {text}".strip() if text.strip() else ""


def starts_of(source: str, label: str | None, words: int, count: int) -> list[Split]:
    """The first `words` words of the first `count` texts of a file, all different, each with two words left at least.

    Args:
        source: a file that latdiff reads.
        label: of the texts, where others are to be left out.
        words: of each start.
        count: how many.

    Raises:
        UserError: for a label that no text has, or too few texts.
    """
    texts = load_texts(source) if label is None else _labelled(source, label)
    found: dict[str, Split] = {}
    for text in texts:
        if len(text.split()) >= words + LEFT:
            start = cut(text, words)
            found.setdefault(start.before.lower(), start)
    if len(found) < count:
        raise UserError(f"--prefixes is {source}, where {len(found)} texts of {words + LEFT} words or more begin "
                        f"differently{f' and are {label}' if label else ''}, but {count} are wanted; lower "
                        "--num-samples or --prefix-words, or give more texts")
    return list(found.values())[:count]


def check_unseen(heads: Sequence[AttributeHead], texts: list[str], source: str) -> None:
    """Raise UserError where a head was fitted on one of the texts."""
    for head in heads:
        seen = sum(head.saw(texts))
        if seen:
            raise UserError(f"head {head.name!r} was fitted on {seen} of the texts of {source}; give others")


def _labelled(source: str, label: str) -> list[str]:
    texts, labels = load_labelled(source, classes=False)
    known = sorted(set(labels))
    if label not in known:
        raise UserError(f"--prefix-label is {label!r}, but the labels of {source} are {', '.join(known)}"
                        f"{nearest(label, known)}")
    return [text for text, own in zip(texts, labels, strict=True) if own == label]
