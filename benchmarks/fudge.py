"""FUDGE (Yang & Klein 2021): a language model writes, and a classifier of texts that are not finished chooses with it.

p(token | text so far, label) is in proportion to p(token | text so far) p(label | text so far, token), for the
likeliest tokens, the candidates. The classifier is a logistic regression fitted on every prefix of labelled texts. It
reads the mean of the language model's own last states of the prefix's tokens, so that a step costs one pass more, in
which each candidate of a text is read behind that text and beside the other candidates. FUDGE's own are small LSTMs
that learn from far more labels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import DynamicCache

from latdiff.data.tokens import pad
from latdiff.errors import UserError
from latdiff.heads.regression import FOLDS, softmax_form
from latdiff.lm import Past, choose, context, empty_cache, ends_of, left_padded

GRID = (1e-4, 1e-3, 1e-2, 1e-1)  # of C, on features of standard deviation 1
BATCH = 16  # texts that are written at once, each with all of its candidates


def reweighted(logits: Tensor, label: Tensor, times: float = 1.0) -> Tensor:
    """log p(candidate | text so far, label) [B, k].

    Args:
        logits: of the candidates by the language model [B, k].
        label: log p(label | text so far, candidate) [B, k].
        times: power of the label's probability: 1 is Bayes' rule, 0 the language model itself.
    """
    return torch.log_softmax(logits + times * label, -1)


@dataclass(frozen=True)
class PrefixClassifier:
    """p(label | prefix), from the mean of the states of the prefix's tokens.

    Attributes:
        classes: C labels.
        weight: [C, H].
        bias: [C].
        report: numbers of texts and prefixes, C, and the accuracy on texts held out, of prefixes and of whole texts.
    """

    classes: list[str]
    weight: Tensor
    bias: Tensor
    report: dict

    @classmethod
    def fit(cls, states: list[Tensor], labels: list[str]) -> PrefixClassifier:
        """Of the states [T, H] of the tokens of N texts, and their labels; C by the likelihood of texts held out."""
        means = [one.double().cumsum(0) / torch.arange(1, len(one) + 1)[:, None] for one in states]
        text_of = np.repeat(np.arange(len(states)), list(map(len, states)))
        scaler = StandardScaler()
        inputs, truth = scaler.fit_transform(torch.cat(means).numpy()), np.array(labels)[text_of]
        split = list(StratifiedGroupKFold(FOLDS).split(inputs, truth, text_of))
        regressions = [LogisticRegression(C=C, class_weight="balanced", max_iter=1000) for C in GRID]
        held_out = [cross_val_predict(one, inputs, truth, cv=split, method="predict_proba") for one in regressions]
        best = int(np.argmin([log_loss(truth, found) for found in held_out]))
        fitted = regressions[best].fit(inputs, truth)
        right = fitted.classes_[held_out[best].argmax(1)] == truth
        whole = np.append(np.diff(text_of) > 0, True)
        weight, bias = softmax_form(fitted)
        weight = weight / torch.tensor(scaler.scale_).float()
        report = {"texts": len(states), "prefixes": len(truth), "C": GRID[best],
                  "accuracy_of_prefixes": float(right.mean()), "accuracy_of_texts": float(right[whole].mean())}
        return cls(list(map(str, fitted.classes_)), weight, bias - weight @ torch.tensor(scaler.mean_).float(), report)

    def log_prob_of(self, label: str, means: Tensor) -> Tensor:
        """log p(label | prefix) [...] of mean states [..., H]."""
        logits = means.float() @ self.weight.to(means.device).mT + self.bias.to(means.device)
        return logits.log_softmax(-1)[..., self.classes.index(label)]


class Fudge:
    """Writes texts of one or several labels, which are asked for by name, each with a classifier of its own.

    Args:
        tokenizer: the language model's.
        model: causal.
        begin: ids that the texts of the classifiers are read behind.
        top: how many candidates a step has.
    """

    def __init__(self, tokenizer, model, begin: list[int], top: int = 100):
        """Raises UserError for a language model that cannot read candidates side by side behind keys and values."""
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise UserError(f"the language model's kind is {model.config.model_type}, which cannot read several "
                            "candidates at one position; take another, e.g. smollm2-135m-instruct")
        self.tokenizer, self.model, self.begin, self.top = tokenizer, model, begin, top
        self.classifiers: dict[str, PrefixClassifier] = {}
        self._ends = ends_of(model)
        empty_cache(model)  # which refuses what keeps something else

    def fit(self, name: str, texts: list[str], labels: list[str]) -> dict:
        """Learn an attribute from labelled texts; returns the report of its classifier."""
        self.classifiers[name] = PrefixClassifier.fit(self.states(texts), labels)
        return self.classifiers[name].report

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> list[Tensor]:
        """The last states [T, H] of the tokens of every text, read behind `begin`."""
        begun, most = len(self.begin), context(self.model) - len(self.begin)
        ids = [row[:most] for row in self.tokenizer(list(texts), add_special_tokens=False).input_ids]
        found: list[Tensor] = []
        for first in range(0, len(ids), BATCH):
            some = ids[first : first + BATCH]
            rows, mask = (one.to(self.model.device) for one in pad([self.begin + row for row in some], 0))
            states = self.model.base_model(input_ids=rows, attention_mask=mask.long(), use_cache=False)[0].cpu()
            found += [own[begun : begun + len(row)] for own, row in zip(states, some, strict=True)]
        return found

    def write(
        self, begun: Sequence[list[int]], streams: Sequence[torch.Generator], target: dict[str, str],
        max_new_tokens: int, times: float = 1.0, top_p: float = 1.0,
    ) -> list[list[int]]:
        """Go on from ids, none empty, up to end-of-text, the end of a line or so many tokens.

        Args:
            begun: N rows, which the classifiers do not read.
            streams: a generator for each row.
            target: the label that is wanted of each attribute.
            max_new_tokens: of each row.
            times: power of the labels' probability.
            top_p: the share of the reweighted candidates that is sampled from.
        """
        written: list[list[int]] = []
        for first in range(0, len(begun), BATCH):
            some = slice(first, first + BATCH)
            written += self._write(begun[some], streams[some], target, max_new_tokens, times, top_p)
        return written

    @torch.no_grad()
    def _write(self, begun, streams, target, max_new_tokens, times, top_p) -> list[list[int]]:
        room = [min(max_new_tokens, context(self.model) - len(row)) for row in begun]
        written: list[list[int]] = [[] for _ in begun]
        rows = [row for row, most in enumerate(room) if most > 0]
        ids, mask = left_padded([begun[row] for row in rows], self.model.device)
        positions, cache = (mask.cumsum(1) - 1).clamp(min=0), empty_cache(self.model)
        total = torch.zeros(len(rows), self.model.config.hidden_size, device=self.model.device)
        step = 0
        while rows:
            out = self.model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache,
                             use_cache=True)
            logits, candidates = self._candidates(out.logits[:, -1].float())
            states = self._read_beside(candidates, cache, mask, positions[:, -1:] + 1)
            label = self._log_prob_of(target, candidates, states, total, step)
            places = choose(reweighted(logits, label, times), [streams[row] for row in rows], top_p)
            chosen = torch.arange(len(rows)), torch.tensor(places)
            ids, total, step = candidates[chosen][:, None], total + states[chosen], step + 1
            for row, token in zip(rows, ids[:, 0].tolist(), strict=True):
                written[row].append(token)
            going = [place for place, row in enumerate(rows) if not self._is_done(written[row], room[row])]
            rows, kept = [rows[place] for place in going], torch.tensor(going, dtype=torch.long, device=ids.device)
            cache.batch_select_indices(kept)
            ids, total, mask = ids[kept], total[kept], torch.nn.functional.pad(mask[kept], (0, 1), value=1)
            positions = positions[kept, -1:] + 1
        return written

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The largest logits [B, k] of [B, V] and their ids, in the vocabulary's order."""
        candidates = logits.topk(min(self.top, logits.shape[-1])).indices.sort().values
        return logits.gather(1, candidates), candidates

    def _read_beside(self, candidates: Tensor, cache: DynamicCache, mask: Tensor, position: Tensor) -> Tensor:
        """States [B, k, H] of candidates [B, k], each read at one position behind what is in the cache, as if alone."""
        count = candidates.shape[1]
        seen = torch.cat([mask[:, None].expand(-1, count, -1).bool(),
                          torch.eye(count, dtype=torch.bool, device=mask.device).expand(len(mask), -1, -1)], -1)
        bias = torch.zeros(seen.shape, device=mask.device).masked_fill(~seen, torch.finfo(torch.float32).min)
        return self.model.base_model(
            input_ids=candidates, attention_mask=bias[:, None], position_ids=position.expand(-1, count),
            past_key_values=Past(cache, mask).fork(), use_cache=True,
        )[0]

    def _log_prob_of(self, target, candidates: Tensor, states: Tensor, total: Tensor, step: int) -> Tensor:
        """log p(labels | text so far, candidate) [B, k]; a text that ends is judged by what it has, if it has any."""
        ends = torch.isin(candidates, torch.tensor(sorted(self._ends), dtype=torch.long, device=candidates.device))
        means = torch.where(ends[..., None], total[:, None] / max(step, 1), (total[:, None] + states) / (step + 1))
        found = torch.zeros(ends.shape, device=ends.device)
        for name, label in target.items():
            own = self.classifiers[name]
            log_prob = own.log_prob_of(label, means)
            found += log_prob if step else log_prob.masked_fill(ends, -math.log(len(own.classes)))
        return found

    def _is_done(self, row: list[int], most: int) -> bool:
        ended = row[-1] in self._ends or len(row) >= most
        return ended or "\n" in self.tokenizer.decode(row).lstrip()
