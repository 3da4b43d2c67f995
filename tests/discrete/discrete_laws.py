"""What a kernel samples, exactly, and ideal predictors and classifiers under uniform noise and masks."""

import torch
import torch.nn.functional as F
from scipy.stats import chisquare
from toy_worlds import code, words

from latdiff.diffusion.noise import streams


def agreement(world, one_hot, alpha):
    """q(z_l | x_l) of all texts x, up to a constant at masks: [B, V^L, L], linear in the one-hot text [B, L, K]."""
    size = world.vocab_size
    one_hot, alpha = one_hot.double(), alpha.double()[:, None, None]
    same = torch.einsum("blv,xlv->bxl", one_hot[..., :size], F.one_hot(world.texts, size).double())
    if one_hot.shape[-1] > size:  # with a mask, which fits every token
        return same + one_hot[:, None, :, size]
    return alpha * same + (1 - alpha) / size * one_hot.sum(-1)[:, None]


def left_out_predictor(world):
    """The exact p(x_l | z without l) under uniform noise."""
    def predict(ids, alpha):
        fits = agreement(world, F.one_hot(ids, world.vocab_size), alpha)
        found = []
        for place in range(world.length):
            others = [other for other in range(world.length) if other != place]
            weights = fits[..., others].prod(-1) * world.probs
            found.append(weights @ F.one_hot(world.texts[:, place], world.vocab_size).double())
        found = torch.stack(found, 1)
        return (found / found.sum(-1, keepdim=True)).log()

    return predict


def left_out_of_chain(chain):
    """The same of a Markov chain, by the forward-backward algorithm with soft evidence."""
    def predict(ids, alpha):
        alpha, size = alpha.double()[:, None, None], chain.vocab_size
        seen = alpha * F.one_hot(ids, size) + (1 - alpha) / size
        before, after = [chain.initial.expand(len(ids), size)], [torch.ones(len(ids), size).double()]
        for place in range(ids.shape[1] - 1):
            before.append((before[-1] * seen[:, place]) @ chain.transition)
            after.append((after[-1] * seen[:, -1 - place]) @ chain.transition.T)
        found = torch.stack(before, 1) * torch.stack(after[::-1], 1)
        return (found / found.sum(-1, keepdim=True)).log()

    return predict


def whole_predictor(world):
    """The exact p(x_l | z) under uniform noise."""
    def predict(ids, alpha):
        weights = agreement(world, F.one_hot(ids, world.vocab_size), alpha).prod(-1) * world.probs
        found = torch.einsum("bx,xlv->blv", weights, F.one_hot(world.texts, world.vocab_size).double())
        return (found / weights.sum(-1)[:, None, None]).log()

    return predict


def exact_classifier(world, label):
    """log p(y | z) where p(y | x) of all texts is `label` [V^L]."""
    def classify(one_hot, alpha):
        weights = agreement(world, one_hot, alpha).prod(-1) * world.probs
        return ((weights * label).sum(1) / weights.sum(1)).log()

    return classify


def law(kernel, begin, length, steps):
    """Law [K^L] of what `walk` ends in, of a law [K^L] that it begins with: one matrix of K^L x K^L a step."""
    size = round(len(begin) ** (1 / length))
    states, found = words(size, length), begin
    for step in range(steps):
        each = kernel(states, step / steps, (step + 1) / steps).exp()
        moves = torch.stack([each[:, place][:, states[:, place]] for place in range(length)]).prod(0)
        found = found @ moves
    return found


def masks(vocab_size, length):
    """The law in which all is masked."""
    begin = torch.zeros((vocab_size + 1) ** length, dtype=torch.float64)
    begin[-1] = 1
    return begin


def any_tokens(vocab_size, length):
    """The law in which all texts are equally likely."""
    return torch.full((vocab_size**length,), 1 / vocab_size**length, dtype=torch.float64)


def of_texts(found, vocab_size, length):
    """The part [V^L] of a law [(V + 1)^L] that is of texts without a mask."""
    return found[code(words(vocab_size, length), vocab_size + 1)]


def distance(one, other):
    """Total variation."""
    return (one - other).abs().sum().item() / 2


def looked_up(kernel, size, length, steps):
    """The kernel as a table of all ids and steps, for many walks."""
    tables = [kernel(words(size, length), step / steps, (step + 1) / steps) for step in range(steps)]
    return lambda ids, alpha_t, alpha_s: tables[round(alpha_t * steps)][code(ids, size)]


def chi_square(ids, probs, vocab_size):
    """p-value of texts [N, L] as draws of a law [V^L]; texts of less than five expected draws are one."""
    counts = torch.bincount(code(ids, vocab_size), minlength=len(probs)).double()
    expected = probs * len(ids)
    cells = torch.where(expected < 5, len(probs), torch.arange(len(probs)))
    observed, awaited = (torch.zeros(len(probs) + 1).double().index_add_(0, cells, one) for one in (counts, expected))
    some = (observed + awaited) > 0
    return chisquare(observed[some].numpy(), awaited[some].numpy()).pvalue


def generators(count, seed=0):
    return streams(torch.Generator().manual_seed(seed), count)
