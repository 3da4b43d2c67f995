"""The pages of docs/ are run as written: their Python, their commands; their links lead somewhere, and the nav has all.

A block that cannot be run here has a line `<!-- not run: why -->` above it, and one that quotes the code a line
`<!-- code: file function -->`; both show on the page. Figures and history, docs/lab/, are links alone.
"""

import ast
import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sentence_models
import torch
import yaml
from denoisers import random_denoiser
from latdiff.recipes import companions

import latdiff
from latdiff import cli, storyworld
from latdiff.config import load_recipe
from latdiff.models.denoiser import LatentDenoiser
from latdiff.schedule import betas

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
ALL = sorted(DOCS.rglob("*.md"))
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
BLOCK = re.compile(r"(?:^<!-- (not run|code): ([^\n]+) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?: {4}[^\n]*\n)+")
SMALL = (
    "data={valid_size: 20, max_tokens: 200}",
    "pretrain_backbone={vocab_size: 300, width: 16, ff_width: 32, layers: 1, heads: 2, steps: 3, batch_size: 4}",
    "autoencoder={num_latents: 3, latent_dim: 4, width: 16, depth: 1, heads: 2, max_tokens: 200}",
    "train_autoencoder={steps: 4, batch_size: 4, warmup_steps: 2}", "denoiser={width: 16, depth: 1, heads: 2}",
    "train_denoiser={steps: 4, batch_size: 4, warmup_steps: 2}", "sampling={steps: 2, decoding: greedy}",
)
LAUNCHER = re.compile(r"^(?:accelerate launch|torchrun|srun torchrun|python) .*-m latdiff |^latdiff ")


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(page, *languages):
    """(why it is not run, code) of the fenced blocks of some languages."""
    return [(f"{kind} {why}".strip(), code) for kind, why, language, code in BLOCK.findall(text_of(page))
            if language in languages]


def lines_of(code):
    """Lines of a shell block, those that end in a backslash joined, without comments and indentation."""
    joined = re.sub(r"\\\n\s*", " ", code)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def commands(page):
    """(why it is not run, line) of every line of the page's shell blocks, fenced or indented."""
    fenced = [(why, line) for why, code in blocks(page, "bash") for line in lines_of(code)]
    indented = [("", line) for code in INDENTED.findall(BLOCK.sub("", text_of(page))) for line in lines_of(code)]
    return fenced + indented


def named(page):
    return page.relative_to(DOCS).as_posix()


# Blocks of shell


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_command_is_one_that_there_is(page):
    assert blocks(page, "") == [], "say what is in each block: bash, python, yaml or text"
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for _, line in commands(page):
        words = shlex.split(line, comments=True)
        if LAUNCHER.match(line) and "..." not in words:
            check_words(words[words.index("latdiff") + 1 :])
        elif words[0] == "make":
            assert words[1] in targets, line
        elif words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), line
        elif words[:2] == ["python", "-m"]:
            assert importlib.util.find_spec(words[2]), line


def check_words(words):
    """Parse the words of a command, and read the recipe and the settings that a training is given."""
    options, rest = cli.parser().parse_known_args(words)
    if "settings" not in options:
        assert not rest, words
        return
    settings = [*options.settings, *rest]
    assert not [word for word in settings if word.startswith("-")], words
    if (ROOT / "recipes" / "configs" / f"{options.recipe}.yaml").exists():
        load_recipe(options.recipe, settings)


@pytest.fixture
def here(checkpoint, tmp_path, monkeypatch):
    """An empty folder, in which a tiny checkpoint stands in for the one that the pages name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, tmp_path / "storyworld")
    return tmp_path


def run_shell(page, run=LAUNCHER.match):
    """Run the page's fenced commands of latdiff in their order."""
    ran = 0
    for why, line in commands(page):
        if not why and run(line):
            words = shlex.split(line, comments=True)
            cli.main(words[words.index("latdiff") + 1 :])
            ran += 1
    assert ran


def with_topic(here):
    cli.main(["fit-head", str(here / "storyworld"), "--quiet", "--data", "storyworld", "--label-column", "topic",
              "--name", "topic", "--limit", "120"])


@pytest.mark.filterwarnings("ignore")
def test_the_tutorial_runs_as_written(here, capsys):
    with_topic(here)
    run_shell(DOCS / "tutorial.md")
    assert len(capsys.readouterr().out.splitlines()) > 12
    names = run_python(DOCS / "tutorial.md")
    assert len(names["out"].texts) == 3 and len(names["edited"].texts) == 1


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_an_attribute_runs_as_written(here, capsys):
    lines = [line for _, line in commands(DOCS / "attribute.md") if line.startswith("python -m")]
    assert lines == ["python -m latdiff.recipes.companions companions.csv"]
    companions.write(here / "companions.csv")
    run_shell(DOCS / "attribute.md")
    said = capsys.readouterr().out
    assert "generation: 300 texts" in said and "of 300 cross-validated texts, where the commonest label" in said
    names = run_python(DOCS / "attribute.md")
    assert len(names["out"].texts) == 8 and (here / "heads" / "generation-2" / "config.json").is_file()


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_samplers_runs_as_written(here):
    run_shell(DOCS / "samplers.md", lambda line: line.startswith("latdiff sample"))
    names = run_python(DOCS / "samplers.md")
    assert type(names["pipe"].scheduler).__name__ == "DPMSolverMultistepScheduler"


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_a_corpus_runs_as_written(here, capsys):
    """The first training, with settings on top that make of every stage a few steps of small networks."""
    run_python(DOCS / "corpus.md")
    assert len(Path("corpus.txt").read_text(encoding="utf-8").splitlines()) == 5000
    kept = Path("corpus.txt").read_text(encoding="utf-8").splitlines()[:120]
    Path("corpus.txt").write_text("\n".join(kept), encoding="utf-8")
    lines = [line for why, line in commands(DOCS / "corpus.md") if not why]
    training, *_ = (line for line in lines if line.startswith("latdiff train-diffusion mini"))
    sampling, evaluating = (line for line in lines if "checkpoints/mine" in line)
    for line, small in ((training, SMALL), (sampling, []), (evaluating, ["--num-samples", "4"])):
        cli.main([*shlex.split(line)[1:], *small, "--quiet"])
    said = capsys.readouterr().out
    for row in ("would keep all", "by itself copies", "unknown to its tokenizer", "reconstruction"):
        assert row in said


def test_the_page_on_the_hub_makes_a_checkpoint_ready(here, capsys):
    run_shell(DOCS / "hub.md")
    assert (here / "storyworld-small" / "checksums.txt").is_file()


# Blocks of Python


def run_python(page, names=None):
    """Run the page's Python in one namespace, which is returned."""
    names = {} if names is None else names
    ran = 0
    for why, code in blocks(page, "python"):
        if not why:
            exec(compile(code, str(page), "exec"), names)
            ran += 1
    assert ran
    return names


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_steering_runs_as_written(here):
    """On a CSV written by somebody who knows nothing of the heads that there are."""
    with open("companions.csv", "w", encoding="utf-8", newline="") as file:
        rows = companions.csv.writer(file)
        rows.writerow(["text", "label"])
        for story in storyworld.sample(80, 5):
            rows.writerow([story.text, "elder" if story.slots["companion"] in companions.ELDERS else "peer"])
    page = DOCS / "guidance.md"
    names = run_python(page)
    assert names["generation"].classes_.tolist() == ["elder", "peer"]
    assert list(names["out"].scores) == [
        "attribute=elder", "attribute=elder+peer", "attribute=elder #2", "words=40", "centred=high",
    ]
    assert len(names["edited"].texts) == 3 and len(names["between"]) == 5
    run_shell(page, lambda line: line.startswith("latdiff "))


def test_the_page_on_conditions_runs_as_written(pipe, tmp_path, monkeypatch):
    topics = list(storyworld.ATTRIBUTES["topic"])
    settings = {"codec_digest": pipe.codec.digest, "classes": topics}
    pipe.register_modules(denoiser=LatentDenoiser(*pipe.codec.latent_shape, width=16, depth=1, heads=2, **settings))
    pipe.save_pretrained(tmp_path / "checkpoints" / "by-topic")
    monkeypatch.chdir(tmp_path)
    names = run_python(DOCS / "conditions.md")
    assert len(names["out"].texts) == 8 and len(names["best"].texts) == 1
    load_recipe("storyworld", re.findall(r"data\.\w+=\w+", text_of(DOCS / "conditions.md")))


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_english_runs_as_written(writers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codec = sentence_models.sentence_codec(writers.gpt2, writers.encoder).seal()
    denoiser = random_denoiser(*codec.latent_shape, source_dim=codec.condition_dim, codec_digest=codec.digest)
    scheduler = latdiff.make_scheduler("ddpm", betas("cosine"))
    latdiff.LatentTextDiffusionPipeline(denoiser, scheduler, codec=codec).save_pretrained("english")
    for name, labels in (("kind", ["comment", "review"]), ("sentiment", ["negative", "positive"])):
        weight = torch.randn(2, *codec.latent_shape, generator=torch.Generator().manual_seed(0))
        latdiff.AttributeHead.from_weights(labels, weight, torch.zeros(2), name=name, codec_digest=codec.digest).save(
            f"english/heads/{name}")
    assert len(run_python(DOCS / "english.md")["out"].texts) == 4


def test_every_block_of_python_is_run_or_says_why_not():
    others = ("test_star_pipeline.py", "test_pictures.py", "demo/test_serving.py")
    runs = "".join(text_of(ROOT / "tests" / name) for name in (Path(__file__).name, *others))
    for page in PAGES:
        if not all(why for why, _ in blocks(page, "python")):
            assert f'"{page.name}"' in runs, f"{page.name} has Python that nothing runs"


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_lines_that_are_quoted_stand_in_the_code(page):
    for why, code in blocks(page, "python"):
        if why.startswith("code "):
            _, file, name = why.split()
            source = "\n".join(line.strip() for line in definition(ROOT / file, name).splitlines())
            for line in filter(None, map(str.strip, code.splitlines())):
                assert line in source, f"{page.name}: {file}, {name} has no line {line!r}"


def definition(file, name):
    """The source of a function, class or Class.method of a file."""
    node, text = ast.parse(text_of(file)), text_of(file)
    for part in name.split("."):
        node = next(one for one in node.body if getattr(one, "name", "") == part)
    return ast.get_source_segment(text, node)


# Links, nav, reference


@functools.cache
def anchors(page):
    """Those of a page's headings, as mkdocs and GitHub make them."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text_of(page)), re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", heading.lower()).strip()
        found.append(re.sub(r"\s", "-", words))
    return found


@pytest.mark.parametrize("page", ALL, ids=named)
def test_links_and_anchors_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(page))):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{named(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{named(page)}: {link}"


def leaves(entry):
    if isinstance(entry, str):
        return [entry]
    return [leaf for one in (entry.values() if isinstance(entry, dict) else entry) for leaf in leaves(one)]


def test_every_page_is_in_the_nav_once():
    assert sorted(leaves(NAV)) == sorted(map(named, ALL))


def test_the_reference_has_every_public_name():
    named_there = re.findall(r"^::: latdiff\.([\w.]+)$", text_of(DOCS / "api.md"), re.MULTILINE)
    assert {name.rpartition(".")[2] for name in named_there} == {*latdiff.__all__, "Guide"}
    for name in named_there:
        module, _, attribute = f"latdiff.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("term", [
    "latents", "head", "guide", "scale-usual-scale-push", "slot-tv", "floor", "re-noising", "oracle", "codec",
    "backbone", "denoiser", "majority-share", "round-trip", "judge",
])
def test_the_glossary_defines_it(term):
    assert term in anchors(DOCS / "glossary.md")


@pytest.mark.parametrize("name", ["commands.md", "settings.md", "api.md"])
def test_a_page_that_the_site_fills_says_so_in_the_repository_alone(name, monkeypatch):
    monkeypatch.syspath_prepend(DOCS)
    markdown, note = text_of(DOCS / name), "`make docs` fills this page"
    filled = importlib.import_module("hooks").on_page_markdown(markdown, None, None, None)
    assert note in markdown and note not in filled


def test_settings_and_commands_are_made_without_torch():
    code = ("import sys; sys.path.insert(0, 'docs'); import hooks; found = hooks.commands() + hooks.settings(); "
            "assert 'torch' not in sys.modules; print(found)")
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=os.environ).stdout
    assert "## latdiff fit-head" in made and "| `train_denoiser.steps` | `2000` | optimiser steps |" in made
