"""Train the soft prompts by which a frozen language model reads the vector of a frozen sentence encoder.

    latdiff train-sentence english train_sentence.steps=2000

Encodes the texts once, resumes where an earlier run stopped, writes the codec to checkpoints/NAME, and ends with how
well unseen texts are written again, and with what those say by the encoder's own measure.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from latdiff.codecs.files import load_codec, save_codec
from latdiff.codecs.sentence import SentenceCodec
from latdiff.config import Recipe, recipe_from_command_line
from latdiff.data.corpus import Corpus, DataError, load_corpus
from latdiff.data.tokens import length_report
from latdiff.errors import UserError, plain_errors
from latdiff.evaluation.report import update_metrics
from latdiff.fetch import located
from latdiff.lm import context
from latdiff.models.writer import (
    SentenceModelError,
    add_updates,
    load_encoder,
    load_writer,
    merge_updates,
    writer_features,
)
from latdiff.precision import default_device
from latdiff.training import BatchOrder, Run, refuse_changes, save_latents, step_generator

SETTINGS = ("seed", "data", "sentence", "train_sentence")  # that its result depends on
SHOWN, MEASURED = 3, 200  # unseen texts that are printed under way, and measured at the end
VECTORS = Path("train/vectors.safetensors")


class WritingLoss(nn.Module):
    """Cross-entropy of a text written from noisy latents, nats a token.

    forward(latents [B, L, D], B rows of ids, those of the first words that each goes on from, generator). Half of the
    latents are clean, the others have noise of sd ~ U(0, latent_noise), which the soft prompts get as an input. Logits
    are of the training texts' pieces alone.
    """

    def __init__(self, codec: SentenceCodec, latent_noise: float, pieces: Tensor):
        super().__init__()
        self.soft_prompts, self.latent_noise = codec.soft_prompts, latent_noise
        self.language_model = [codec.language_model]  # in a list: its frozen weights are neither saved nor trained
        self.register_buffer("head", codec.language_model.get_output_embeddings().weight[pieces].clone())
        place = torch.full((codec.language_model.config.vocab_size,), -100)
        place[pieces] = torch.arange(len(pieces))
        self.register_buffer("place", place)

    def forward(self, latents, ids, starts, generator):
        count = len(latents)
        noisy = torch.rand(count, generator=generator) < 0.5
        sd = (noisy * self.latent_noise * torch.rand(count, generator=generator)).to(latents)
        eps = torch.randn(latents.shape, generator=generator).to(latents)
        prompts = self.soft_prompts(latents + sd[:, None, None] * eps, sd)
        features = writer_features(self.language_model[0], prompts, ids, starts)
        wanted = torch.tensor([one for row in ids for one in row], device=features.device)
        return F.cross_entropy(F.linear(features, self.head.to(features)).float(), self.place[wanted])


def main(recipe: Recipe, quiet: bool = False) -> None:
    folder, settings = recipe.folder, recipe.train_sentence
    refuse_changes(recipe, SETTINGS)
    if finished(recipe):
        print(f"{folder / 'codec'} is already trained; delete {folder} or set name= to train another")
        return
    corpus = load_corpus(recipe.data, recipe.seed, extra=not recipe.sentence.path)
    if recipe.sentence.path:
        return adopt(recipe, corpus, quiet)
    codec = build(recipe)
    codec.to(default_device())
    texts, starts, own = readable(recipe, codec, corpus)
    recipe.save(folder / "recipe.yaml")
    vectors = encoded(folder, codec, texts, quiet)
    latents = codec.whiten(vectors[:own]).whitened(vectors)

    run = Run(recipe, "sentence", folder / "train" / "sentence.safetensors", settings, quiet)
    ids, begun = codec.tokenize(texts, starts), codec.ids(starts)
    pieces = torch.tensor(sorted({piece for row in ids for piece in row}))
    objective = WritingLoss(codec, settings.latent_noise, pieces)
    low_rank = add_updates(codec.language_model, recipe.sentence.rank) if recipe.sentence.rank else nn.ModuleList()
    trained = nn.ModuleList([codec.soft_prompts, *low_rank])
    count = sum(p.numel() for p in trained.parameters())
    print(f"{count:,} weights to train, {len(pieces):,} pieces, {len(texts):,} texts -> {folder}")
    objective = run.prepare(objective, trained=trained, muon=False)  # not tried at length on low-rank factors
    for step, rows in run.steps(BatchOrder(len(ids), settings.batch_size, recipe.seed, list(map(len, ids)))):
        batch = latents[rows].to(run.device), [ids[i] for i in rows], [begun[i] for i in rows]
        with run.autocast():
            loss = objective(*batch, step_generator(recipe.seed, step))
        run.update(loss)
        if run.due(settings.sample_every) and not quiet:
            show(run.bar, codec, corpus.valid[:SHOWN])

    run.finish()
    merge_updates(codec.language_model)
    made = {"training_minutes": round(run.minutes, 2), "dtype": run.dtype}
    finish(recipe, codec.eval(), latents[:own], corpus.valid, made)
    run.state.unlink(missing_ok=True)
    print(f"trained in {run.minutes:.1f} minutes -> {folder}")


def finished(recipe: Recipe) -> bool:
    """Whether the recipe's folder has its codec."""
    return (recipe.folder / "codec" / "config.json").exists()


def build(recipe: Recipe) -> SentenceCodec:
    """A codec of the recipe's sizes, untrained, with its models; raises SentenceModelError where they do not fit."""
    torch.manual_seed(recipe.seed)
    settings = recipe.sentence
    tokenizer, model = load_writer(located(settings.language_model))
    encoder_tokenizer, encoder = load_encoder(located(settings.encoder))
    width = encoder.config.hidden_size
    if width % settings.num_latents:
        raise SentenceModelError(f"sentence.num_latents is {settings.num_latents}, which does not divide the encoder's "
                                 f"width {width}; try 8")
    most = context(model) - settings.num_prompts
    if settings.max_tokens > most:
        raise SentenceModelError(f"sentence.max_tokens is {settings.max_tokens}, but {settings.language_model!r} reads "
                                 f"no more than {most} tokens beside {settings.num_prompts} soft prompts; lower it")
    codec = SentenceCodec(
        language_model=settings.language_model, encoder=settings.encoder, num_latents=settings.num_latents,
        latent_dim=width // settings.num_latents, prompt_dim=model.config.hidden_size, num_prompts=settings.num_prompts,
        width=settings.width, rank=settings.rank, continues=recipe.data.condition == "start",
        max_tokens=settings.max_tokens, assumed_noise=settings.assumed_noise,
    )
    codec.attach(tokenizer=tokenizer, language_model=model, encoder_tokenizer=encoder_tokenizer, encoder=encoder)
    codec.soft_prompts.begin_at(model.get_input_embeddings().weight.std().item())
    return codec


def adopt(recipe: Recipe, corpus: Corpus, quiet: bool) -> None:
    """Take another checkpoint's codec as it is, for this corpus."""
    codec = load_codec(Path(recipe.located(recipe.sentence.path)))
    if not isinstance(codec, SentenceCodec):
        raise UserError(f"sentence.path is {recipe.sentence.path!r}, a checkpoint with a {type(codec).__name__}, must "
                        "be one with a SentenceCodec; set another, or leave it out to train one")
    if recipe.data.condition in ("start", "text") and codec.continues != (recipe.data.condition == "start"):
        raise UserError(f"data.condition is {recipe.data.condition!r}, but the codec of {recipe.sentence.path} was "
                        f"{'' if codec.continues else 'not '}trained to go on from its source; leave sentence.path out")
    texts, _, own = readable(recipe, codec, corpus)
    recipe.save(recipe.folder / "recipe.yaml")
    codec.to(default_device())
    vectors = encoded(recipe.folder, codec, texts[:own], quiet)
    finish(recipe, codec, codec.whitened(vectors), corpus.valid, {"adopted_from": recipe.sentence.path})
    print(f"the codec of {recipe.sentence.path} -> {recipe.folder}")


def readable(recipe: Recipe, codec: SentenceCodec, corpus: Corpus) -> tuple[list[str], list[str], int]:
    """The texts that are short enough, the first words that each goes on from, and how many are the corpus' own.

    Those are the first ones; the extra texts come behind them.
    """
    limit = recipe.data.max_tokens
    if limit > codec.config.max_tokens:
        raise DataError(f"data.max_tokens is {limit}, but the codec of {recipe.sentence.path or recipe.name} writes "
                        f"{codec.config.max_tokens} tokens; set data.max_tokens={codec.config.max_tokens} or less")
    short = codec.fits(corpus.train, limit)
    own = list(itertools.compress(corpus.train, short))
    begun = recipe.data.condition == "start"
    starts = list(itertools.compress(corpus.train_conditions, short)) if begun else [""] * len(own)
    more = list(itertools.compress(corpus.extra, codec.fits(corpus.extra, limit)))
    left_out = {"too long": len(corpus.train) - len(own)} | corpus.dropped
    counts = ", ".join(f"{count:,} {why}" for why, count in left_out.items())
    print(f"{len(own):,} texts of at most {limit} tokens; left out: {counts}")
    print(length_report(codec.tokenize(corpus.train)))
    if more:
        print(f"{len(more):,} extra texts that are short enough, for the codec alone")
    if len(own) < 2 or not any(codec.fits(corpus.valid)):
        raise DataError(f"{recipe.data.source}: {len(own)} training texts are short enough, two are the least, and an "
                        f"unseen one; raise data.max_tokens ({limit}) and sentence.max_tokens, or give more texts")
    return own + more, starts + [""] * len(more), len(own)


def encoded(folder: Path, codec: SentenceCodec, texts: list[str], quiet: bool) -> Tensor:
    """Vectors [N, E] of texts, from disk, or encoded and put there with a digest of texts and encoder."""
    sha = hashlib.sha256("\n".join([codec.encoder_digest, *texts]).encode()).hexdigest()
    path = folder / VECTORS
    try:
        with safe_open(path, framework="pt") as file:
            if file.metadata().get("sha256") == sha:
                return file.get_tensor("vectors").to(codec.device)
    except (FileNotFoundError, SafetensorError):
        pass
    path.parent.mkdir(parents=True, exist_ok=True)

    def progress(batches):
        return tqdm(batches, desc="encoding", unit="batch", disable=quiet, mininterval=2, dynamic_ncols=True)

    vectors = codec.vectors(texts, progress=progress)
    save_file({"vectors": vectors.cpu().contiguous()}, path, metadata={"sha256": sha})
    return vectors


def show(bar, codec: SentenceCodec, texts: list[str]) -> None:
    """A few unseen texts and what is written from their vectors, so that a person sees the words settle."""
    texts = list(itertools.compress(texts, codec.fits(texts)))
    for text, back in zip(texts, codec.decode(codec.encode(texts)) if texts else [], strict=True):
        bar.write(f"  text  {text}\n  back  {back}")


def meaning(codec: SentenceCodec, texts: list[str], preset: str) -> dict:
    """How well unseen texts come back: share of tokens that are ranked first, and cosine of the encoder's vectors."""
    latents = codec.encode(texts)
    said = [text or "." for text in codec.generate(latents, preset=preset or codec.presets[0]).texts]
    cosine = F.cosine_similarity(codec.vectors(texts), codec.vectors(said)).mean().item()
    return {"n": len(texts), "token_accuracy": codec.token_accuracy(latents, texts), "cosine": cosine,
            "decoding": preset or codec.presets[0]}


def finish(recipe: Recipe, codec: SentenceCodec, latents: Tensor, valid: list[str], made: dict) -> None:
    """Cache the corpus' latents, save the codec, and measure on unseen texts; `made` says where it comes from."""
    folder = recipe.folder
    save_latents(folder, latents, codec.digest)
    save_codec(codec, folder)
    (folder / VECTORS).unlink(missing_ok=True)
    unseen = list(itertools.compress(valid, codec.fits(valid)))[:MEASURED]
    measured = meaning(codec, unseen, recipe.sampling.decoding)
    update_metrics(folder, {"meaning": measured | made})
    print(f"{len(unseen)} unseen texts: token accuracy {measured['token_accuracy']:.3f}, cosine of the vectors of a "
          f"text and of what is written from it {measured['cosine']:.3f}")


if __name__ == "__main__":
    with plain_errors():
        main(*recipe_from_command_line(__doc__))
