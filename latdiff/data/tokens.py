"""Text and token ids: training a sentencepiece vocabulary, padded batches, span corruption."""

from __future__ import annotations

import collections
import functools
import io
import itertools
import math
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from latdiff.data.packed import PackedIds
from latdiff.errors import UserError

NUM_SENTINELS = 64
# a mark with its closing quotes and brackets and the space behind it, or an empty line
SENTENCE_END = re.compile(r"""[.!?…؟।]+["'”’»)\]]*\s+|[。！？]+[」』”’）]*\s*|\n\s*\n\s*""")
LONGEST = 4192  # bytes of a text that sentencepiece counts; it passes over longer ones without a word
RESERVED = "\u2585"  # ▅, sentencepiece's own: it passes over texts that have one
AT_ONCE = 1024  # texts that are handed to a tokenizer, which returns far more of them than their ids
MOST_TOO_LONG = 0.1  # share of texts that may be left out as too long without a warning
IGNORED = -100  # the label that transformers' losses pass over


def train_vocabulary(texts: Sequence[str], folder: Path, vocab_size: int):
    """Train a vocabulary laid out as T5's.

    The pieces are those of byte-pair merging, with their log-frequencies as unigram scores: sentencepiece's own
    unigram training splits common words on small corpora (73 pieces a story instead of 53). Characters stay as they
    are: the tokenizer has no normaliser.

    Args:
        texts: to train on.
        folder: where the tokenizer is saved.
        vocab_size: pieces before the sentinels, or as many as the texts have.

    Returns:
        The tokenizer.

    Raises:
        UserError: for texts of more distinct characters than there may be pieces.
    """
    from transformers import T5Tokenizer

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain.from_iterable(map(_countable, texts)), model_writer=model,
            vocab_size=vocab_size, model_type="bpe", character_coverage=1.0, normalization_rule_name="identity",
            pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, num_threads=1,
        )
    except RuntimeError as error:  # "Vocabulary size too high (N). Please set it to a value <= M."
        largest = re.search(r"value <= (\d+)", str(error))
        least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if least:
            raise UserError(f"pretrain_backbone.vocab_size is {vocab_size:,}, but the texts need a piece for each of "
                            f"their distinct characters; set pretrain_backbone.vocab_size={least[1]} or more, or drop "
                            "texts in other scripts") from None
        if largest is None or int(largest[1]) >= vocab_size:
            raise
        return train_vocabulary(texts, folder, int(largest[1]))
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    counts: collections.Counter[int] = collections.Counter()
    for first in range(0, len(texts), AT_ONCE):
        counts.update(itertools.chain.from_iterable(pieces.encode(texts[first : first + AT_ONCE])))
    total = sum(counts.values())
    # transformers 5 ignores `vocab_file` here and would build an empty vocabulary: hand the pieces over.
    special = {pieces.pad_id(), pieces.eos_id(), pieces.unk_id()}
    vocab = [(pieces.id_to_piece(i), 0.0 if i in special else math.log((counts[i] + 0.1) / total))
             for i in range(len(pieces))]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=NUM_SENTINELS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _countable(text: str) -> Iterator[str]:
    """A text in parts that sentencepiece counts, cut at white space, or anywhere in what has none."""
    text = text.replace(RESERVED, " ")
    if len(text.encode()) <= LONGEST:
        yield text
        return
    part = ""
    for word in text.split():
        for piece in (word[at : at + LONGEST // 8] for at in range(0, len(word), LONGEST // 8)):
            longer = f"{part} {piece}" if part else piece
            if len(longer.encode()) > LONGEST:
                yield part
                longer = piece
            part = longer
    yield part


def tokenize(tokenizer, texts: Sequence[str]) -> PackedIds:
    """Token ids of every text, untruncated, with the end-of-text token."""
    return plain_ids(tokenizer, texts, truncation=False)


def plain_ids(tokenizer, texts: Iterable[str], **settings) -> PackedIds:
    """Ids of every text, in which the tokenizer's own marks, such as </s> or <extra_id_0>, are no marks.

    They are spelled as other text is; where a vocabulary has no other spelling of one (T5's of </s>), it is an unknown
    piece. So no text can end itself, or hide what comes behind.

    Args:
        tokenizer: of transformers.
        texts: B of them.
        settings: of the tokenizer's call, such as add_special_tokens=False.

    Returns:
        B rows of ids, with what the tokenizer itself puts around a text.
    """
    texts, found = texts if isinstance(texts, Sequence) else list(texts), PackedIds()
    unknown = tokenizer.unk_token_id
    in_vocabulary = tokenizer.convert_tokens_to_ids([f"▁<extra_id_{i}>" for i in range(NUM_SENTINELS)])  # mT5's
    marks = {*tokenizer.all_special_ids, *in_vocabulary} - {unknown, None}
    for first in range(0, len(texts), AT_ONCE):
        part = texts[first : first + AT_ONCE]
        *rows, sample = tokenizer([*part, "a"], split_special_tokens=True, **settings).input_ids
        lead, tail = (len(list(itertools.takewhile(marks.__contains__, ids))) for ids in (sample, sample[::-1]))
        for row in rows:
            within = slice(lead, len(row) - tail)
            if not marks.isdisjoint(row[within]):
                row[within] = [unknown if one in marks else one for one in row[within]]
            found.append(row)
    return found


def short_enough(ids: Sequence[list[int]], max_tokens: int) -> PackedIds:
    """The texts of at most `max_tokens` tokens, in their order."""
    return PackedIds(row for row in ids if len(row) <= max_tokens)


def limit_for(ids: Sequence[list[int]], percent: int) -> int:
    """The least max_tokens that at least `percent` % of the texts stay within."""
    return sorted(map(len, ids))[math.ceil(percent * len(ids) / 100) - 1]


def kept_report(kept: int, max_tokens: int, left_out: Mapping[str, int]) -> str:
    """One line on how many texts are read and, by reason, how many are not."""
    counts = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    return f"{kept:,} texts of at most {max_tokens} tokens; left out: {counts}"


def length_report(ids: Sequence[list[int]]) -> str:
    """One line on how many tokens the texts have, which data.max_tokens has to allow for."""
    most, whole = limit_for(ids, 99), limit_for(ids, 100)
    return f"99 % of the training texts have at most {most} tokens; data.max_tokens={whole} would keep all of them"


def unknown_share(tokenizer, ids: Sequence[list[int]]) -> float:
    """Share of the pieces of all texts that the tokenizer does not know; 0 for one that knows every byte."""
    return sum(row.count(tokenizer.unk_token_id) for row in ids) / sum(map(len, ids))


def unknown_characters(tokenizer, texts: Sequence[str], most: int = 5) -> list[str]:
    """The commonest characters of the texts that the tokenizer does not know, at most so many."""
    counts = collections.Counter(itertools.chain.from_iterable(texts))
    commonest = (character for character, _ in counts.most_common())
    unknown = (one for one in commonest if tokenizer.unk_token_id in tokenizer(one, add_special_tokens=False).input_ids)
    return list(itertools.islice(unknown, most))


def pad(ids: Sequence[list[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids [B, T] and their mask [B, T], True on tokens of the text."""
    longest = max(map(len, ids))
    padded = torch.tensor([row + [pad_id] * (longest - len(row)) for row in ids])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in ids])
    return padded, mask


def labels_of(ids: Tensor, mask: Tensor) -> Tensor:
    """Decoder labels [B, T] of ids [B, T] and their mask [B, T]; the loss ignores padding."""
    return ids.masked_fill(~mask, IGNORED)


@functools.lru_cache(maxsize=1)  # asked for at every step of a training
def span_marks(tokenizer) -> list[int]:
    """Ids that replace masked spans, in order: T5's sentinels, or else the mask token, repeated.

    Raises:
        UserError: for a tokenizer that has neither.
    """
    # encoded, not looked up: mT5's vocabulary has them as pieces with a space in front
    pieces = tokenizer([f"<extra_id_{i}>" for i in range(NUM_SENTINELS)], add_special_tokens=False).input_ids
    whole = itertools.takewhile(lambda ids: len(ids) == 1 and ids[0] != tokenizer.unk_token_id, pieces)
    sentinels = [ids[0] for ids in whole]
    if not sentinels and tokenizer.mask_token_id is None:
        raise UserError(
            "mask_rates above 0 hide spans of a text, but the backbone's tokenizer has no token to put in their place, "
            "neither <extra_id_0> nor a mask token; set train_autoencoder.mask_rates=[0]"
        )
    return sentinels or [tokenizer.mask_token_id] * NUM_SENTINELS


@functools.lru_cache(maxsize=1)
def lead_in(tokenizer) -> int:
    """Number of tokens that the tokenizer puts in front of every text: none in T5, <s> in BART."""
    return len(tokenize(tokenizer, [""])[0]) - 1  # the other one is end-of-text


def corrupt_spans(ids: list[int], rate: float, marks: list[int], rng: random.Random, lead: int = 0) -> list[int]:
    """Replace spans of 1 to 4 tokens by one mark each (T5, section 3.1.4).

    The decoder's target is the whole text, as in BART, for it will have to write whole texts from latents.

    Args:
        ids: of one text, with its end-of-text token, which stays.
        rate: share of tokens to mask, at most.
        marks: ids that replace the spans, in order; see `span_marks`.
        rng: samples the spans.
        lead: number of leading tokens that stay; see `lead_in`.

    Returns:
        The corrupted ids.
    """
    body, end = ids[lead:-1], ids[-1]
    budget = round(rate * len(body))
    masked = [False] * len(body)
    while budget > 0 and body:
        length = min(rng.randint(1, 4), budget)
        start = rng.randrange(len(body))
        masked[start : start + length] = [True] * len(masked[start : start + length])
        budget -= length
    corrupted, spans = ids[:lead], 0
    for position, token in enumerate(body):
        if not masked[position]:
            corrupted.append(token)
        elif (position == 0 or not masked[position - 1]) and spans < len(marks):
            corrupted.append(marks[spans])
            spans += 1
    return [*corrupted, end]


def sentences(text: str) -> list[str]:
    """Sentences of a text, none blank; each keeps its trailing white space."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(text)), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(ends) if text[a:b].strip()]


class _Letters(dict):
    """For str.translate: keeps letters, the marks that belong to them and digits; fills as characters come up."""

    def __missing__(self, code: int) -> int | None:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else None
        return self[code]


LETTERS = _Letters()


def letters_of(text: str) -> str:
    """The lower-cased letters and digits, which duplicates share; the whole of a text without any."""
    letters = unicodedata.normalize("NFC", text.lower()).translate(LETTERS)
    return letters if any(map(str.isalnum, letters)) else text
