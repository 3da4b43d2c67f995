"""Kill every recipe at random moments, give the same command again, and compare what comes out with an undisturbed run.

    python tests/soak/kills.py --kills 200 --json docs/lab/results/soak-kills.json

Half of the kills (signal 9) come at a random time, half at a random one of the moments at which the run opens, renames,
makes or deletes something in its folder, for a time is rarely so short. Killed runs are given again, and may be killed
again, until one ends. Weights and samples must be those of the undisturbed run, bit for bit, with nothing to delete.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")  # audited by Python
STAGES = ("pretrain_backbone", "train_autoencoder", "train_denoiser", "train_ar", "train_seq2seq", "train_sentence",
          "train_perceiver", "train_star", "train_wellformed", "distill", "train_tokens")
WORDS = """
name: words
dtype: float32
data: {source: words.jsonl, valid_size: 6, max_tokens: 24}
sentence: {language_model: gpt2, encoder: encoder, num_latents: 4, width: 16, rank: 2, max_tokens: 24}
train_sentence: {steps: 4, batch_size: 4, warmup_steps: 2, sample_every: 100, save_every: 2}
perceiver: {language_model: gpt2, encoder: encoder, num_latents: 8, latent_dim: 4, width: 16, depth: 1, heads: 2,
  rank: 2, max_tokens: 24}
train_drafts: {steps: 4, batch_size: 8, warmup_steps: 2, sample_every: 100, save_every: 2}
train_perceiver: {steps: 4, batch_size: 4, warmup_steps: 2, sample_every: 100, save_every: 2}
train_wellformed: {encoder: encoder, steps: 4, batch_size: 8}
star: {language_model: gpt2, plan: checkpoints/plan, num_prompts: 3, width: 16, depth: 1, heads: 2}
train_star: {steps: 6, batch_size: 4, splits: 2, warmup_steps: 2, sample_every: 100, save_every: 2}
denoiser: {width: 16, depth: 1, heads: 2}
train_denoiser: {steps: 3, batch_size: 8, warmup_steps: 2, sample_every: 100}
sampling: {steps: 2}
"""
PAIRS = ("data.source=pairs.jsonl", "data.condition=text", "data.condition_column=source", "train_seq2seq.steps=4",
         "train_seq2seq.batch_size=4")


TOKENS = ("name=tokens", "stages=[train_tokens]", "tokens.width=16", "tokens.layers=1", "tokens.heads=2",
          "tokens.sampling_steps=4", "train_tokens.steps=6", "train_tokens.batch_size=8", "train_tokens.save_every=2")
FEW = ("name=few", "stages=[distill]", "distill.teacher=checkpoints/tiny", "distill.steps=6", "distill.levels=4",
       "distill.batch_size=8", "distill.save_every=2", "sampling.scheduler=ddim", "sampling.steps=2")


@dataclass(frozen=True)
class Job:
    """A command that is killed: a stage, its recipe and settings; `after` is what has to be finished before."""

    name: str
    stage: str
    recipe: str = "tiny.yaml"
    settings: tuple[str, ...] = ()
    after: str = ""


JOBS = (
    Job("pretrain-backbone", "pretrain_backbone"),
    Job("train-ae", "train_autoencoder", after="pretrain-backbone"),
    Job("train-diffusion", "train_denoiser", after="train-ae"),
    Job("train-diffusion from nothing", "train_denoiser"),
    Job("distill", "distill", settings=FEW, after="train-diffusion"),
    Job("train-tokens", "train_tokens", settings=TOKENS, after="pretrain-backbone"),
    Job("train-ar", "train_ar", after="pretrain-backbone"),
    Job("train-seq2seq", "train_seq2seq", settings=PAIRS, after="pretrain-backbone"),
    Job("train-sentence", "train_sentence", "words.yaml", ("codec=sentence",)),
    Job("train-diffusion on a sentence codec", "train_denoiser", "words.yaml", ("codec=sentence",), "train-sentence"),
    Job("train-perceiver", "train_perceiver", "words.yaml", ("codec=perceiver",)),
    Job("train-star", "train_star", "words.yaml", ("stages=[train_star]", "sampling.scheduler=ddim")),
    Job("train-wellformed", "train_wellformed", "words.yaml"),
)


def lay_out(folder: Path) -> None:
    """A working directory with texts, recipes, tiny models of random weights, and a codec for plans."""
    import sentence_models
    from runs import TINY

    from latdiff.codecs.files import save_codec

    folder.mkdir(parents=True)
    writers = SimpleNamespace(encoder=folder / "models" / "encoder", gpt2=folder / "models" / "gpt2")
    for place, make in ((writers.encoder, sentence_models.bert), (writers.gpt2, sentence_models.gpt2)):
        place.mkdir(parents=True)
        make(place)
    sentence_models.lay_out(folder, writers, WORDS)
    (folder / "tiny.yaml").write_text(TINY, encoding="utf-8")
    rows = [{"text": f"Short {n}.", "source": f"It is long {n}."} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with contextlib.chdir(folder):
        save_codec(sentence_models.sentence_codec("gpt2", "encoder"), Path("checkpoints/plan"))


def run(job: Job, folder: Path, kill_at: int, count: Path | None = None) -> None:
    """In a process of its own: the job, killed at the n-th event in its folder, or else counting them."""
    import warnings

    from latdiff.config import load_recipe

    warnings.simplefilter("ignore")
    os.chdir(folder)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1), os.dup2(quiet, 2)
    seen, within = 0, str(folder)

    def audit(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in EVENTS or not isinstance(arguments[0], str | os.PathLike):
            return
        path = os.path.abspath(arguments[0])
        if path.startswith(os.path.join(within, "checkpoints")):
            seen += 1
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    recipe = load_recipe(job.recipe, list(job.settings))
    importlib.import_module(f"latdiff.recipes.{job.stage}").main(recipe, quiet=True)
    if count is not None:
        count.write_text(str(seen), encoding="utf-8")


class Soak:
    """Undisturbed runs of all jobs, and killed ones to hold against them, in a folder of their own."""

    def __init__(self, root: Path):
        self.root, self.context = root, multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload([f"latdiff.recipes.{stage}" for stage in STAGES])
        self.seconds: dict[str, float] = {}
        self.events: dict[str, int] = {}
        lay_out(root / "start")

    def whole(self, job: Job) -> Path:
        """The folder of the job's undisturbed run, which is made the first time."""
        folder = self.root / "whole" / job.name
        if not folder.exists():
            began = time.monotonic()
            ended = self.begin(job, folder, count=self.root / "count")
            ended.join()
            if ended.exitcode:
                raise SystemExit(f"{job.name} ends with {ended.exitcode}, without a kill")
            self.seconds[job.name] = time.monotonic() - began
            self.events[job.name] = int((self.root / "count").read_text(encoding="utf-8"))
        return folder

    def before(self, job: Job) -> Path:
        """The folder in which the job begins."""
        earlier = {one.name: one for one in JOBS}.get(job.after)
        return self.whole(earlier) if earlier else self.root / "start"

    def trial(self, job: Job, rng: random.Random, by_time: bool, again: float = 0.4) -> tuple[int, list[str]]:
        """Kill the job once, and again with a probability, then let it end; returns how often, and what is wrong."""
        whole, folder, kills = self.whole(job), self.root / "killed", 0
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.before(job), folder)
        while kills == 0 or rng.random() < again:
            at = 0 if by_time else rng.randint(1, self.events[job.name])
            process = self.begin(job, folder, at)
            process.join(rng.uniform(0.1, self.seconds[job.name]) if by_time else None)
            process.kill()
            process.join()
            if process.exitcode == 0:  # it was over sooner
                break
            if process.exitcode != -signal.SIGKILL:
                return kills, [f"ends with {process.exitcode}"]
            kills += 1
        process = self.begin(job, folder)
        process.join()
        wrong = [f"given again, ends with {process.exitcode}"] if process.exitcode else []
        return kills, wrong + differences(whole / "checkpoints", folder / "checkpoints")

    def begin(self, job: Job, folder: Path, kill_at: int = 0, count: Path | None = None):
        """A process of the job in a folder, which is laid out where it is not there."""
        if not folder.exists():
            shutil.copytree(self.before(job), folder)
        process = self.context.Process(target=run, args=(job, folder, kill_at, count))
        process.start()
        return process


def differences(whole: Path, found: Path) -> list[str]:
    """Files of finished checkpoints that are not the same in both, and what is left that has no place there."""
    kept = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    there = {path.relative_to(found) for path in found.rglob("*") if path.is_file()}
    wrong = [f"{path} is missing" for path in sorted(kept - there)]
    wrong += [f"{path} is left over" for path in sorted(there - kept)]
    return wrong + [f"{path} differs" for path in sorted(kept & there) if not same(whole / path, found / path)]


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same tensors, or the same text; figures, which hold times, are not compared."""
    if one.suffix == ".safetensors":
        first, second = load_file(one), load_file(other)  # the order of metadata is no one's choice
        return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return one.suffix not in (".txt", ".jsonl") or one.read_bytes() == other.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many, over all recipes (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    from latdiff.evaluation.report import check_writable, machine, write_json

    check_writable(options.json)
    rng, began, trials, total = random.Random(options.seed), time.monotonic(), [], 0
    by_job = {job.name: {"kills": 0, "runs": 0, "wrong": 0} for job in JOBS}
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder) / "soak")
        while total < options.kills:
            job = JOBS[len(trials) % len(JOBS)]
            kills, wrong = soak.trial(job, rng, by_time=(len(trials) // len(JOBS)) % 2 == 0)
            total += kills
            trials.append(wrong)
            for key, more in (("kills", kills), ("runs", 1), ("wrong", bool(wrong))):
                by_job[job.name][key] += int(more)
            print(f"{total:4} kills, {job.name}: {'; '.join(wrong) or 'the same in the end'}", flush=True)
    write_json(options.json, {
        "kills": total, "runs": len(trials), "wrong": [wrong for wrong in trials if wrong], "by_recipe": by_job,
        "seed": options.seed, "seconds": round(time.monotonic() - began), "machine": machine("float32"),
    })
    raise SystemExit(1 if any(trials) else 0)


if __name__ == "__main__":
    main()
