"""Who judges real text, where there is no oracle? A classifier of another kind than heads, and a language model."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from latdiff.config import UserError
from latdiff.data import Corpus
from latdiff.tokens import pad, tokenize

LONGEST = 512  # tokens of a text that are scored, where the model could read more


class JudgeError(UserError):
    """A judge that cannot be had, in one sentence."""


class LabelJudge:
    """Words and pairs of words, weighted by TF-IDF, and a logistic regression: it never sees a latent.

    Attributes:
        labels: its classes.
        accuracy_: on a fifth of its texts, held out; no success rate means more than this.
        texts_: how many texts it was fitted on.
    """

    def __init__(self, texts: list[str], labels: list[str], seed: int = 0):
        """Raises JudgeError for unequal lengths or a label of fewer than five texts."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split
        from sklearn.pipeline import make_pipeline

        labels = [str(label) for label in labels]
        counts = {label: labels.count(label) for label in sorted(set(labels))}
        if len(texts) != len(labels) or len(counts) < 2 or min(counts.values()) < 5:
            raise JudgeError(
                f"a judge needs one label a text and five texts of every label, found {len(texts)} texts with labels "
                f"{counts}"
            )
        # words of one letter and pieces such as 't count: "i don't" is not "i do"
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"[\w']+|[!?]")
        self._model = make_pipeline(words, LogisticRegression(C=10.0, max_iter=1000))
        self.texts_, self.labels = len(texts), list(counts)
        train, test, its, truth = train_test_split(texts, labels, test_size=0.2, random_state=seed, stratify=labels)
        self.accuracy_ = float(self._model.fit(train, its).score(test, truth))
        self._model.fit(texts, labels)

    @classmethod
    def apart_from(cls, head, texts: list[str], labels: list[str]) -> LabelJudge:
        """A judge of this head (heads.AttributeHead or ToldClasses), fitted on the texts that the head has not seen.

        Raises JudgeError where none of them has some label of the head.
        """
        seen = head.saw(texts)
        pairs = [pair for pair, known in zip(zip(texts, labels, strict=True), seen, strict=True) if not known]
        lost = sorted(set(head.labels) - {str(label) for _, label in pairs})
        if lost:
            raise JudgeError(
                f"head {head.name!r} and its judge need texts of their own: among the {len(pairs):,} that the head was "
                f"not fitted on, none has the label {', '.join(lost)}"
            )
        return cls([text for text, _ in pairs], [label for _, label in pairs])

    def predict(self, texts: list[str]) -> list[str]:
        """The likeliest label of every text."""
        return self._model.predict(texts).tolist()

    def describe(self) -> str:
        """What stands beside a success rate."""
        return f"TF-IDF and logistic regression on {self.texts_:,} other texts, right on {self.accuracy_:.3f} held out"


class ToldClasses:
    """The classes that a denoiser can be told, in a head's place: it has seen the training texts."""

    def __init__(self, name: str, corpus: Corpus):
        self.name, self.labels, self._seen = name, corpus.classes, set(corpus.train)

    def saw(self, texts: list[str]) -> list[bool]:
        """Whether each of the texts was trained on."""
        return [text in self._seen for text in texts]


class FluencyJudge:
    """A causal language model, from a folder (recipes/train_ar.py writes one) or the hub."""

    def __init__(self, path: str | Path):
        """Raises JudgeError where there is no causal language model."""
        self.path, local = str(path), Path(path).is_dir()
        if not local and self.path.count("/") != 1:
            raise JudgeError(f"no language model {self.path!r}: a folder or a hub id, e.g. openai-community/gpt2")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.path, local_files_only=local)
            self.model = AutoModelForCausalLM.from_pretrained(self.path, local_files_only=local, dtype=torch.float32)
        except Exception as error:  # transformers, hub and safetensors each raise kinds of their own
            reason = str(error).strip().splitlines()[0]
            raise JudgeError(f"the language model {self.path!r} cannot be loaded: {reason}") from error
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()

    @torch.no_grad()
    def losses(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed negative log-likelihood in nats [N] of every text, and the tokens [N] it is the sum of.

        A text is read after the model's beginning-of-text, its own end-of-text included if the tokenizer writes
        one. Tokens beyond what the model can read are not scored.
        """
        config = self.model.config
        start = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        longest = min(LONGEST, getattr(config, "max_position_embeddings", LONGEST)) - 1
        ids = [row[:longest] for row in tokenize(self.tokenizer, texts)]
        nats, counts = [], torch.tensor([len(row) for row in ids])
        for begin in range(0, len(ids), 64):
            rows, mask = (x.to(self.model.device) for x in pad(ids[begin : begin + 64], config.eos_token_id))
            inputs = torch.cat([rows.new_full((len(rows), 1), start), rows[:, :-1]], dim=1)
            logits = self.model(inputs, use_cache=False).logits.float()
            nats.append((F.cross_entropy(logits.mT, rows, reduction="none") * mask).sum(1).cpu())
        return torch.cat(nats), counts

    def perplexity(self, texts: list[str]) -> dict[str, float]:
        """Both usual averages: `tokens`, exp of the mean over all tokens; `texts`, the mean of the texts' own.

        Texts without a token are left out; NaN if there is no other.
        """
        nats, counts = self.losses([text for text in texts if text] or [""])
        nats, counts = nats[counts > 0], counts[counts > 0]
        return {
            "tokens": math.exp(nats.sum() / counts.sum()) if len(counts) else math.nan,
            "texts": (nats / counts).exp().mean().item(),
        }
