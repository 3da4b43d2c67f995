"""What steering, editing and scoring count on in a head: one suite for all of them, a toy of a few lines included."""

import pytest
import torch
from sklearn.svm import LinearSVC
from toy_heads import CODEC, D, L

from latdiff.diffusion.guidance import Guide, steer, titles, warn_of_contradictions, warn_of_strain
from latdiff.diffusion.modes import MODES
from latdiff.heads.attribute import AttributeHead
from latdiff.heads.callable import CallableHead
from latdiff.heads.files import load_head
from latdiff.heads.fitting import fit_head
from latdiff.heads.number import NumberHead

TEXTS = [f"{letter}{number}" for number in range(20) for letter in "abc"]
LABELS = [text[0] for text in TEXTS]


class Near:
    """A toy, all that `guidance.Head` asks for: latents are to lie near those that all have one value."""

    name, codec_digest, radius = "near", None, None

    def log_prob_of(self, target, x, log_snr=None):
        return -(x - target).square().mean((1, 2))

    def describe(self, target):
        return f"{target:g}"

    def excludes(self, one, two):
        return one.target != two.target


def log_density(x):
    return -(x.mean((1, 2)) - 1).square()


class Net(torch.nn.Module):
    """A small network of two layers as a classifier of clean latents."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(L * D, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    def forward(self, x):
        return self.layers.to(x.dtype)(x.flatten(1)).log_softmax(-1)[:, 1]


def from_sklearn():
    return AttributeHead.from_sklearn(CODEC, LinearSVC().fit(CODEC.encode(TEXTS).flatten(1).numpy(), LABELS))


# name -> the head, and two guides that contradict each other as far as it can tell
HEADS = {
    "labels": (lambda: fit_head(CODEC, TEXTS, LABELS, name="letter"), lambda head, **at: head.toward("a", **at),
               lambda head: head.away("a")),
    "two labels": (lambda: fit_head(CODEC, TEXTS, [x == "a" for x in LABELS]),
                   lambda head, **at: head.toward(True, **at), lambda head: head.toward(False)),
    "either of two": (lambda: fit_head(CODEC, TEXTS, LABELS), lambda head, **at: head.toward({"a": 1, "b": 2}, **at),
                      lambda head: head.toward("c")),
    "noise-aware": (lambda: fit_head(CODEC, TEXTS, LABELS, noise_aware=True),
                    lambda head, **at: head.toward("c", **at), lambda head: head.away("c")),
    "from scikit-learn": (from_sklearn, lambda head, **at: head.toward("a", **at), lambda head: head.toward("b")),
    "number": (lambda: fit_head(CODEC, TEXTS, [ord(x) for x in LABELS], NumberHead("code")),
               lambda head, **at: head.toward(98, **at), lambda head: head.toward(97)),
    "function": (lambda: CallableHead(log_density), lambda head, **at: head.guide(**{"scale": 1.0} | at),
                 lambda head: head.guide(-1.0)),
    "network": (lambda: CallableHead(Net()), lambda head, **at: head.guide(**{"scale": 1.0} | at),
                lambda head: head.guide(-1.0)),
    "toy": (Near, lambda head, **at: Guide(head, 2.0, **{"scale": 1.0} | at), lambda head: Guide(head, -2.0, 1.0)),
}


@pytest.fixture(params=HEADS)
def kind(request):
    return request.param


@pytest.fixture
def head(kind):
    return HEADS[kind][0]()


@pytest.fixture
def guide(kind, head):
    return HEADS[kind][1](head)


@pytest.fixture
def x():
    return torch.randn(5, L, D, generator=torch.Generator().manual_seed(3))


def log_prob(guide, x, log_snr=None):
    """Differentiable, as guides ask for it."""
    return guide.head.log_prob_of(guide.target, x.requires_grad_(), log_snr)


def test_a_text_has_one_finite_log_probability(guide, x):
    found = log_prob(guide, x)
    assert found.shape == (5,) and found.dtype == torch.float32
    assert found.isfinite().all()
    assert log_prob(guide, torch.full((1, L, D), 50.0)).isfinite().all()  # far off the data as well


def test_texts_do_not_depend_on_each_other(guide, x):
    apart = torch.cat([log_prob(guide, one[None]) for one in x.detach()])
    torch.testing.assert_close(apart, log_prob(guide, x))


def test_the_gradient_is_that_of_finite_differences(guide, x):
    assert torch.autograd.gradcheck(lambda at: log_prob(guide, at), x.double().requires_grad_(), atol=1e-5)


def test_the_gradient_at_noised_latents_is_that_of_finite_differences(guide, x):
    noise = torch.tensor([-9.0, -1.0, 0.3, 2.0, 15.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda at: log_prob(guide, at, noise), x.double().requires_grad_(), atol=1e-5)


def test_half_precision_gets_its_gradient(guide, x):
    at = x.bfloat16().requires_grad_()
    (gradient,) = torch.autograd.grad(log_prob(guide, at).sum(), at)
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_its_guides_make_the_target_likelier(mode, kind, head, x):
    if mode == "noisy" and getattr(head, "log_snrs", None) is None:
        pytest.skip("reads clean latents alone")
    guide, alpha2 = HEADS[kind][1](head, mode=mode), torch.full((5,), 0.6)
    small = Guide(head, guide.target, 0.01 * guide.scale, mode)
    with torch.inference_mode():
        moved = steer(lambda z, alpha2, cond=None, x_prev=None: z, [small])(x, alpha2)
    assert moved.isfinite().all()
    noise = torch.logit(alpha2) if mode == "noisy" else None
    gained = log_prob(small, moved.clone(), noise) - log_prob(small, x.clone(), noise)
    if mode == "monte-carlo":  # which climbs what its draws make of the target, on the way to it
        gained = gained.mean()
    assert (gained > 0).all()


def test_what_is_said_of_it(guide):
    """Name and target, in a title that is told apart from another of its kind."""
    assert guide.title == f"{guide.head.name}={guide.head.describe(guide.target)}"
    assert isinstance(guide.head.name, str) and guide.head.describe(guide.target)
    assert titles([guide, guide]) == [guide.title, f"{guide.title} #2"]


def test_it_knows_what_excludes_what(kind, head, guide):
    other = HEADS[kind][2](head)
    assert head.excludes(guide, other) and head.excludes(other, guide)
    assert not head.excludes(guide, guide)
    with pytest.warns(UserWarning, match="pull against each other"):
        warn_of_contradictions([guide, other])


def test_it_says_how_far_out_texts_lie_or_that_it_does_not_know(guide):
    assert guide.head.radius is None or guide.head.radius > 0
    assert guide.head.codec_digest in (None, "abc")
    with pytest.warns(UserWarning, match="off the data"):
        warn_of_strain(torch.full((5, L, D), 9.0), [guide])


def test_it_comes_back_from_its_folder(kind, head, guide, tmp_path, x):
    if not hasattr(head, "save"):
        assert isinstance(head, (CallableHead, Near))  # a folder holds no code
        return
    head.save(tmp_path)
    again = load_head(tmp_path)
    assert type(again) is type(head) and again.get_params() == head.get_params()
    for noise in (None, torch.linspace(-9, 9, 5)):
        assert torch.equal(again.log_prob_of(guide.target, x, noise), head.log_prob_of(guide.target, x, noise))
    assert HEADS[kind][1](again).title == guide.title
    assert (again.report, again.radius, again.codec_digest) == (head.report, head.radius, head.codec_digest)


def test_it_moves(head, guide, x):
    if isinstance(head, Near):
        pytest.skip("has nothing to move")
    assert head.to("meta") is head
    assert log_prob(guide, x.to("meta")).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_it_reads_the_same_on_a_gpu(guide, x):
    expected = log_prob(guide, x)
    if hasattr(guide.head, "to"):
        guide.head.to("cuda")
    torch.testing.assert_close(log_prob(guide, x.detach().cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)
