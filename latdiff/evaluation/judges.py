"""Who judges real text, where there is no oracle? A classifier of another kind than heads, and language models."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from transformers import AutoModel, AutoModelForSequenceClassification

from latdiff.config import MIN_PER_CLASS
from latdiff.data.packed import PackedIds
from latdiff.data.tokens import letters_of, pad, tokenize
from latdiff.errors import UserError, first_line
from latdiff.heads.attribute import AttributeHead
from latdiff.lm import causal_language_model, context, load_language_model, load_pretrained, token_losses
from latdiff.precision import default_device

LONGEST = 512  # tokens of a text, at most, that are scored or written


class JudgeError(UserError):
    """A judge that cannot be made, in one sentence."""


class LabelJudge:
    """Words and pairs of words, weighted by TF-IDF, and a logistic regression: it never sees a latent.

    Attributes:
        labels: its classes.
        accuracy_: on a fifth of its texts, held out; no success rate means more than this.
        texts_: how many texts it was fitted on.
    """

    def __init__(self, texts: list[str], labels: list[str], seed: int = 0):
        """Raises JudgeError for unequal lengths, a single label, or one of fewer than MIN_PER_CLASS texts."""
        labels = [str(label) for label in labels]
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        if len(texts) != len(labels) or len(counts) < 2 or min(counts.values()) < MIN_PER_CLASS:
            raise JudgeError(
                f"a judge needs one label a text, two labels and {MIN_PER_CLASS} texts of each, found {len(texts)} "
                f"texts with labels {counts}"
            )
        # words of one letter and pieces such as 't count: "i don't" is not "i do"
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"[\w']+|[!?]")
        self._model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
        self.texts_, self.labels = len(texts), list(counts)
        train, test, own, truth = train_test_split(texts, labels, test_size=0.2, random_state=seed, stratify=labels)
        self.accuracy_ = float(self._model.fit(train, own).score(test, truth))
        self._model.fit(texts, labels)

    @classmethod
    def apart_from(cls, known: Sequence, texts: list[str], labels: list[str]) -> LabelJudge:
        """A judge fitted on the texts that none of `known` (heads.AttributeHead or SeenTexts) has seen.

        Its labels have to be those of the first. Raises JudgeError where no text with some label is left, and for a
        head that does not know its texts.
        """
        for one in known:
            if isinstance(one, AttributeHead) and not len(one.fitted_on):
                raise JudgeError(
                    f"head {one.name!r} has no record of the texts that it was fitted on, so that no judge can "
                    "avoid them; fit it again with `latdiff fit-head`"
                )
        seen = [any(of_text) for of_text in zip(*(one.saw(texts) for one in known), strict=True)]
        pairs = [(text, label) for text, label, old in zip(texts, labels, seen, strict=True) if not old]
        lost = sorted(set(map(str, known[0].classes_)) - {str(label) for _, label in pairs})
        if lost:
            raise JudgeError(
                f"{known[0].name!r} and its judge need texts of their own: among the {len(pairs):,} that it has not "
                f"seen, none has the label {', '.join(lost)}"
            )
        return cls([text for text, _ in pairs], [label for _, label in pairs])

    def predict(self, texts: list[str]) -> list[str]:
        """The likeliest label of every text."""
        return self._model.predict(texts).tolist()

    def describe(self) -> str:
        """What stands beside a success rate."""
        return f"TF-IDF and logistic regression on {self.texts_:,} other texts, right on {self.accuracy_:.3f} held out"


class SeenTexts:
    """Texts that a judge must not be fitted on, such as those that a conditional denoiser learnt its classes from."""

    def __init__(self, name: str, labels: list[str], texts: Sequence[str]):
        self.name, self.classes_, self._seen = name, labels, set(map(letters_of, texts))

    def saw(self, texts: list[str]) -> list[bool]:
        """Whether each of the texts is among them, by its letters and digits."""
        return [letters_of(text) in self._seen for text in texts]


class FluencyJudge:
    """A causal language model, from a folder (recipes/train_ar.py writes one) or the hub."""

    def __init__(self, path: str | Path):
        """Raises LanguageModelError where there is no causal language model."""
        self.path = str(path)
        self.tokenizer, self.model, self.start = causal_language_model(self.path)

    def losses(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed negative log-likelihood in nats [N] of every text, and the tokens [N] it is the sum of.

        A text is read after the model's beginning-of-text, its own end-of-text included if the tokenizer writes
        one. Tokens beyond what the model can read are not scored.
        """
        ids = tokenize(self.tokenizer, texts)
        # some tokenizers write the beginning themselves
        ids = PackedIds((row[1:] if row[:1] == [self.start] else row)[: LONGEST - 1] for row in ids)
        return token_losses(self.model, self.start, ids)

    def perplexity(self, texts: list[str]) -> dict[str, float]:
        """Both usual averages: `tokens`, exp of the mean over all tokens; `texts`, the mean of the texts' own.

        Texts without a token are left out; NaN if no text has one.
        """
        nats, counts = self.losses([text for text in texts if text] or [""])
        nats, counts = nats[counts > 0], counts[counts > 0]
        return {
            "tokens": math.exp(nats.sum() / counts.sum()) if len(counts) else math.nan,
            "texts": (nats / counts).exp().mean().item(),
        }


class WellFormedJudge:
    """A text encoder that was trained to tell well-formed texts from spoilt ones: recipes/train_wellformed.py.

    Perplexity is low for dull texts, and for what the corpus repeats; this judge sees neither.
    """

    def __init__(self, path: str | Path):
        """Raises JudgeError where there is no such judge."""
        self.path = str(path)
        def refusal(reason: str) -> JudgeError:
            return JudgeError(f"the judge of well-formed texts {self.path!r} {reason}")

        self.tokenizer, model = load_pretrained(AutoModelForSequenceClassification, self.path, refusal)
        self.model = model.to(default_device())

    @torch.no_grad()
    def probabilities(self, texts: list[str], batch_size: int = 64) -> torch.Tensor:
        """That each of the texts is well-formed [N]."""
        found = []
        for start in range(0, len(texts), batch_size):
            most = getattr(self.model.config, "max_tokens", LONGEST)
            batch = self.tokenizer(texts[start : start + batch_size], truncation=True, max_length=most, padding=True,
                                   split_special_tokens=True, return_tensors="pt")
            found.append(self.model(**batch.to(self.model.device)).logits.float().softmax(-1)[:, 1].cpu())
        return torch.cat(found)

    def share(self, texts: list[str]) -> float:
        """Of texts that are rather well-formed than not; a blank one is not."""
        said = [text for text in texts if text.strip()]
        return (self.probabilities(said) > 0.5).sum().item() / len(texts) if said else 0.0

    def accuracy(self, pairs: list[tuple[str, int]]) -> float:
        """On pairs of a text and whether it is well-formed, 0 or 1."""
        found = self.probabilities([text for text, _ in pairs]) > 0.5
        return (found == torch.tensor([bool(good) for _, good in pairs])).float().mean().item()


class MauveJudge:
    """How alike two sets of texts are: MAUVE (Pillutla et al. 2021) of a language model's or an encoder's states.

    The number depends on the model, and on how many texts there are: state both.
    """

    def __init__(self, path: str | Path):
        """Raises LanguageModelError where there is no model, and JudgeError where there is no mauve-text."""
        try:
            import mauve  # noqa: F401
        except ImportError:
            raise JudgeError("MAUVE needs mauve-text; install it with `pip install mauve-text`") from None
        self.path = str(path)
        self.tokenizer, self.model = load_language_model(AutoModel, self.path)
        self.bidirectional = self._is_bidirectional()
        self._references: tuple[Sequence[str], torch.Tensor] | None = None  # the last ones, usually the same again

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """Features [N, H]: the last token's state, or the mean over tokens where the model is bidirectional."""
        longest = min(LONGEST, context(self.model))
        ids = PackedIds(row[:longest] or [0] for row in tokenize(self.tokenizer, texts))
        found = []
        for begin in range(0, len(ids), 64):
            rows, mask = (x.to(self.model.device) for x in pad(ids[begin : begin + 64], 0))
            hidden = self.model(input_ids=rows, attention_mask=mask.long()).last_hidden_state
            last, mean = hidden[torch.arange(len(rows)), mask.sum(1) - 1], (hidden * mask[..., None]).sum(1)
            found.append((mean / mask.sum(1, keepdim=True) if self.bidirectional else last).cpu())
        return torch.cat(found)

    def mauve(self, texts: Sequence[str], references: Sequence[str]) -> float:
        """MAUVE, 0 to 1, between as many texts as references, the first of each."""
        import mauve

        n = min(len(texts), len(references))
        if self._references is None or self._references[0] != references[:n]:
            self._references = references[:n], self.states(references[:n])
        features = self._references[1].numpy(), self.states(texts[:n]).numpy()
        return float(mauve.compute_mauve(*features, verbose=False, seed=0).mauve)

    @torch.no_grad()
    def _is_bidirectional(self) -> bool:
        """Whether a token's state depends on later tokens: tried out, for configurations do not say."""
        ids = torch.tensor([[3, 4, 5], [3, 4, 6]], device=self.model.device)
        try:
            states = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
        except Exception as error:  # an encoder-decoder needs more than a text, and says so in its own way
            raise JudgeError(
                f"the model {self.path!r} cannot read a text by itself ({first_line(error)}); take a causal language "
                "model or a text encoder"
            ) from error
        return not torch.allclose(*states, atol=1e-5)


class SimilarityJudge:
    """How near a text is to its references in meaning: BERTScore's F1 (Zhang et al. 2020), by a text encoder's states.

    The number depends on the encoder and the layer: state both. For encoders that bert-score does not know by name, a
    folder's among them, the layer is the last.
    """

    def __init__(self, path: str | Path):
        """Raises JudgeError where there is no encoder, or no bert-score."""
        try:
            from bert_score import model2layers
        except ImportError:
            raise JudgeError("BERTScore needs bert-score; install it with `pip install bert-score`") from None

        def leave_out_later_layers(config) -> None:
            self.layer = config.num_hidden_layers = model2layers.get(self.path, config.num_hidden_layers)
            if hasattr(config, "encoder_layers"):  # BART's; T5's has the name above
                config.encoder_layers = self.layer

        self.path = str(path)
        self.tokenizer, model = load_pretrained(AutoModel, self.path, self._refusal, prepare=leave_out_later_layers)
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model.to(default_device())
        # bert-score cuts texts there, and a folder's tokenizer may set no limit
        self.tokenizer.model_max_length = min(self.tokenizer.model_max_length, context(self.model), LONGEST)
        try:
            self.f1(["a text"], [["a text"]])
        except Exception as error:  # such as a decoder without padding, which says so in its own way
            raise self._refusal(f"cannot read a text by itself ({first_line(error)})") from error

    def f1(self, texts: list[str], references: list[list[str]]) -> float:
        """Mean over the texts of the F1 with the best of each one's references; 0 where one of the two is blank."""
        from bert_score.utils import bert_cos_score_idf

        pairs = [(text, one) for text, own in zip(texts, references, strict=True) for one in own]
        full = [place for place, pair in enumerate(pairs) if all(map(str.strip, pair))]  # it reads no blank ones
        weights = defaultdict(lambda: 1.0, {self.tokenizer.sep_token_id: 0.0, self.tokenizer.cls_token_id: 0.0})
        found = torch.zeros(len(pairs))
        if full:
            read, compared = (list(side) for side in zip(*(pairs[place] for place in full), strict=True))
            found[full] = bert_cos_score_idf(self.model, compared, read, self.tokenizer, weights,
                                             device=self.model.device)[:, 2]
        return torch.stack([own.max() for own in found.split(list(map(len, references)))]).mean().item()

    def _refusal(self, reason: str) -> JudgeError:
        return JudgeError(
            f"BERTScore cannot read with {self.path!r}, which {reason}; take a text encoder such as "
            "FacebookAI/roberta-large, from the hub or a folder"
        )
