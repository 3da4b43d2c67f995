"""Frames and fitted heads as HTML; whatever a model or a visitor wrote is escaped."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from html import escape

from latdiff.demo.drawing import Frame, Moment
from latdiff.demo.fitting import Fitted
from latdiff.errors import UserError
from latdiff.heads.guessing import held_out

CSS = """
.gradio-container {max-width: 1280px !important; margin: 0 auto !important}
.ld-tries {align-items: center; gap: .4em !important; flex-wrap: wrap !important}
.ld-tries > * {flex: 0 0 auto !important; min-width: 0 !important; white-space: nowrap; width: auto !important}
.ld-head .form, .ld-head .gap {gap: 0} .ld-head .block {padding: .1em .6em .6em; border: 0; box-shadow: none}
.ld-head > button {text-align: left}
.ld p {margin: .2em 0 0}
.ld-status {color: var(--body-text-color-subdued); margin-bottom: .6em}
.ld-bar {height: 4px; border-radius: 2px; background: var(--border-color-primary); margin-top: .3em}
.ld-bar > span {display: block; height: 100%; border-radius: 2px; background: var(--color-accent)}
.ld-row {display: flex; gap: .6em; margin-bottom: .6em}
.ld-cell {flex: 1; min-width: 0; padding: .6em .8em; border: 1px solid var(--border-color-primary);
  border-radius: 8px; line-height: 1.5; overflow-wrap: anywhere}
.ld-cell > b {font-size: .75em; font-weight: 600; letter-spacing: .04em; text-transform: uppercase;
  color: var(--body-text-color-subdued)}
.ld-texts {border-color: var(--color-accent)}
.ld mark {background: var(--color-accent-soft); color: inherit; border-radius: 3px; padding: 0 .1em}
.ld-draft {opacity: .65}
.ld-score {display: inline-block; margin: .5em .4em 0 0; padding: .05em .6em; border-radius: 1em; font-size: .85em;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary)}
.ld .ld-note {margin: .4em 0 .6em; padding: .4em .8em; border-left: 3px solid #d97706;
  background: var(--background-fill-secondary)}
.ld-moments summary {cursor: pointer; font-weight: 600; margin: .6em 0 .3em}
.ld-moment {display: flex; gap: .8em; padding: .3em 0; border-top: 1px solid var(--border-color-primary);
  font-size: .92em}
.ld-moment > span {flex: 0 0 7.5em; color: var(--body-text-color-subdued)}
.ld-share {display: flex; align-items: center; gap: .6em; margin: .35em 0}
.ld-share > span:first-child {flex: 0 0 15em}
.ld-share > .ld-bar {flex: 1; height: 10px; margin: 0; border-radius: 5px}
.ld-share > .ld-bar > span {border-radius: 5px}
.ld-common > .ld-bar > span {background: var(--body-text-color-subdued)}
.ld .ld-good {border-left-color: #059669}
@media (max-width: 640px) {.ld-row, .ld-moment {flex-direction: column; gap: .3em}
  .ld-moment > span {flex-basis: auto} .ld-share > span:first-child {flex: 0 0 9em}}
"""


def frame_html(frame: Frame, before: str, after: str) -> str:
    """What is to be seen at one moment.

    Args:
        frame: the moment.
        before: the title of `frame.plain`.
        after: the title of `frame.texts`.
    """
    parts = [f'<div class="ld" data-done="{int(frame.done)}">', _status(frame), *map(note, frame.notes)]
    for place in range(max(len(frame.plain), len(frame.texts))):
        parts.append('<div class="ld-row">')
        plain = frame.plain[place] if place < len(frame.plain) else None
        if plain is not None:
            parts.append(f'<div class="ld-cell ld-plain"><b>{escape(before)}</b><p>{escape(plain)}</p></div>')
        if place < len(frame.texts):
            text, title = frame.texts[place], after if frame.plain else "text"
            words = escape(text) if plain is None or not frame.done else _marked(plain, text)
            draft = "" if frame.done else " ld-draft"
            parts.append(f'<div class="ld-cell ld-texts{draft}"><b>{escape(title)}</b><p>{words}</p>'
                         f"{_scores({title: values[place] for title, values in frame.scores.items()})}</div>")
        elif plain is not None:
            parts.append(f'<div class="ld-cell ld-draft"><b>{escape(after)}</b><p>…</p></div>')
        parts.append("</div>")
    return "".join([*parts, _moments(frame.moments, frame.steps), "</div>"])


def fitted_html(fitted: Fitted, others: Sequence[str]) -> str:
    """How good a visitor's head is, beside the share of the commonest label.

    Args:
        fitted: the head.
        others: names of all heads of the visitor's.
    """
    report, name = fitted.head.report, escape(fitted.head.name)
    labels = ", ".join(f"{escape(label)} ({count:,})" for label, count in fitted.counts.items())
    parts = [f'<div class="ld" data-done="1"><p><b>{name}</b>: {labels}; fitted in {fitted.seconds:.1f} s.</p>',
             _share("right on held-out texts", report["accuracy"]),
             _share("share of the commonest label", report["majority"], " ld-common")]
    if fitted.left_out:
        left = ", ".join(f"{count:,} {escape(why)}" for why, count in fitted.left_out.items())
        parts.append(note(f"Left out: {left}."))
    if fitted.chance:
        parts.append(note(f"At chance: the head is {held_out(report)}. It can hardly steer. Give more texts, or labels "
                          "that the texts themselves show."))
    else:
        parts.append('<p class="ld-note ld-good">Its sliders stand at the top of the list now.</p>')
    named = escape(", ".join(others))
    return "".join([*parts, f"<p>Your heads: {named}. They are gone when the page is loaded again.</p></div>"])


def note(sentence: str) -> str:
    """A warning."""
    return f'<p class="ld-note">{escape(sentence)}</p>'


def problem_html(error: UserError) -> str:
    """A mistake, in place of what was asked for."""
    return f'<div class="ld ld-problem" data-done="1">{note(str(error))}</div>'


def _status(frame: Frame) -> str:
    said = f"{frame.steps} steps, {frame.seconds:.1f} s" if frame.done else (
        f"step {frame.step} of {frame.steps}" if frame.steps else "first, the same noise without guides")
    share = frame.step / max(1, frame.steps)
    bar = "" if frame.done else f'<div class="ld-bar"><span style="width: {share:.0%}"></span></div>'
    return f'<div class="ld-status">{said}{bar}</div>'


def _marked(plain: str, text: str) -> str:
    """A text with the words marked that differ from another's."""
    old, new, parts = plain.split(), text.split(), []
    for kind, _, _, start, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        words = escape(" ".join(new[start:end]))
        if words:
            parts.append(words if kind == "equal" else f"<mark>{words}</mark>")
    return " ".join(parts)


def _scores(said: Mapping[str, float]) -> str:
    return "".join(f'<span class="ld-score">{escape(title)} {value:.0%}</span>' for title, value in said.items())


def _moments(moments: Sequence[Moment], steps: int) -> str:
    """The first text at several steps, from noise to the end."""
    if not moments:
        return ""
    rows = "".join(f'<div class="ld-moment"><span>step {one.step} of {steps}</span><div>{escape(one.text)}'
                   f"{_scores(one.scores)}</div></div>" for one in moments)
    return f'<details class="ld-moments" open><summary>How the first text emerged</summary>{rows}</details>'


def _share(title: str, share: float, kind: str = "") -> str:
    return (f'<div class="ld-share{kind}"><span>{escape(title)}</span><div class="ld-bar"><span style="width: '
            f'{share:.1%}"></span></div><span>{share:.1%}</span></div>')
