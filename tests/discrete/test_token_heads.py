"""Heads of tokens: what they learn at every noise level, and where they lead."""

import pytest
import torch
import torch.nn.functional as F
from discrete_laws import generators
from toy_heads import refusal

from latdiff.discrete.reverse import masked_kernel, uniform_kernel, walk
from latdiff.discrete.uniform import corrupt, noise
from latdiff.errors import UserError
from latdiff.heads.tokens import TokenHead

V, L = 4, 8
WEIGHTS = torch.tensor([1.5, -0.5, 0.0, -1.0])  # log-odds of the label, for every token of a kind


def odds_of(ids):
    return WEIGHTS[ids].sum(1) - 1


def labelled(count, seed=0):
    """Texts of independent tokens and a label that is a logistic regression on their counts."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(V, (count, L), generator=generator)
    return ids, torch.rand(count, generator=generator) < odds_of(ids).sigmoid()


def noised(ids, alpha, masked):
    if masked:
        return ids.masked_fill(torch.rand(ids.shape, generator=torch.Generator().manual_seed(5)) >= alpha, V)
    return corrupt(ids, torch.full((len(ids),), alpha), V, generators(len(ids)))


def flat(ids, alpha=None):
    return torch.full((*ids.shape, V), 1 / V).log()


@pytest.fixture(scope="module", params=[True, False], ids=["masked", "uniform"])
def masked(request):
    return request.param


@pytest.fixture(scope="module")
def head(masked):
    return TokenHead.fit(*labelled(3_000), V, masked=masked, name="tone")


def test_on_clean_texts_it_is_the_regression_that_made_the_labels(head):
    ids, _ = labelled(500, seed=1)
    found = head.log_prob(ids, torch.ones(500))
    odds = found[:, 1] - found[:, 0]
    assert (odds - odds_of(ids)).abs().mean() < 0.3


def test_at_every_noise_level_its_probabilities_are_those_of_the_labels(head, masked):
    ids, labels = labelled(2_000, seed=1)
    losses = {}
    for alpha in (0.0, 0.05, 0.3, 0.7, 0.95, 1.0):
        found = head.log_prob(noised(ids, alpha, masked), torch.full((2_000,), alpha))
        assert (found[:, 1].exp().mean() - labels.float().mean()).abs() < 0.05
        losses[alpha] = F.nll_loss(found, labels.long()).item()
    falling = [losses[alpha] for alpha in (0.0, 0.3, 0.7, 0.95, 1.0)]
    assert falling == sorted(falling, reverse=True)
    share = labels.float().mean()
    assert abs(falling[0] + share * share.log() + (1 - share) * (1 - share).log()) < 0.03  # where nothing is to be read
    assert falling[-1] < 0.5


@pytest.mark.parametrize("exact", [True, False])
def test_its_guide_leads_to_texts_with_the_label(head, masked, exact):
    """Of independent tokens those with the label are known; the share of the first token is to be theirs."""
    count = 400
    kernel = masked_kernel(flat, V) if masked else uniform_kernel(flat)
    begin = torch.full((count, L), V) if masked else noise(count, L, V, generators(count))
    ends = {scale: walk(head.toward(True, scale, exact)(kernel), begin, 24, generators(count)) for scale in (0.0, 1.0)}
    ids, labels = labelled(20_000, seed=2)
    wanted, plain = (F.one_hot(some, V).double().mean((0, 1)) for some in (ids[labels], ids))
    error = 4 * (0.25 * 0.75 / (count * L)) ** 0.5
    assert (wanted - plain).abs().max() > 2 * error
    for scale, law in ((0.0, plain), (1.0, wanted)):
        found = F.one_hot(ends[scale], V).double().mean((0, 1))
        assert (found - law).abs().max() < error, (scale, found, law)


def test_it_reads_embeddings_in_place_of_counts(masked):
    table = torch.randn(V + masked, 3, generator=torch.Generator().manual_seed(0))
    ids, labels = labelled(800)
    head = TokenHead.fit(ids, labels, V, masked=masked, table=table, C=100.0)
    assert head.head.weight.shape[1:] == (2, 1, 3)
    text = F.one_hot(ids[:5], V + masked).float()
    noise = table[-1] if masked else table.mean(0)
    torch.testing.assert_close(head.features(text), table[ids[:5]].mean(1, keepdim=True) - noise)
    clean = head.log_prob(ids, torch.ones(len(ids))).argmax(1) == labels
    assert clean.float().mean() > 0.7


def test_a_head_is_fitted_alike_again_and_chooses_its_strength_on_clean_texts():
    ids, labels = labelled(150)
    one, two = (TokenHead.fit(ids, labels, V, masked=False, C="cv") for _ in range(2))
    torch.testing.assert_close(one.head.weight, two.head.weight, rtol=0, atol=0)
    other = TokenHead.fit(ids, labels, V, masked=False, C="cv", seed=1).head.weight
    assert torch.equal(other[-1], one.head.weight[-1]) and not torch.equal(other[0], one.head.weight[0])


def test_what_cannot_be_fitted_is_told_in_a_sentence():
    ids, labels = labelled(50)
    assert "50 texts but 49 labels" in refusal(TokenHead.fit, ids, labels[:49], V)
    assert "must be [5, F], a row for each of the 4 tokens and the mask" in refusal(
        TokenHead.fit, ids, labels, V, table=torch.zeros(4, 2))
    assert "all labels are of one class" in refusal(TokenHead.fit, ids, torch.zeros(50), V)
    assert "knows no label 'good'" in refusal(TokenHead.fit(ids, labels, V).toward, "good")
    with pytest.raises(UserError, match="ids hold 4, must be from 0 to 3"):
        TokenHead.fit(ids + 1, labels, V)
